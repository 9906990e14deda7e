import json
import shutil

import numpy as np
import pytest

from mura_hf import DatasetError, StudyPredictor, load_mura
from mura_hf.evaluation import describe_evaluation, evaluate_checkpoint
from mura_hf.metrics import PLOTS, classification_metrics
from tests.conftest import make_checkpoint

CALIBRATED = {
    "temperature": 0.3,
    "study_slope": 1.7,
    "study_intercept": -0.4,
    "operating_points": {"youden": 0.42},
}


@pytest.mark.parametrize("fields", [{}, CALIBRATED], ids=["plain", "calibrated"])
def test_figures_are_those_of_the_predictor(fields, phantom_tree, checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))
    datasets = load_mura(phantom_tree)
    rows = datasets["valid"]
    report = evaluate_checkpoint(folder, rows, "valid", train=datasets["train"], prevalence=0.2, cpu=True)
    assert json.loads((folder / "evaluation.json").read_text()) == json.loads(json.dumps(report))

    predictor = StudyPredictor.from_pretrained(folder, device="cpu")
    labels, probabilities = [], []
    for study in dict.fromkeys(rows["study_id"]):
        files = sorted(phantom_tree.glob(f"valid/{study}_*/*.png"))
        labels.append(int(files[0].parent.name.endswith("_positive")))
        probabilities.append(predictor(files, heatmaps=False).probability)
    threshold = fields.get("operating_points", {"paper": 0.5}).popitem()[1]
    assert report["threshold"] == threshold
    expected = classification_metrics(labels, probabilities, threshold)
    found = report["study"]["overall"]["figures"]
    for name in ("n", "n_abnormal", "auroc", "accuracy", "sensitivity", "brier"):
        assert found[name] == pytest.approx(expected[name], abs=1e-5)
    low, high = report["study"]["overall"]["intervals"]["auroc"]
    assert low <= found["auroc"] <= high
    assert report["image"]["overall"]["figures"]["n"] == len(rows)
    parts = [row["figures"]["n"] for name, row in report["study"].items() if name != "overall"]
    assert sum(parts) == found["n"]
    assert 0 <= report["body_part_accuracy"] <= 1
    assert np.sum(report["study"]["overall"]["confusion"]) == found["n"]
    assert set(report["baselines"]) == {"random", "constant", "view_count"}
    assert report["published"] == []
    assert report["prevalence"] == 0.2
    assert "median_absolute_correlation" in report["explanations"]
    assert report["shortcuts"]["masking"]["corners"]["n"] == found["n"]
    assert len(report["explanations"]["cascade"]) == 8
    assert "n" in report["erasing"]
    assert report["pointing"]["overall"]["n"] >= report["projections"]["n"] // 2 > 0
    lines = "\n".join(describe_evaluation(report))
    assert "Pointing game" in lines
    assert "Both of two projections" in lines
    assert {path.name for path in folder.glob("*.png")} == set(PLOTS)
    effect = report["calibration_effect"]
    assert (effect["before"] is None) == (not fields)
    assert effect["after"]["brier"] == pytest.approx(expected["brier"], abs=1e-5)


def test_an_empty_split_is_refused(phantom_tree, checkpoint):
    rows = load_mura(phantom_tree)["valid"].select(np.arange(0))
    with pytest.raises(DatasetError, match="valid is empty"):
        evaluate_checkpoint(checkpoint, rows, "valid", cpu=True)


def test_a_model_without_heatmaps_is_measured_too(phantom_tree, tmp_path, monkeypatch):
    monkeypatch.setattr("mura_hf.models.modeling_mura.find_map_layer", lambda *given: None)
    folder = make_checkpoint(tmp_path / "vit", backbone="vit_tiny_patch16_224")
    report = evaluate_checkpoint(folder, load_mura(phantom_tree)["valid"], "valid", cpu=True)
    assert not {"pointing", "projections", "erasing", "following"} & set(report)
    assert "baselines" not in report
    assert "No heatmap" in report["explanations"]["none"]
    assert (folder / "evaluation.json").is_file()
