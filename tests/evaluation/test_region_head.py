"""The head for regions of the body: fitted to frozen codes, written into a checkpoint, predicted and measured."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset, Image
from transformers import AutoModelForImageClassification

from mura_hf import CheckpointError, DatasetError, MuraEnsembleForImageClassification, StudyPredictor
from mura_hf.common import BODY_PARTS
from mura_hf.evaluation import fit_ood_detector, fit_region_head, region_head
from mura_hf.evaluation.region_head import measure_region_head, single_regions
from mura_hf.hub import export_checkpoint
from mura_hf.models.golden_mura import digest_weights
from mura_hf.retrieval import OODResult
from mura_hf.retrieval.codes import digest_encoder

from ..checkpoints import make_checkpoint, make_model

REGIONS = ["hand", "leg", "shoulder"]


def with_regions(rows):
    """Phantoms of the humerus pass for legs; every ninth row shows two regions or an unknown one."""
    words = {"shoulder": "shoulder", "humerus": "leg"}
    regions = [words.get(BODY_PARTS[part], "hand") for part in rows["body_part"]]
    regions[::9] = [f"{name}+hip" if name == "leg" else "unknown" for name in regions[::9]]
    return rows.add_column("region", regions)


@pytest.fixture
def folder(datasets, tmp_path, monkeypatch):
    """A checkpoint with a detector and a training record."""
    monkeypatch.setattr("mura_hf.retrieval.ood_detection.MIN_CALIB_VIEWS", 10)
    place = make_checkpoint(tmp_path / "checkpoint", make_model())
    (place / "training.json").write_text("{}")
    fit_ood_detector(place, datasets["train"], datasets["calib"], cpu=True)
    return place


def test_a_head_changes_nothing_else(folder, datasets, rows):
    film = rows.cast_column("image", Image(decode=False))[0]["image"]["path"]
    before = StudyPredictor.from_pretrained(folder, device="cpu")
    digest, train = digest_weights(folder), with_regions(datasets["train"])
    record = fit_region_head(folder, train, cpu=True)
    assert list(record["regions"]) == single_regions(train) == REGIONS
    assert sum(record["regions"].values()) == sum(name in REGIONS for name in train["region"])
    assert json.loads((folder / "training.json").read_text())["region_head"] == record
    first = (folder / "model.safetensors").read_bytes()
    fit_region_head(folder, train, cpu=True)  # replaces the first one
    assert (folder / "model.safetensors").read_bytes() == first
    assert digest_weights(folder) != digest

    after = StudyPredictor.from_pretrained(folder, device="cpu")
    assert after.warnings == before.warnings  # the detector fits
    encoders = [digest_encoder(predictor.model, predictor.processor) for predictor in (before, after)]
    assert encoders[0] == encoders[1]  # so does an index
    one, other = before(film), after(film)
    assert (one.region, one.region_probabilities) == (None, {})
    same = {item.name for item in dataclasses.fields(one)} - {"views", "codes", "region", "region_probabilities"}
    for name in same:
        assert getattr(one, name) == getattr(other, name), name
    assert np.array_equal(one.codes, other.codes)
    assert np.array_equal(one.views[0].heatmap, other.views[0].heatmap)


def test_regions_in_words(folder, datasets, rows):
    fit_region_head(folder, with_regions(datasets["train"]), cpu=True)
    predictor = StudyPredictor.from_pretrained(folder, device="cpu")
    file = rows.cast_column("image", Image(decode=False))[0]["image"]["path"]
    study, found = predictor(file), OODResult(False, 99.0, [False])
    assert study.region == max(study.region_probabilities, key=study.region_probabilities.get)
    assert json.loads(study.to_json())["region_probabilities"] == study.region_probabilities
    assert sum(study.region_probabilities.values()) == pytest.approx(1)
    sure = {"in_distribution": True, "region_probabilities": {"hand": 0.9, "leg": 0.9}}
    hand, leg = (dataclasses.replace(study, region=name, **sure) for name in ("hand", "leg"))
    assert "Probably hand or arm (probability 0.900)." in repr(hand)
    assert hand.scope_note is None
    assert f"Probably leg or foot (probability 0.900). {leg.scope_note}" in repr(leg)
    assert leg.scope_note == "It seems to show a region that the checkpoint is not for: leg or foot."
    assert dataclasses.replace(leg, in_distribution=None).scope_note is None
    unsure = dataclasses.replace(leg, region_probabilities={"hand": 0.4, "leg": 0.6})
    assert (unsure.scope_note, unsure.region_words) == (None, None)
    assert "Probably" not in repr(unsure)
    for like_outside in (False, True):  # a head says nothing about a picture of anything
        result = dataclasses.replace(found, like_outside=like_outside)
        predictor.ood_detector = SimpleNamespace(detect=lambda codes, result=result: result)
        assert (predictor(file).region is not None) == like_outside


def test_measures_views_with_one_region():
    known, found = ["a", "b", "a+b", None, "a", "c"], np.asarray([0, 1, 1, 0, 1, 0])
    rows = Dataset.from_dict({"region": known, "patient_id": list("123456")})
    parts = [(rows.select(range(2)), SimpleNamespace(predicted_regions=found[:2]))]
    parts.append((rows.select(range(2, 6)), SimpleNamespace(predicted_regions=found[2:])))
    measured = measure_region_head(["a", "b"], parts)
    assert measured["confusion"] == [[1, 1], [0, 1]]
    assert (measured["n"], measured["mean"]) == (3, pytest.approx(2 / 3))
    assert measure_region_head(["c", "d"], parts[:1]) is measure_region_head(None, parts) is None


@pytest.mark.parametrize("n_classes", [2, 3])
def test_is_a_logistic_regression(n_classes):
    """The gradient of cross entropy and penalty is 0."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(n_classes, (200,), generator=generator)
    codes = torch.randn(200, 8, generator=generator).double() * 3 + targets[:, None] * torch.arange(8) / 5
    weight, bias = region_head._fit(codes, targets, n_classes)
    deviation = codes.std(0) + 0.01 * codes.std(0).mean()
    standardized, bias = (codes - codes.mean(0)) / deviation, (bias + weight @ codes.mean(0)).requires_grad_()
    weight = (weight * deviation).requires_grad_()
    loss = torch.nn.functional.cross_entropy(standardized @ weight.T + bias, targets)
    (loss + region_head._PENALTY * weight.square().sum()).backward()
    assert weight.abs().max() > 0.1
    for gradient in (weight.grad, bias.grad):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-5)


def test_exported_checkpoints_and_ensembles_have_the_head(folder, datasets, tmp_path):
    fit_region_head(folder, with_regions(datasets["train"]), cpu=True)
    exported = export_checkpoint(folder, tmp_path / "exported")
    model = AutoModelForImageClassification.from_pretrained(exported).eval()
    views = torch.randn(2, 2, 3, 64, 64)
    with torch.no_grad():
        expected = model(views).region_logits
        members = {"one": model, "two": model, "blind": make_model(seed=3)}
        ensemble = MuraEnsembleForImageClassification.from_members(members)
        torch.testing.assert_close(ensemble(views).region_logits, expected)
    assert ensemble.config.regions == REGIONS
    place = make_checkpoint(tmp_path / "ensemble", ensemble)
    assert StudyPredictor.from_pretrained(place, device="cpu")(np.eye(64)).region in REGIONS
    with pytest.raises(CheckpointError, match="fit the head to each member"):
        fit_region_head(place, with_regions(datasets["train"]), cpu=True)


def test_regions_are_those_of_the_chosen_views(folder, datasets, monkeypatch):
    rows = datasets["train"]
    monkeypatch.setattr(region_head, "MAX_VIEWS", len(rows) // 2)
    regions = ["leg"] * 5 + ["hand"] * 20 + ["shoulder"] * (len(rows) - 25)
    train = rows.add_column("region", regions)
    assert single_regions(train) == REGIONS
    fitted = fit_region_head(folder, train, cpu=True)["regions"]
    assert list(fitted) == ["hand", "shoulder"]
    model = AutoModelForImageClassification.from_pretrained(folder)
    assert (model.config.regions, len(model.region_classifier.weight)) == (list(fitted), 2)
    train = rows.add_column("region", [name.replace("shoulder", "hand") for name in regions])
    with pytest.raises(DatasetError, match="but has these of hand; use"):
        fit_region_head(folder, train, cpu=True)


def test_data_without_regions(folder, datasets):
    with pytest.raises(DatasetError, match="but has these of none; use data with a column region"):
        fit_region_head(folder, datasets["train"], cpu=True)
