"""`StudyPredictor` with a checkpoint of every family."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from mura_hf import CheckpointError, MuraImageProcessor, StudyPredictor
from mura_hf.explain import grad_cam
from mura_hf.models import BODY_PARTS, CLASSIFIERS
from tests.conftest import make_checkpoint, make_model
from tests.inference.threads import check_threads

POOLINGS = {"mura_ensemble": "ensemble", "mura_specialized": "specialized"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("families")
    return {family: make_checkpoint(root / family, make_model(family)) for family in CLASSIFIERS}


def _pixel_values(folder, files):
    processor = MuraImageProcessor.from_pretrained(folder)
    return processor([Image.open(file) for file in files], return_tensors="pt")["pixel_values"]


@pytest.mark.parametrize("family", list(CLASSIFIERS))
def test_answers_are_those_of_the_model(family, folders, phantom_files):
    study = StudyPredictor.from_pretrained(folders[family], device="cpu")(phantom_files)
    model, pixel_values = make_model(family), _pixel_values(folders[family], phantom_files)
    with torch.no_grad():
        expected = model(pixel_values[None])
        parts = [
            expected.study_logits.exp()[0, 1],
            expected.view_logits.softmax(-1)[0, :, 1],
            expected.view_weights[0],
        ]
    assert study.probability == pytest.approx(float(parts[0]), abs=1e-5)
    np.testing.assert_allclose([view.probability for view in study.views], parts[1], atol=1e-5)
    np.testing.assert_allclose([view.weight for view in study.views], parts[2], atol=1e-5)
    assert study.pooling == POOLINGS.get(family, "mean")
    assert (study.body_part is not None) == (family == "mura_specialized")
    small = grad_cam(model, output=expected.views, size=(64, 64)).numpy()
    restore = MuraImageProcessor.from_pretrained(folders[family]).restore_map
    for view, heat in zip(study.views, small, strict=True):
        assert view.heatmap.shape == (view.height, view.width)
        assert view.heatmap.max() == pytest.approx(1, abs=1e-5)
        restored = restore(heat, view.height, view.width)
        np.testing.assert_allclose(view.heatmap, restored / restored.max(), atol=0.02)
        assert (view.box is not None) == view.flagged
    values = json.loads(study.to_json())
    assert (values["probability"], values["pooling"]) == (study.probability, study.pooling)


@pytest.mark.parametrize("family", list(CLASSIFIERS))
def test_half_precision_answers_alike(family, folders, phantom_files):
    exact = StudyPredictor.from_pretrained(folders[family], device="cpu")(phantom_files[:1])
    predictor = StudyPredictor.from_pretrained(folders[family], device="cpu", dtype="bfloat16")
    assert predictor.model.dtype == torch.bfloat16
    study = predictor(phantom_files[:1])
    assert study.probability == pytest.approx(exact.probability, abs=0.1)
    assert study.views[0].heatmap.max() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("pooling", ["mean", "max", "noisy_or", "gated_attention"])
def test_every_pooling_names_itself_and_types_of_finding_have_probabilities(pooling, phantom_files, tmp_path):
    model = make_model(study_pooling=pooling, finding_types=["fracture", "hardware", "other"])
    folder = make_checkpoint(tmp_path / pooling, model)
    study = StudyPredictor.from_pretrained(folder, device="cpu")(phantom_files)
    with torch.no_grad():
        expected = model(_pixel_values(folder, phantom_files)[None])
    assert study.pooling == pooling
    assert study.probability == pytest.approx(float(expected.study_logits[0, 1].exp()), abs=1e-5)
    assert list(study.finding_probabilities) == ["fracture", "hardware", "other"]
    np.testing.assert_allclose(list(study.finding_probabilities.values()), expected.finding_logits.exp()[0], atol=1e-5)
    assert sum(study.finding_probabilities.values()) == pytest.approx(1)


class TestByPart:
    def test_a_given_part_chooses_the_model(self, folders, phantom_files):
        predictor = StudyPredictor.from_pretrained(folders["mura_specialized"], device="cpu")
        pixel_values = _pixel_values(folders["mura_specialized"], phantom_files)
        for part in ("wrist", "elbow"):
            study = predictor(phantom_files, body_part=part)
            with torch.no_grad():
                expected = make_model("mura_specialized").members[part](pixel_values[None]).study_logits[0, 1].exp()
            assert study.probability == pytest.approx(float(expected), abs=1e-5)
            assert (study.body_part, study.body_part_given, study.body_part_probabilities) == (part, True, {})

    def test_without_a_router_the_part_must_be_given(self, phantom_files, tmp_path):
        model = CLASSIFIERS["mura_specialized"].from_members({"wrist": make_model()})
        predictor = StudyPredictor.from_pretrained(make_checkpoint(tmp_path / "wrist", model), device="cpu")
        with pytest.raises(ValueError, match="no router that predicts the body part: give body_part"):
            predictor(phantom_files)
        with pytest.raises(ValueError, match="no model for body part hand; it has wrist"):
            predictor(phantom_files, body_part="hand")
        assert 0 < predictor(phantom_files, body_part="wrist").probability < 1

    def test_a_router_may_name_a_part_without_a_model(self, phantom_files, tmp_path):
        router = make_model(body_part_head=True)
        with torch.no_grad():
            router.body_part_classifier.bias[BODY_PARTS.index("hand")] = 100.0
        model = CLASSIFIERS["mura_specialized"].from_members({"wrist": make_model()}, router=router)
        predictor = StudyPredictor.from_pretrained(make_checkpoint(tmp_path / "routed", model), device="cpu")
        with pytest.raises(ValueError, match="no model for body part hand"):
            predictor(phantom_files)
        assert 0 < predictor(phantom_files, body_part="wrist").probability < 1

    def test_a_damaged_router_is_found_when_it_is_loaded(self, tmp_path):
        router = make_model(body_part_head=True)
        with torch.no_grad():
            router.body_part_classifier.bias.fill_(float("nan"))
        model = CLASSIFIERS["mura_specialized"].from_members({"wrist": make_model()}, router=router)
        with pytest.raises(CheckpointError, match="weights are damaged"):
            StudyPredictor.from_pretrained(make_checkpoint(tmp_path / "damaged", model), device="cpu")


def test_fusenet_at_full_resolution_is_fed_larger_pictures(phantom_files, tmp_path):
    model = make_model("mura_fusenet", full_resolution=True)
    folder, coarse = (make_checkpoint(tmp_path / name, model) for name in ("fine", "coarse"))
    MuraImageProcessor(size={"height": 128, "width": 128}).save_pretrained(folder)
    study = StudyPredictor.from_pretrained(folder, device="cpu")(phantom_files)
    with torch.no_grad():
        expected = model(_pixel_values(folder, phantom_files)[None]).study_logits[0, 1].exp()
    assert study.probability == pytest.approx(float(expected), abs=1e-5)
    assert study.probability != StudyPredictor.from_pretrained(coarse, device="cpu")(phantom_files).probability


@pytest.mark.parametrize("method", [None, "grad_cam"])
def test_sixteen_threads_ask_an_ensemble_with_a_member_on_tokens(phantom_files, tmp_path, method):
    vit = make_model(backbone="vit_tiny_patch16_224", backbone_kwargs={"depth": 3, "embed_dim": 48})
    model = CLASSIFIERS["mura_ensemble"].from_members({"cnn": make_model(), "vit": vit})
    predictor = StudyPredictor.from_pretrained(make_checkpoint(tmp_path / "both", model), device="cpu")
    check_threads(predictor, phantom_files, method=method)
