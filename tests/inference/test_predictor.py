import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mura_hf import (
    CheckpointError,
    MuraForImageClassification,
    MuraImageProcessor,
    Radiograph,
    RadiographError,
    StudyPredictor,
    read_radiograph,
)
from mura_hf.common import DEFAULT
from mura_hf.inference import PHANTOM_WARNING
from mura_hf.inference.prediction import find_band
from mura_hf.models import BODY_PARTS
from tests.conftest import make_checkpoint
from tests.inference.threads import check_threads


def test_a_study_is_the_mean_of_its_views(predictor, checkpoint, phantom_files):
    study = predictor(phantom_files)
    model = MuraForImageClassification.from_pretrained(checkpoint)
    processor = MuraImageProcessor.from_pretrained(checkpoint)
    with torch.inference_mode():
        inputs = processor([Image.open(file) for file in phantom_files], return_tensors="pt")
        expected = model(**inputs).logits.softmax(-1)[:, 1].numpy()
    np.testing.assert_allclose([view.probability for view in study.views], expected, atol=1e-5)
    assert study.probability == pytest.approx(expected.mean(), abs=1e-5)
    assert sum(view.weight for view in study.views) == pytest.approx(1)
    assert study.label == ("abnormal" if study.probability > 0.5 else "normal")
    assert (study.threshold, study.operating_point, study.in_distribution) == (0.5, "paper", None)
    assert study.body_part in BODY_PARTS
    assert not study.body_part_given
    assert [view.name for view in study.views] == [file.rsplit("/", 1)[1] for file in phantom_files]


def test_every_form_of_input_gives_the_same(predictor, phantom_files):
    file = phantom_files[0]
    data = Path(file).read_bytes()
    image = Image.open(file)
    forms = [
        file,
        data,
        bytearray(data),
        image,
        np.asarray(image),
        np.asarray(image) / np.float32(255),
        read_radiograph(file),
    ]
    answers = [predictor([form]).probability for form in forms]
    assert answers == pytest.approx([answers[0]] * len(forms), abs=1e-7)


def test_the_body_part_may_be_given(predictor, phantom_files):
    study = predictor(phantom_files, body_part="elbow")
    assert (study.body_part, study.body_part_given) == ("elbow", True)
    assert sum(study.body_part_probabilities.values()) == pytest.approx(1)
    with pytest.raises(ValueError, match="'knee'"):
        predictor(phantom_files, body_part="knee")


def test_phantom_weights_always_warn(predictor, phantom_files, tmp_path):
    assert PHANTOM_WARNING not in predictor(phantom_files).warnings
    synthetic = StudyPredictor.from_pretrained(make_checkpoint(tmp_path / "synthetic", trained_on_phantoms=True))
    assert PHANTOM_WARNING in synthetic(phantom_files).warnings


def test_json_holds_everything_but_the_heatmaps(flagging, phantom_files):
    study = flagging(phantom_files)
    values = json.loads(study.to_json())
    assert values["probability"] == study.probability
    assert len(values["views"]) == len(phantom_files)
    assert values["views"][0]["box"] == list(study.views[0].box)
    assert "heatmap" not in values["views"][0]
    assert values["checkpoint"] == study.checkpoint


def test_predict_many_streams(predictor, phantom_files):
    asked = []

    def studies():
        for file in phantom_files:
            asked.append(file)
            yield [file]

    stream = predictor.predict_many(studies(), heatmaps=False)
    assert next(stream).probability == predictor([phantom_files[0]]).probability
    assert len(asked) == 1
    assert len(list(stream)) == len(phantom_files) - 1


@pytest.mark.parametrize(
    ("probability", "band"),
    [(0.1, "normal"), (0.3, "normal"), (0.31, "uncertain"), (0.8, "uncertain"), (0.9, "abnormal")],
)
def test_bands(probability, band):
    label = "abnormal" if probability > 0.5 else "normal"
    points = {"paper": 0.5, "sensitivity_95": 0.3, "specificity_95": 0.8}
    assert find_band(probability, 0.5, points) == band
    assert find_band(probability, 0.5, {"paper": 0.5}) == label
    assert find_band(probability, 0.5, {**points, "sensitivity_95": 0.9}) == label


def test_the_uncertain_band_reaches_to_the_threshold():
    points = {"sensitivity_95": 0.1, "specificity_95": 0.3}
    assert [find_band(p, 0.5, points) for p in (0.1, 0.2, 0.4, 0.5, 0.51)] == [
        "normal", "uncertain", "uncertain", "uncertain", "abnormal",
    ]  # fmt: skip
    assert [find_band(p, 0.05, points) for p in (0.05, 0.08, 0.3, 0.31)] == [
        "normal", "uncertain", "uncertain", "abnormal",
    ]  # fmt: skip


def test_threads_may_share_a_predictor(flagging, phantom_files):
    check_threads(flagging, phantom_files)


class TestRefusals:
    def test_a_bad_view_is_named(self, predictor, phantom_files):
        with pytest.raises(RadiographError, match="view 2 is empty"):
            predictor([phantom_files[0], b""])
        with pytest.raises(RadiographError, match="view 1: float pixels"):
            predictor([np.full((40, 40), 7.0)])

    @pytest.mark.parametrize(
        "view",
        [
            "study.png", b"bytes", Path("study.png"), Image.new("L", (64, 64)), np.zeros((3, 64, 64)),
            torch.zeros(64, 64), Radiograph(np.zeros((64, 64), np.float32), 8, "array"), {"view": "study.png"}, 7,
        ],
        ids=lambda view: type(view).__name__,
    )  # fmt: skip
    def test_a_study_is_a_list(self, predictor, view):
        with pytest.raises(ValueError, match="as a list"):
            predictor(view)

    def test_a_study_has_views(self, predictor):
        with pytest.raises(ValueError, match="at least one"):
            predictor([])

    def test_views_may_come_from_a_generator(self, predictor, phantom_files):
        assert len(predictor(file for file in phantom_files).views) == len(phantom_files)

    def test_a_kind_of_checkpoint_that_nobody_knows(self, tmp_path):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "no_such_kind"}))
        with pytest.raises(CheckpointError, match=r"cannot be loaded.*no_such_kind"):
            StudyPredictor.from_pretrained(tmp_path)

    def test_our_own_labels_need_no_telling(self, checkpoint):
        assert StudyPredictor.from_pretrained(checkpoint, abnormal_label="Abnormal").checkpoint.startswith("folder")
        with pytest.raises(CheckpointError, match="leave abnormal_label “normal” out"):
            StudyPredictor.from_pretrained(checkpoint, abnormal_label="normal")

    @pytest.mark.parametrize(
        "damage",
        ["truncated", "nan", "mistyped", "channels", "edge", "arguments"],
    )
    def test_a_damaged_checkpoint_is_refused_when_it_is_loaded(self, damage, checkpoint, tmp_path):
        folder = shutil.copytree(checkpoint, tmp_path / "damaged")
        config, processor = (
            json.loads((folder / f"{name}.json").read_text()) for name in ("config", "preprocessor_config")
        )
        weights = load_file(folder / "model.safetensors")
        if damage == "truncated":
            (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000])
        if damage == "nan":
            weights["classifier.bias"] = torch.full((2,), float("nan"))
            save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        config["temperature"] = "1" if damage == "mistyped" else config["temperature"]
        config["backbone_kwargs"] = {"no_such_thing": 1} if damage == "arguments" else None
        processor["image_mean"] = [0.5, 0.5] if damage == "channels" else processor["image_mean"]
        processor["image_std"] = [0.5, 0.5] if damage == "channels" else processor["image_std"]
        processor["size"] = {"shortest_edge": 64} if damage == "edge" else processor["size"]
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
        with pytest.raises(CheckpointError):
            StudyPredictor.from_pretrained(folder)

    @pytest.mark.parametrize(
        "pixels", [np.zeros((0, 5), np.float32), np.full((40, 40), 2.0, np.float32), np.ones((40, 40), np.float32)]
    )
    def test_a_radiograph_must_be_one(self, predictor, pixels):
        with pytest.raises(RadiographError, match="view 1"):
            predictor([Radiograph(pixels, 8, "array")])

    def test_a_folder_that_does_not_exist(self, tmp_path):
        with pytest.raises(CheckpointError, match="neither a folder on this machine nor a Hub name"):
            StudyPredictor.from_pretrained(tmp_path / "nowhere")

    def test_a_folder_that_is_none(self, tmp_path):
        with pytest.raises(CheckpointError, match="cannot be loaded"):
            StudyPredictor.from_pretrained(tmp_path)

    def test_a_device_that_is_not_there_is_no_trouble_of_the_checkpoint(self, checkpoint):
        with pytest.raises(ValueError, match="device 'warp' cannot be used"):
            StudyPredictor.from_pretrained(checkpoint, device="warp")

    def test_a_dtype_that_is_none(self, checkpoint):
        with pytest.raises(ValueError, match="floating point"):
            StudyPredictor.from_pretrained(checkpoint, dtype="float7")


class TestWhichCheckpoint:
    def test_the_bundled_one_by_default(self, monkeypatch):
        monkeypatch.delenv("MURA_CHECKPOINT", raising=False)
        assert StudyPredictor.from_pretrained().checkpoint == f"bundled: {DEFAULT}"

    def test_the_environments_where_set(self, monkeypatch, checkpoint):
        monkeypatch.setenv("MURA_CHECKPOINT", str(checkpoint))
        assert StudyPredictor.from_pretrained().checkpoint == f"folder: {checkpoint.name}"

    def test_radiographs_need_no_file(self, predictor):
        pixels = np.random.default_rng(0).random((70, 50), dtype=np.float32)
        assert 0 < predictor([Radiograph(pixels, 16, "array")]).probability < 1


def test_a_view_is_flagged_where_a_study_of_it_alone_would_be(checkpoint, phantom_files):
    predictor = StudyPredictor.from_pretrained(checkpoint, device="cpu")
    config = predictor.model.config
    alone = predictor(phantom_files[:1], heatmaps=False)
    assert not alone.calibrated
    chance = alone.probability
    for slope, intercept in ((2.0, 3.0), (2.0, -3.0)):
        config.study_slope, config.study_intercept = slope, intercept
        study = predictor(phantom_files[:1])
        assert study.calibrated
        assert study.views[0].probability == pytest.approx(chance)
        assert study.views[0].single_view_probability == pytest.approx(study.probability, abs=1e-6)
        assert study.views[0].flagged == (study.label == "abnormal") == (intercept > 0)
        assert (study.views[0].box is not None) == study.views[0].flagged
