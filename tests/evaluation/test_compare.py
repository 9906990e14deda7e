import json
import shutil

import numpy as np
import pytest

from mura_hf import DatasetError, StudyPredictor
from mura_hf.evaluation import compare_checkpoints, describe_evaluation
from mura_hf.metrics import classification_metrics
from tests.conftest import make_checkpoint, make_model


def test_differences_are_those_of_the_predictors(rows, evaluated, tmp_path):
    place = {"cpu": True, "cache_dir": evaluated[1]}
    first = shutil.copytree(evaluated[0], tmp_path / "first")
    second = make_checkpoint(tmp_path / "second", make_model(seed=4))
    report = compare_checkpoints(first, second, rows, rows, **place)
    assert json.loads((first / "evaluation.json").read_text()) == json.loads(json.dumps(report))
    assert report["comparison"]["checkpoint"] == "second"
    assert report["against"] == report["comparison"]  # the former name
    assert "minus that of second" in "\n".join(describe_evaluation(report))
    figures = []
    for folder in (first, second):
        predictor, studies = StudyPredictor.from_pretrained(folder, device="cpu"), {}
        for study, label, image in zip(rows["study_id"], rows["label"], rows["image"], strict=True):
            studies.setdefault(study, (label, []))[1].append(np.asarray(image))
        values = [predictor(views, heatmaps=False).probability for _, views in studies.values()]
        threshold = predictor.model.config.operating_points[predictor.model.config.default_operating_point]
        figures.append(classification_metrics([label for label, _ in studies.values()], values, threshold))
    for name in ("auroc", "brier", "sensitivity"):
        row = report["comparison"]["study"][name]
        assert row["difference"] == pytest.approx(figures[0][name] - figures[1][name], abs=1e-5)
        assert row["low"] <= row["difference"] <= row["high"]

    with pytest.raises(DatasetError, match="cut in different ways"):
        compare_checkpoints(first, second, rows, rows.select(range(5)), **place)
    make_checkpoint(first, make_model(seed=5))
    with pytest.raises(DatasetError, match="other weights or studies"):
        compare_checkpoints(first, second, rows, rows, **place)
