"""The tab "Models", as a visitor uses it."""

import re

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from mura_hf import StudyPredictor
from mura_hf.phantoms import render_phantom
from tests.inference.strangers import save_stranger

from .browsing import WAIT, clear, upload

_NAME = "Name, Hub name or local folder"


@pytest.fixture(scope="module")
def view(tmp_path_factory):
    """A view of an abnormal wrist, of 16 bits."""
    file = tmp_path_factory.mktemp("views") / "wrist.png"
    pixels = render_phantom(612_345, body_part="wrist", finding="displaced_fracture").pixels
    Image.fromarray(pixels.astype(np.uint16) * 16).save(file)
    return str(file)


@pytest.fixture
def models(page):
    page.get_by_role("tab", name="Models").click()
    page.get_by_role("button", name="Card of the model in use").click()
    return page


def _load(page, name, label=""):
    page.get_by_role("combobox", name=_NAME).fill(str(name))
    page.get_by_label("Abnormal label").fill(label)
    page.get_by_role("button", name="Load the model").click()


def test_the_card_and_the_facts_are_those_of_the_model_in_use(models):
    card, facts = models.locator("#model-card"), models.locator("#model-facts")
    expect(card.locator("h1")).to_have_text("mura-film")
    assert "license:" not in card.inner_text()
    assert card.locator("img").evaluate_all("images => images.every(image => image.naturalWidth > 100)")
    expect(card.locator("img")).to_have_count(4)
    models.get_by_role("combobox", name=_NAME).fill("mura-phantom")
    models.get_by_role("combobox", name=_NAME).press("Enter")  # as the button does
    expect(models.locator("#model-state")).to_contain_text("mura-phantom", timeout=WAIT)
    expect(card.locator("h1")).to_have_text("mura-phantom", timeout=WAIT)
    predictor = StudyPredictor.from_pretrained("mura-phantom")
    found = predictor.measured_performance.get("paper", 0.5, None)
    expect(facts).to_contain_text(predictor.weights_sha256[:12])
    expect(facts).to_contain_text(f"{found.n_flagged_abnormal} of {found.n_abnormal}")
    expect(facts).to_contain_text(f"{sum(weights.numel() for weights in predictor.model.parameters()):,}")


def test_trouble_is_said_in_words_and_the_model_in_use_stays(models, checkpoint):
    state = models.locator("#model-state")
    _load(models, "nobody/nothing")
    expect(state).to_contain_text("Not loaded.", timeout=WAIT)
    expect(state).to_contain_text("The model that was in use stays.")
    expect(models.locator("#model-card h1")).to_have_text("mura-film")
    _load(models, checkpoint)
    expect(state).to_contain_text("resnet10t", timeout=WAIT)
    expect(models.locator("#model-card-text")).to_contain_text("came without a card")
    expect(models.locator("#model-facts")).to_contain_text("Not measured for these weights.")
    models.get_by_role("tab", name="Read a study").click()
    expect(models.locator("#answer .answer")).to_contain_text(f"folder: {checkpoint.name}", timeout=WAIT)


def test_a_strangers_card_is_text_and_loads_nothing(models, view, tmp_path):
    folder = save_stranger(tmp_path / "vit", "vit", labels=("LABEL_0", "LABEL_1"))
    (folder / "README.md").write_text(
        "---\nlicense: mit\n---\n# Mine\n![x](http://127.0.0.2/x.png)\n<img src='http://127.0.0.2/y.png'><script>1</script>"
    )
    _load(models, folder)
    expect(models.locator("#model-state")).to_contain_text("which of them means abnormal?", timeout=WAIT)
    _load(models, folder, "LABEL_1")
    text = models.locator("#model-card-text")
    expect(text).to_contain_text("![x](http://127.0.0.2/x.png)", timeout=WAIT)
    expect(text).to_contain_text("<img src=")
    assert text.locator("img, a, script").count() == 0
    expect(models.locator("#model-card img")).to_have_count(0)
    assert "license" not in text.inner_text()  # and the page's fixture sees that nobody else was asked


def test_two_are_compared_on_the_open_study(models, view):
    models.get_by_role("tab", name="Read a study").click()
    upload(models, view)
    expect(models.locator("#views .film").first).to_be_visible(timeout=WAIT)
    models.get_by_role("tab", name="Models").click()
    for label, name in (("Checkpoint A", "mura-phantom"), ("Checkpoint B", "mura-film")):
        models.get_by_role("combobox", name=label).fill(name)
        models.get_by_role("combobox", name=label).press("Enter")
    models.get_by_role("button", name="Compare").click()
    compared = models.locator("#compared .compared")
    expect(compared.locator(".side")).to_have_count(2, timeout=WAIT)
    expect(compared.locator(".side").first).to_contain_text(re.compile(r"P\(abnormal\) (above |below )?0\.\d\d"))
    expect(compared.locator(".side").first).to_contain_text("bundled: mura-phantom")
    expect(compared.locator(".side").last).to_contain_text("Not answered")  # a phantom is no film
    expect(compared.locator("tbody tr")).to_have_count(2)
    expect(compared.locator("tbody tr").last).to_contain_text("wrist.png")
    expect(compared.locator("img.heat")).to_have_count(1)
    models.set_viewport_size({"width": 700, "height": 900})
    boxes = [compared.locator(".side").nth(place).bounding_box() for place in range(2)]
    assert boxes[1]["y"] > boxes[0]["y"] + boxes[0]["height"]
    models.get_by_role("combobox", name="Checkpoint B").fill("nobody/nothing")
    models.get_by_role("combobox", name="Checkpoint B").press("Enter")
    models.get_by_role("button", name="Compare").click()
    expect(compared.locator(".side").last.locator(".notice")).to_contain_text("nobody/nothing", timeout=WAIT)
    expect(compared.locator(".side").first).to_contain_text("P(abnormal)")


def test_without_a_study_there_is_nothing_to_compare(page, view):
    upload(page, view)
    expect(page.locator("#views .name").first).to_contain_text("wrist.png", timeout=WAIT)
    clear(page)
    page.get_by_role("tab", name="Models").click()
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("#compared")).to_contain_text("Open a study first", timeout=WAIT)
