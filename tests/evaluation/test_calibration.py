import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from mura_hf.common import BUNDLED
from mura_hf.evaluation import calibrate_checkpoint, calibration, describe_calibration, evaluate_checkpoint
from mura_hf.metrics import MIN_SIZES, OPERATING_POINTS
from mura_hf.training import SplitPredictions

from .conftest import change_json


@pytest.mark.usefixtures("few_suffice")
def test_config_is_calibrated_and_evaluations_use_it(datasets, checkpoint, tmp_path, monkeypatch):
    folder, rows, place = tmp_path / "checkpoint", datasets["calib"], {"cpu": True, "cache_dir": tmp_path / "cache"}
    shutil.copytree(checkpoint, folder)
    (folder / "training.json").write_text(json.dumps({"seconds": 1.5}))
    wrong = calibrate_checkpoint(
        folder, rows, **place
    )  # this untrained model ranks normal studies above abnormal ones
    for name in ("not_calibrated", "no_operating_points"):
        assert "normal studies have the higher probabilities" in wrong[name]
    assert wrong["operating_points"] == {"paper": 0.5}
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: one.flip(0) if "classifier" in name else one for name, one in weights.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    checkpoint = shutil.copytree(folder, tmp_path / "before")
    monkeypatch.setattr(calibration, "_cross_validate", lambda *given: calibration._fit(*given[:2])[1])  # tiny folds
    fit = calibrate_checkpoint(folder, rows, **place)
    assert json.loads((folder / "training.json").read_text()) == {"seconds": 1.5, "calibration": fit}
    config = json.loads((folder / "config.json").read_text())
    for name in ("temperature", "study_slope", "study_intercept", "operating_points"):
        assert config[name] == fit[name]
    assert set(fit["operating_points"]) <= set(OPERATING_POINTS)
    for name in ("brier", "cross_entropy"):
        assert fit["after"][name] < fit["before"][name]
    before, after = (load_file(place / "model.safetensors") for place in (checkpoint, folder))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert calibrate_checkpoint(folder, rows, **place) == fit  # a second fit starts afresh

    report = evaluate_checkpoint(folder, rows, "calib", **place)
    assert report["study"]["overall"]["figures"]["brier"] == pytest.approx(fit["after"]["brier"], abs=1e-4)
    points = report["operating_points"]
    assert {name: point["threshold"] for name, point in points.items()} == fit["operating_points"]
    assert all(point["chosen"] == OPERATING_POINTS[name] for name, point in points.items())
    del fit["confidence"]  # as in records of earlier versions
    (folder / "training.json").write_text(json.dumps({"calibration": fit}))
    change_json(folder / "config.json", operating_points={"paper": 0.5, "sensitivity_95": 0.2})
    former = evaluate_checkpoint(folder, rows, "calib", **place)["operating_points"]["sensitivity_95"]
    assert former["chosen"] == "the highest threshold with a sensitivity of at least .95 on calib"
    for point in points.values():
        parts = [row["confusion"] for name, row in point["groups"].items() if name != "overall"]
        assert np.sum(parts, axis=0).tolist() == point["groups"]["overall"]["confusion"]
    for when in ("before", "after"):
        effect = report["calibration_effect"][when]
        assert {name: effect[name] for name in fit[when]} == pytest.approx(fit[when], abs=1e-6)


def calibrate(folder, monkeypatch, labels, probabilities, views=1, **options):
    """Calibrates on studies of one patient each, of which each view has the study's probability."""
    names = np.repeat([f"s{number}" for number in range(len(labels))], views).tolist()
    labels, probabilities = np.repeat(labels, views), np.repeat(probabilities, views)
    rows = Dataset.from_dict(
        {"study_id": names, "patient_id": names, "label": labels.tolist(), "body_part": np.zeros(len(names), int)}
    )
    parts = np.zeros(len(names), int)
    found = SplitPredictions(probabilities, labels, names, names, parts, None)
    monkeypatch.setattr(
        calibration, "PredictionCache", lambda *args, **options: SimpleNamespace(predict=lambda **_: found)
    )
    return calibrate_checkpoint(folder, rows, cpu=True, **options)


def draw(n, slope=1.0, shift=0.0, seed=0):
    """`n` normal and `n` abnormal studies, and probabilities whose logits are off by a slope and a shift."""
    labels = np.repeat([0, 1], n)
    evidence = 2 * (labels + np.random.default_rng(seed).normal(size=2 * n) / 1.4) - 1
    return labels, 1 / (1 + np.exp(-(slope * 2 * evidence / 2 + shift)))


@pytest.mark.parametrize(
    ("n", "options", "fitted"),
    [
        (150, {"slope": 4}, True),
        (150, {"slope": 0.2}, True),
        (60, {"shift": 2}, True),
        (60, {"shift": -1.5, "slope": 2}, True),
        (150, {}, False),
        (40, {"seed": 3}, False),
        (300, {"seed": 5}, False),
    ],
)
@pytest.mark.parametrize("views", [1, 3])
def test_a_calibration_must_not_raise_errors_of_other_patients(n, options, fitted, views, folder, monkeypatch):
    (folder / "training.json").write_text("{}")
    record = calibrate(folder, monkeypatch, *draw(n, **options), views=views)
    worse = [record["held_out"][name] > record["before"][name] for name in ("brier", "ece")]
    assert ("not_calibrated" not in record) == (not any(worse)) == fitted
    config = json.loads((folder / "config.json").read_text())
    assert (config["study_slope"] != 1) == fitted
    assert len(config["operating_points"]) == (5 if n >= 60 else 3)  # of the probabilities that the checkpoint gives
    text = describe_calibration(record)[0]
    assert text.startswith(
        "Calibrated on " if fitted else "Not calibrated on calib: on patients whom it was not fitted"
    )


@pytest.mark.parametrize("labels", [[], [1] * 90, [0, 1], [0] * 90 + [1] * 19, [0] * 3 + [1] * 4])
def test_nothing_is_fitted_to_too_few_studies(labels, folder, monkeypatch):
    (folder / "training.json").write_text("{}")
    record = calibrate(folder, monkeypatch, np.array(labels, int), np.linspace(0.1, 0.9, len(labels)))
    config = json.loads((folder / "config.json").read_text())
    assert (config.get("temperature", 1), config.get("study_slope", 1)) == (1, 1)
    assert config["operating_points"] == {"paper": 0.5}
    assert json.loads((folder / "training.json").read_text())["calibration"] == record
    n = f"too few: {len(labels)} studies of {len(labels)} patients, {sum(labels)} abnormal"
    assert n in record["not_calibrated"]
    lines = describe_calibration(record)
    assert n in lines[0]
    assert "No operating points but paper 0.5, from calib: too few" in lines[1]

    start = BUNDLED["mura-film"]  # what a checkpoint that started from it keeps
    record = calibrate(folder, monkeypatch, np.array(labels, int), np.linspace(0.1, 0.9, len(labels)), start=start)
    config, kept = (json.loads((place / "config.json").read_text()) for place in (folder, start))
    names = (*calibration.CALIBRATION, "operating_points", "default_operating_point", "bands")
    assert [config[name] for name in names] == [kept[name] for name in names]
    assert record["kept_from"] == start.name
    assert n in (text := describe_calibration(record)[0])
    assert "those of its start, film; they promise nothing" in text


def test_operating_points_need_more_studies_than_a_calibration(folder, monkeypatch):
    (n_fit, _), (n_points, _) = MIN_SIZES["calibration"], MIN_SIZES["operating_points"]
    record = calibrate(folder, monkeypatch, *draw((n_fit + n_points) // 2, slope=5))
    assert (record["temperature"] > 1, record["operating_points"]) == (True, {"paper": 0.5})
    assert "not_calibrated" not in record


@pytest.mark.parametrize(
    ("n", "options", "default", "words"),
    [
        (150, {}, "sensitivity_85", "Default: sensitivity_85."),
        (150, {"default_operating_point": "youden"}, "youden", "Default: youden."),
        (150, {"default_operating_point": "paper"}, "paper", "Default: paper."),
        (20, {}, None, "The default stays paper, without bands."),
    ],
)
def test_the_default_operating_point_and_its_bands(n, options, default, words, folder, monkeypatch):
    labels, probabilities = draw(n, shift=-1)
    record = calibrate(folder, monkeypatch, labels, probabilities, **options)
    config = AutoConfig.from_pretrained(folder)
    name, threshold = config.find_threshold()
    assert (record["default_operating_point"], name) == (default, default or "paper")
    text = " ".join(describe_calibration(record))
    assert words in text
    if default is None:
        assert config.bands is record["bands"] is None
        return
    assert config.bands == record["bands"]
    assert config.bands["low"] < threshold < config.bands["suspected"]
    measured = record["bands_on_calib"]
    assert sum(row["n"] for row in measured.values()) == 2 * n
    assert 0.1 < measured["uncertain"]["figures"]["share"] < 0.25
    rates = [measured[name]["figures"]["abnormal"] for name in ("low", "uncertain", "suspected")]
    assert rates == sorted(rates)
    assert f"suspected above {config.bands['suspected']:g}" in text
    with pytest.raises(ValueError, match="does not give the operating point 'most', only paper, youden"):
        calibrate(folder, monkeypatch, labels, probabilities, default_operating_point="most")


def test_few_abnormal_patients_keep_the_rule_of_the_paper_unless_nobody_knows_them(folder, monkeypatch):
    labels, probabilities = draw(40)
    rows = [calibrate(folder, monkeypatch, labels, probabilities)]
    monkeypatch.setattr(calibration, "labels_and_patients", lambda _: (labels.tolist(), (np.arange(80) // 5).tolist()))
    for key in ("fracatlas", "mura"):  # the former has no patients, and its blocks of films are none
        (folder / "training.json").write_text(json.dumps({"data": {"key": key}}))
        rows.append(calibrate(folder, monkeypatch, labels, probabilities))
    assert [row["guarantees_count"] for row in rows] == ["patients", "films", "patients"]
    assert [row["default_operating_point"] for row in rows] == ["sensitivity_85", "sensitivity_85", None]
    assert rows[1]["operating_points"] == rows[0]["operating_points"]
    assert AutoConfig.from_pretrained(folder).find_threshold() == ("paper", 0.5)
    assert (
        "The default stays paper, and there are no new bands: too few abnormal patients to exclude a sensitivity below"
        in describe_calibration(rows[2])[-1]
    )
