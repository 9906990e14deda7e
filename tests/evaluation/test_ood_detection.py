import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from mura_hf import CheckpointError, DatasetError, StudyPredictor
from mura_hf.evaluation import describe_ood_detector
from mura_hf.evaluation.ood_detection import (
    UNRELATED_KINDS,
    fit_ood_detector,
    groups_of,
    measure_ood_detection,
    read_unrelated,
    rows_in_scope,
    rows_out_of_scope,
)
from mura_hf.inference import OOD_WARNING
from mura_hf.models import BODY_PARTS
from mura_hf.retrieval import OOD_FILE
from tests.checkpoints import make_checkpoint, make_model


def test_the_fit_is_recorded(datasets, evaluated):
    training = json.loads((evaluated[0] / "training.json").read_text())
    record = training["ood_detection"]
    assert training["in_distribution"] == record  # the former name
    assert training["recipe"] == {"name": "x"}
    assert record["n_views"] == len(datasets["train"]) == sum(record["groups"].values())
    assert record["n"] == len(datasets["calib"])
    assert set(record["groups"]) <= set(BODY_PARTS)
    assert record["outside"] == []
    assert f"{record['n_views']} views of train" in describe_ood_detector(record)[0]


def test_a_predictor_flags_unrelated_images_and_not_calib(datasets, evaluated, phantom_files):
    predictor = StudyPredictor.from_pretrained(evaluated[0], device="cpu")
    study = predictor([*phantom_files, next(read_unrelated("texture"))], heatmaps=False)
    assert (study.in_distribution, study.unusual_percentile) == (False, 100)
    assert study.views[-1].in_distribution is False
    assert OOD_WARNING in study.warnings
    plain = json.loads(study.to_json())
    assert plain["in_distribution"] is False
    assert [view["in_distribution"] for view in plain["views"]] == [view.in_distribution for view in study.views]

    rows = datasets["calib"]
    first = rows["study_id"][0]
    files = [image.filename for image, study in zip(rows["image"], rows["study_id"], strict=True) if study == first]
    study = predictor(files, heatmaps=False)
    assert study.in_distribution
    assert 0 <= study.unusual_percentile < 100
    assert OOD_WARNING not in study.warnings


def test_a_detector_for_other_weights_is_not_used(evaluated, tmp_path):
    other = make_checkpoint(tmp_path / "other", make_model(seed=5))
    shutil.copy(evaluated[0] / OOD_FILE, other)
    study = StudyPredictor.from_pretrained(other, device="cpu")([np.eye(64, dtype=np.uint8)])
    assert study.in_distribution is study.unusual_percentile is None
    assert any("made for other weights" in warning for warning in study.warnings)


def test_models_by_body_part_and_too_small_calibs_are_refused(datasets, folder, tmp_path):
    specialized = make_checkpoint(tmp_path / "special", make_model("mura_specialized"))
    with pytest.raises(CheckpointError, match="a model for each body part"):
        fit_ood_detector(specialized, datasets["train"], datasets["calib"], cpu=True)
    with pytest.raises(DatasetError, match=r"calib has \d+ views"):
        fit_ood_detector(folder, datasets["train"], datasets["calib"].select(range(5)), cpu=True)
    assert not (folder / OOD_FILE).exists()


def test_close_ups_count_if_training_enlarged_views(datasets, folder, monkeypatch):
    n_calib = len(datasets["calib"])
    monkeypatch.setattr("mura_hf.retrieval.ood_detection.MIN_CALIB_VIEWS", n_calib)
    (folder / "training.json").write_text(json.dumps({"arguments": {"zoom_in": 3.0}}))
    record = fit_ood_detector(folder, datasets["train"], datasets["calib"], cpu=True)
    assert (record["n_views"], record["n"]) == (2 * len(datasets["train"]), n_calib)
    parts = {group for group in record["groups"] if not group.endswith(" close-up")}
    assert set(record["groups"]) == parts | {f"{part} close-up" for part in parts}


def test_legs_are_out_of_scope_unless_a_hand_is_visible_too():
    rows = Dataset.from_dict({"region": ["hand", "leg", "hip+leg", "leg+hand", "unknown"], "body_part": [None] * 5})
    assert groups_of(rows) == ["hand", "leg", "hip", "hand", "unknown"]
    assert rows_in_scope(rows)["region"] == ["hand", "leg+hand", "unknown"]
    assert rows_out_of_scope(rows)["region"] == ["leg", "hip+leg"]


class _FlagsArrays:
    """Flags every image that is given in memory, and no file."""

    model = SimpleNamespace(config=SimpleNamespace(trained_on_phantoms=False))

    def __call__(self, views, **options):
        return SimpleNamespace(in_distribution=not isinstance(views[0], np.ndarray))


def test_flags_are_counted_by_kind(rows, tmp_path):
    for number, picture in zip(range(3), read_unrelated("texture"), strict=False):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    predictor = _FlagsArrays()
    report = measure_ood_detection(predictor, rows, {"sand": tmp_path}, n_images=4)
    assert set(report["kinds"]) == {"inverted", "noise", *UNRELATED_KINDS, "phantoms", "sand"}
    assert "unseen_detector" not in report
    assert (report["kinds"]["sand"]["n"], report["kinds"]["sand"]["refused"]) == (3, 0)
    for kind in ("noise", "chest"):
        assert (report["kinds"][kind]["n"], report["kinds"][kind]["refused"]) == (4, 1)
    assert report["alarms"]["n"] == len(set(rows["study_id"]))
    assert report["alarms"]["refused"] == 0
    for row in (report["alarms"], *report["kinds"].values()):
        assert 0 <= row["low"] <= row["refused"] <= row["high"] <= 1
        assert row["low"] < row["high"]
    with pytest.raises(DatasetError, match="has no images"):
        measure_ood_detection(predictor, rows, {"none": tmp_path / "nowhere"}, n_images=1)
