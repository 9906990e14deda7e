"""The tab "Models", as a visitor uses it."""

import re

import pytest
from playwright.sync_api import expect

from mura_hf import StudyPredictor
from mura_hf.demo.examples import load_examples
from tests.inference.external import save_external

from .browsing import clear, upload
from .running import WAIT

pytestmark = pytest.mark.browser

_NAME = "Name, Hub name or local folder"


def _load(page, name, label=""):
    page.get_by_role("combobox", name=_NAME).fill(str(name))
    page.get_by_label("Abnormal label").fill(label)
    page.get_by_role("button", name="Load the model").click()


def test_models_their_cards_and_errors(page, checkpoint, tmp_path):
    page.get_by_role("tab", name="Models").click()
    page.get_by_role("button", name="Card of the model in use").click()
    card, facts, state = (page.locator(f"#model-{name}") for name in ("card", "facts", "state"))
    expect(card.locator("h1")).to_have_text("mura-film")
    assert "license:" not in card.inner_text()
    assert card.locator("img").evaluate_all("images => images.every(image => image.naturalWidth > 100)")
    expect(card.locator("img")).to_have_count(4)
    page.get_by_role("combobox", name=_NAME).fill("mura-phantom")
    page.get_by_role("combobox", name=_NAME).press("Enter")  # like the button
    expect(state).to_contain_text("mura-phantom", timeout=WAIT)
    expect(card.locator("h1")).to_have_text("mura-phantom", timeout=WAIT)
    predictor = StudyPredictor.from_pretrained("mura-phantom")
    found = predictor.measured_performance.get("paper", 0.5, None)
    expect(facts).to_contain_text(predictor.weights_sha256[:12])
    expect(facts).to_contain_text(f"{found.n_flagged_abnormal} of {found.n_abnormal}")
    expect(facts).to_contain_text(f"{sum(weights.numel() for weights in predictor.model.parameters()):,}")

    _load(page, "nobody/nothing")
    expect(state).to_contain_text("Not loaded.", timeout=WAIT)
    expect(state).to_contain_text("The previous model stays in use.")
    expect(card.locator("h1")).to_have_text("mura-phantom")
    _load(page, checkpoint)
    expect(state).to_contain_text("resnet10t", timeout=WAIT)
    text = page.locator("#model-card-text")
    expect(text).to_contain_text("has no model card")
    expect(facts).to_contain_text("Not measured for these weights.")
    page.get_by_role("tab", name="Read a study").click()
    expect(page.locator("#answer .answer")).to_contain_text(f"folder: {checkpoint.name}", timeout=WAIT)

    # The card of another author is text and loads nothing; the fixture `page` checks all requests.
    folder = save_external(tmp_path / "vit", "vit", labels=("LABEL_0", "LABEL_1"))
    (folder / "README.md").write_text(
        "---\nlicense: mit\n---\n# Mine\n![x](http://127.0.0.2/x.png)\n<img src='http://127.0.0.2/y.png'><script>1</script>"
    )
    page.get_by_role("tab", name="Models").click()
    _load(page, folder)
    expect(state).to_contain_text("Abnormal label", timeout=WAIT)
    _load(page, folder, "LABEL_1")
    expect(text).to_contain_text("![x](http://127.0.0.2/x.png)", timeout=WAIT)
    expect(text).to_contain_text("<img src=")
    assert text.locator("img, a, script").count() == 0
    expect(card.locator("img")).to_have_count(0)
    assert "license" not in text.inner_text()


def test_two_models_are_compared_on_the_open_study(page):
    upload(page, load_examples("worklist")[10].files[0])
    expect(page.locator("#views .name").first).to_contain_text("phantom11_wrist_1.png", timeout=WAIT)
    page.get_by_role("tab", name="Models").click()
    compared = page.locator("#compared .compared")
    for label, name in (("Checkpoint A", "mura-phantom"), ("Checkpoint B", "mura-film")):
        page.get_by_role("combobox", name=label).fill(name)
        page.get_by_role("combobox", name=label).press("Enter")
    page.get_by_role("button", name="Compare").click()
    expect(compared.locator(".side")).to_have_count(2, timeout=WAIT)
    expect(compared.locator(".side").first).to_contain_text(re.compile(r"P\(abnormal\) (above |below )?0\.\d\d"))
    expect(compared.locator(".side").first).to_contain_text("bundled: mura-phantom")
    expect(compared.locator(".side").last).to_contain_text("Not answered")  # a phantom is not a film
    expect(compared.locator("tbody tr")).to_have_count(2)
    expect(compared.locator("tbody tr").last).to_contain_text("phantom11_wrist_1.png")
    expect(compared.locator("img.heat")).to_have_count(1)
    page.set_viewport_size({"width": 700, "height": 900})
    boxes = [compared.locator(".side").nth(place).bounding_box() for place in range(2)]
    assert boxes[1]["y"] > boxes[0]["y"] + boxes[0]["height"]
    page.get_by_role("combobox", name="Checkpoint B").fill("nobody/nothing")
    page.get_by_role("combobox", name="Checkpoint B").press("Enter")
    page.get_by_role("button", name="Compare").click()
    expect(compared.locator(".side").last.locator(".notice")).to_contain_text("nobody/nothing", timeout=WAIT)
    expect(compared.locator(".side").first).to_contain_text("P(abnormal)")
    page.get_by_role("tab", name="Read a study").click()
    clear(page)
    page.get_by_role("tab", name="Models").click()
    expect(compared).to_have_count(0)  # it was about the closed study
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("#compared")).to_contain_text("Open a study first", timeout=WAIT)
