import json
import re
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file, save_file

from mura_hf import CardError
from mura_hf.common import BUNDLED
from mura_hf.hub import card, render_card
from mura_hf.hub.card_gate import BLOCKS, METADATA
from mura_hf.metrics import plot_evaluation
from mura_hf.phantoms import render_phantom

CARDS = Path(__file__).parents[2] / "model_cards"
CARD = CARDS / "mura-phantom.md"


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(BUNDLED["mura-phantom"], tmp_path / "checkpoint")


@pytest.mark.parametrize("name", BUNDLED)
def test_cards_of_the_package_are_rendered_from_their_records(name):
    assert (BUNDLED[name] / "README.md").read_text() == render_card(BUNDLED[name], name)
    beside = f"../mura_hf/resources/{BUNDLED[name].name}/"  # where the plots lie in the repository
    assert (CARDS / f"{name}.md").read_text() == render_card(BUNDLED[name], name, pictures=beside)


@pytest.mark.parametrize("name", BUNDLED)
def test_pictures_of_the_cards_are_drawn_from_their_records(name, tmp_path):
    report = json.loads((BUNDLED[name] / "evaluation.json").read_text())
    drawn = {path.name for path in plot_evaluation(report, tmp_path)}
    assert {path.name for path in BUNDLED[name].glob("*.png")} == drawn
    for place in (CARDS / f"{name}.md", BUNDLED[name] / "README.md"):
        shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", place.read_text())
        assert {Path(file).name for file in shown} == drawn
        assert all((place.parent / file).is_file() for file in shown)


def test_every_figure_of_a_table_stands_in_a_record():
    """Every number with three decimals; those of intervals too."""
    for name, folder in BUNDLED.items():
        numbers = set()

        def collect(value, numbers=numbers):
            if isinstance(value, dict | list):
                for one in value.values() if isinstance(value, dict) else value:
                    collect(one)
            elif isinstance(value, float):
                numbers.update({f"{value:.3f}", f"{abs(value):.3f}"})

        for record in ("config", "training", "evaluation"):
            collect(json.loads((folder / f"{record}.json").read_text()))
        config = json.loads((folder / "config.json").read_text())
        members = config.get("members") or {}
        numbers |= {f"{1 / max(1, len(members)):.3f}"} if members and not config["member_weights"] else set()
        text = (folder / "README.md").read_text().partition("---\n\n")[2]
        shown = re.findall(r"(?<![\d.])\d\.\d{3}(?![\d.])", text)
        assert len(shown) > 100
        assert set(shown) <= numbers, name


BLOCK_NEEDS = [(block.title, path) for block in (METADATA, *BLOCKS) for path in block.needs]


@pytest.mark.parametrize(("title", "path"), BLOCK_NEEDS)
@pytest.mark.parametrize("empty", [True, False])
def test_the_gate_names_the_block_that_would_be_empty(title, path, empty, folder):
    record, *keys = path.split(".")
    file = folder / f"{record}.json"
    values = json.loads(file.read_text())
    inner = values
    for key in keys[:-1]:
        inner = inner[key]
    if empty:
        inner[keys[-1]] = {}
    else:
        del inner[keys[-1]]
    file.write_text(json.dumps(values))
    first = next(block for block, needed in BLOCK_NEEDS if path == needed or needed.startswith(f"{path}."))
    with pytest.raises(CardError, match=f'the block "{first}" of the card of .* would be empty: {record}.json'):
        render_card(folder, "mine")
    assert title in [block for block, needed in BLOCK_NEEDS if needed == path]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_every_block_is_on_the_card_and_an_empty_one_is_an_error(block, folder, monkeypatch, tmp_path):
    text = render_card(folder, "mine")
    if block is not BLOCKS[0]:
        assert text.count(f"\n## {block.title}\n\n") == 1
    templates = shutil.copytree(card._TEMPLATES, tmp_path / "templates")
    (templates / f"{block.name}.md").write_text("{# nothing #}\n")
    monkeypatch.setattr(card, "_TEMPLATES", templates)
    with pytest.raises(CardError, match=f'the block "{block.title}" of the card of .* is empty'):
        render_card(folder, "mine")


@pytest.mark.parametrize("name", BUNDLED)
def test_what_it_says_to_run_runs(name, forks, tmp_path):
    text = (BUNDLED[name] / "README.md").read_text()
    snippets = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert snippets
    for file in re.findall(r'"([\w.]+\.png)"', "".join(snippets)):
        Image.fromarray(render_phantom(9, body_part="wrist", finding="displaced_fracture").pixels).save(
            tmp_path / file
        )
    for snippet in snippets:
        done = forks.run("-c", snippet, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-2000:]
        assert re.match(r"(ab)?normal 0\.\d+", done.stdout)


def test_every_card_is_of_a_checkpoint_of_the_package():
    assert {path.stem for path in CARDS.iterdir()} == set(BUNDLED)


def test_the_card_of_real_films_credits_them_and_says_what_it_is_not():
    text = (CARDS / "mura-film.md").read_text()
    data = ModelCard(text).data
    assert (data.license, data.base_model) == ("cc-by-4.0", None)  # mura-phantom has no name on the Hub
    for sentence in (
        "Not a medical device",
        "Abedeen I.",
        "10.1038/s41597-023-02432-4",
        "https://creativecommons.org/licenses/by/4.0/",
        "the images were resized",
        "does not exclude a fracture",
        "study of the upper limb",
        "Its stated use is the upper limb",
        "names no patients",
        "--recipe films",
    ):
        assert sentence in text.replace("\n", " ")
    figures = json.loads((BUNDLED["mura-film"] / "evaluation.json").read_text())["region"]["upper limb"]["figures"]
    assert f"| upper limb | {figures['n']} | {figures['n_abnormal']} | {figures['auroc']:.3f} (" in text


def test_metadata_can_be_read_by_the_hub():
    data = ModelCard(CARD.read_text()).data
    assert (data.license, data.library_name, data.pipeline_tag) == (
        "apache-2.0",
        "transformers",
        "image-classification",
    )
    figures = json.loads((BUNDLED["mura-phantom"] / "evaluation.json").read_text())["study"]["overall"]["figures"]
    results = {result.metric_type: result.metric_value for result in data.eval_results}
    assert results["auroc"] == pytest.approx(figures["auroc"], abs=1e-4)
    assert results["kappa"] == pytest.approx(figures["kappa"], abs=1e-4)


def test_says_what_it_must():
    text = CARD.read_text()
    for sentence in (
        "Not a medical device",
        "Trained on synthetic phantoms",
        "does not exclude a fracture",
        "make_phantoms.py",
    ):
        assert sentence in text


_CUT = ("body_parts", "split_digest", "studies", "views")


def test_weights_from_mura_are_not_offered_as_apache(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "trained_on_phantoms": False}))
    training = json.loads((folder / "training.json").read_text())
    training["data"] = {"name": "MURA v1.1", "key": "mura", **{name: training["data"][name] for name in _CUT}}
    del training["base"], training["remarks"]
    (folder / "training.json").write_text(json.dumps(training))
    evaluation = json.loads((folder / "evaluation.json").read_text())
    (folder / "evaluation.json").write_text(json.dumps({**evaluation, "data": {"key": "mura"}, "shortcuts": {}}))
    text = render_card(folder, "mine")
    assert ModelCard(text).data.license == "other"
    assert "research agreement" in text
    assert "synthetic" not in text


def test_another_share_of_a_finding_in_train_is_said(folder):
    training = json.loads((folder / "training.json").read_text())
    training["data"]["made_with"]["train_shares"] = {"dislocation": 0.25}
    (folder / "training.json").write_text(json.dumps(training))
    text = render_card(folder, "mine")
    assert "25 % of the abnormal studies of `train` (and so of `dev` and `calib`) show dislocation" in text
    assert " --train_shares dislocation=0.25" in text


@pytest.mark.parametrize("record", ["config.json", "preprocessor_config.json", "training.json", "evaluation.json"])
def test_a_missing_record_is_named(record, folder):
    (folder / record).unlink()
    with pytest.raises(CardError, match=record):
        render_card(folder, "mine")


def test_a_card_is_about_valid(folder):
    report = json.loads((folder / "evaluation.json").read_text())
    (folder / "evaluation.json").write_text(json.dumps({**report, "split": "dev"}))
    with pytest.raises(CardError, match="about 'dev'"):
        render_card(folder, "mine")


def test_a_missing_value_is_an_error(folder):
    report = json.loads((folder / "evaluation.json").read_text())
    del report["study"]
    (folder / "evaluation.json").write_text(json.dumps(report))
    with pytest.raises(CardError, match="study"):
        render_card(folder, "mine")


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("mura-phantom", 'from_pretrained("path/to/the/folder/of/this/card")'),  # a copy, not the package's own
        ("somebody/mura-mine", 'from_pretrained("somebody/mura-mine")'),
        ("mura-mine", 'from_pretrained("path/to/the/folder/of/this/card")'),
    ],
)
def test_its_example_loads_what_it_is_about(name, call, folder):
    assert f"StudyPredictor.{call}" in render_card(folder, name)


def test_only_what_comes_with_the_package_says_so():
    assert 'from_pretrained("mura-phantom")  # comes with the package' in CARD.read_text()


def test_figures_from_before_the_calibration_are_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "study_slope": 3.5}))
    with pytest.raises(CardError, match="calibrated after"):
        render_card(folder, "mine")


def test_figures_of_other_weights_or_of_a_threshold_of_ones_own_are_refused(folder):
    report = json.loads((folder / "evaluation.json").read_text())
    (folder / "evaluation.json").write_text(json.dumps({**report, "threshold": 0.3}))
    with pytest.raises(CardError, match=r"made with --threshold 0\.3"):
        render_card(folder, "mine")
    (folder / "evaluation.json").write_text(json.dumps(report))
    weights = load_file(folder / "model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, folder / "model.safetensors")
    with pytest.raises(CardError, match="is of other weights"):
        render_card(folder, "mine")


@pytest.mark.parametrize(
    ("path", "nothing"),
    [
        ("evaluation.explanations", {"none": " "}),
        ("evaluation.curves.roc", None),
        ("evaluation.study.overall.figures.auroc", float("nan")),
        ("evaluation.threshold_chosen", " "),
        ("training.data.split_digest", "  "),
        ("training.data.studies", {"train": None}),
        ("training.versions", {"torch": ""}),
    ],
)
def test_what_says_nothing_does_not_fill_a_block(path, nothing, folder):
    record, *keys = path.split(".")
    file = folder / f"{record}.json"
    values = json.loads(file.read_text())
    inner = values
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = nothing
    file.write_text(json.dumps(values))
    with pytest.raises(CardError, match=f"would be empty: {record}.json has no {'.'.join(keys)};"):
        render_card(folder, "mine")


def test_what_is_to_be_said_about_a_run_is_said(folder):
    training = json.loads((folder / "training.json").read_text())
    training["remarks"] = ["One disk was swapped halfway."]
    (folder / "training.json").write_text(json.dumps(training))
    text = render_card(folder, "mine")
    assert "One disk was swapped halfway." in text
    assert "bit for bit on the same" not in text


def test_a_base_is_named_and_its_licence_stays(folder):
    training = json.loads((folder / "training.json").read_text())
    atlas = {"key": "fracatlas", "name": "FracAtlas"}
    base = {"name": "somebody/mura-atlas", "revision": "a" * 40, "sha256": "b" * 64, "heads": True}
    recipe = {**training["recipe"], "init_from": "somebody/mura-atlas", "init_heads": True}

    def render(**changes):
        new = {**training, "recipe": recipe, "base": {**base, "trained_on": [atlas], **changes}}
        (folder / "training.json").write_text(json.dumps(new))
        return render_card(folder, "mine")

    data = ModelCard(render()).data
    assert (data.base_model, data.base_model_relation, data.license) == (
        "somebody/mura-atlas",
        "finetune",
        "cc-by-4.0",
    )
    assert "The checkpoint that it started from: Trained on FracAtlas by" in render()
    assert "--init_from somebody/mura-atlas" in render()
    assert "starting from `somebody/mura-atlas`" in render()
    assert ModelCard(render(trained_on=[{"key": "mura", "name": "MURA v1.1"}])).data.license == "other"
    unnamed = ModelCard(render(name="my own, new"))
    assert unnamed.data.base_model is None
    assert "`my own, new`" in unnamed.text
