import json
import shutil

import numpy as np
import pytest

from mura_hf import DatasetError, StudyPredictor, load_mura
from mura_hf.evaluation import compare_checkpoints, evaluate_checkpoint
from mura_hf.metrics import classification_metrics
from tests.conftest import make_checkpoint, make_model


@pytest.fixture(scope="module")
def rows(phantom_tree):
    return load_mura(phantom_tree)["valid"]


def test_differences_are_those_of_the_predictors(rows, checkpoint, tmp_path):
    first = shutil.copytree(checkpoint, tmp_path / "first")
    second = make_checkpoint(tmp_path / "second", make_model(seed=4))
    evaluate_checkpoint(first, rows, "valid", cpu=True, cache_dir=tmp_path / "cache")
    report = compare_checkpoints(first, second, rows, rows, cpu=True, cache_dir=tmp_path / "cache")
    assert json.loads((first / "evaluation.json").read_text()) == json.loads(json.dumps(report))
    assert report["against"]["checkpoint"] == "second"
    figures = []
    for folder in (first, second):
        predictor, found = StudyPredictor.from_pretrained(folder, device="cpu"), {}
        for study, label, image in zip(rows["study_id"], rows["label"], rows["image"], strict=True):
            found.setdefault(study, (label, []))[1].append(np.asarray(image))
        values = [predictor(views, heatmaps=False).probability for _, views in found.values()]
        figures.append(classification_metrics([label for label, _ in found.values()], values))
    for name in ("auroc", "brier"):
        row = report["against"]["study"][name]
        assert row["difference"] == pytest.approx(figures[0][name] - figures[1][name], abs=1e-5)
        assert row["low"] <= row["difference"] <= row["high"]


def test_what_cannot_be_compared_is_refused(rows, checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "first")
    evaluate_checkpoint(folder, rows, "valid", cpu=True, cache_dir=tmp_path / "cache")
    with pytest.raises(DatasetError, match="cut in different ways"):
        compare_checkpoints(folder, checkpoint, rows, rows.select(range(5)), cpu=True)
    make_checkpoint(folder, make_model(seed=4))
    with pytest.raises(DatasetError, match="other weights or studies"):
        compare_checkpoints(folder, checkpoint, rows, rows, cpu=True, cache_dir=tmp_path / "cache")
