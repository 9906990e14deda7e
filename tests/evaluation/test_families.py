"""Every family is calibrated and evaluated as its checkpoint answers."""

import json

import pytest

from mura_hf import StudyPredictor, load_mura
from mura_hf.evaluation import calibrate_checkpoint, evaluate_checkpoint
from mura_hf.metrics import classification_metrics
from mura_hf.models import BODY_PARTS, CLASSIFIERS
from tests.conftest import make_checkpoint, make_model

FAMILIES = {
    "metric learning": lambda: make_model("mura_metric_learning"),
    "gated attention": lambda: make_model(study_pooling="gated_attention"),
    "noisy or": lambda: make_model(study_pooling="noisy_or"),
    "fusenet": lambda: make_model("mura_fusenet", full_resolution=True),
    "ensemble": lambda: CLASSIFIERS["mura_ensemble"].from_members(
        {"one": make_model(seed=1), "other": make_model("mura_fusenet", seed=2)}, weights={"one": 0.7, "other": 0.3}
    ),
    "specialized": lambda: CLASSIFIERS["mura_specialized"].from_members(
        {part: make_model(seed=number) for number, part in enumerate(BODY_PARTS)}
    ),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_figures_are_those_of_the_predictor_after_calibration(name, phantom_tree, tmp_path):
    folder = make_checkpoint(tmp_path / "checkpoint", FAMILIES[name]())
    datasets = load_mura(phantom_tree, calib_fraction=0.3)
    calibrated = calibrate_checkpoint(folder, datasets["calib"], cpu=True)
    config = json.loads((folder / "config.json").read_text())
    # Untrained models are calibrated to say nothing; what is to show is that all of it is used alike.
    config |= {"temperature": 1.5, "study_slope": 1.3, "study_intercept": 0.2}
    (folder / "config.json").write_text(json.dumps(config))
    assert calibrated["after"]["brier"] <= calibrated["before"]["brier"] + 0.02
    rows = datasets["valid"]
    report = evaluate_checkpoint(folder, rows, "valid", twins=1, cpu=True)
    assert report["pointing"]["overall"]["n"] > 0
    assert report["shortcuts"]["twins"]["finding"]["n"] == 1

    predictor = StudyPredictor.from_pretrained(folder, device="cpu")
    parts = dict(zip(rows["study_id"], rows["body_part"], strict=True))
    answers = {"study": ([], []), "image": ([], [])}
    for study, part in parts.items():
        files = sorted(phantom_tree.glob(f"valid/{study}_*/*.png"))
        label = int(files[0].parent.name.endswith("_positive"))
        answer = predictor(files, body_part=BODY_PARTS[part], heatmaps=False)
        for level, values in (
            ("study", [answer.probability]),
            ("image", [view.single_view_probability for view in answer.views]),
        ):
            answers[level][0].extend([label] * len(values))
            answers[level][1].extend(values)
    for level, (labels, probabilities) in answers.items():
        expected, found = classification_metrics(labels, probabilities), report[level]["overall"]["figures"]
        for figure in ("n", "auroc", "brier", "sensitivity"):
            assert found[figure] == pytest.approx(expected[figure], abs=1e-5), (level, figure)
