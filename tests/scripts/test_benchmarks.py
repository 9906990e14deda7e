"""Runs each benchmark once on tiny sizes."""

import json
import shutil

import demo_app
import numpy as np
import pytest
import torch
from bootstrap import main as bootstrap
from comparisons import main as comparisons
from damaged_files import damaged_files, undamaged_files
from damaged_files import main as untrusted
from data_loading import main as data_loading
from demo_app import main as demo
from fine_tuning import main as fine_tuning
from harness import record
from killed_trainings import main as killed_trainings
from label_leakage import main as label_leakage
from ood_scores import main as ood_scores
from phantom_speed import main as phantom_speed
from prediction_speed import main as prediction_speed
from retrieval_speed import clustered_codes, share_found
from retrieval_speed import main as retrieval_speed
from shortcuts import main as shortcuts
from systems import SYSTEMS, check_system, has_learned, render_batch
from training_speed import main as training_speed
from worklist_speed import main as worklist_speed

from mura_hf import read_radiograph
from mura_hf.errors import MuraError


def test_a_record_is_appended_to_the_results(tmp_path):
    results = tmp_path / "results.json"
    record("speed", {"seconds": 1}, results)
    record("speed", {"seconds": 2}, results)
    first, second = json.loads(results.read_text())
    assert (first["topic"], first["seconds"], second["seconds"]) == ("speed", 1, 2)
    assert {"date", "machine", "versions"} < set(first)


def test_bootstrap():
    found = bootstrap(["--quick"])
    assert found["bootstrap"]["largest_difference"] < 1e-12
    assert found["coverage"]["auroc"] > 0.7


def test_prediction_speed():
    found = prediction_speed(["--quick", "--topics", "predict"])
    assert 0.5 < found["predict"]["mura-phantom"]["heatmap_ratio"] < 5


def test_a_heatmap_is_cheap():
    for row in prediction_speed(["--quick", "--topics", "explain"])["explain"].values():
        assert row["method"] == "class_activation_map"
        assert 0.5 < row["ratio"] <= 1.25  # 1.05 on an idle machine
        assert row["grad_cam_ratio"] is None or row["grad_cam_ratio"] < 0.6


def test_fusenet_is_hardly_slower_than_two_branches():
    for _attempt in range(3):  # the machine may be busy
        found = prediction_speed(["--quick", "--topics", "fusenet"])["fusenet"]
        if found["ratio"] <= 2.3 and found["full_resolution_ratio"] <= 2.6:
            return
    pytest.fail(str(found))


def test_training_speed():
    found = training_speed(["--quick"])
    assert found["loop"]["rate"] > 0
    assert found["mining"]["ratio"] > 0


def test_retrieval_speed():
    found = retrieval_speed(["--quick"])
    for kind in ("easy", "decaying", "hard", "unclustered"):
        assert found["retrieval"][kind]["same"] == 1
    assert found["retrieval_million"]["recall"] >= 0.95


def test_a_wrong_neighbour_is_noticed_and_a_tie_is_not():
    codes, queries = (clustered_codes(n, 64, 10, 0.5, True, seed=n) for n in (400, 70))
    rows = torch.cdist(queries.double(), codes.double()).topk(5, largest=False).indices.numpy()
    assert share_found(codes, queries, rows) == 1
    wrong = rows.copy()
    wrong[[3, 66], 4] = np.setdiff1d(np.arange(400), rows[[3, 66]])[:2]
    assert share_found(codes, queries, wrong) == 68 / 70
    twice = torch.cat([codes, codes])
    assert share_found(twice, queries, np.concatenate([rows[:, :2], rows[:, :2] + 400], axis=1)) == 1


def test_damaged_files_come_from_the_seed_and_undamaged_ones_can_be_read():
    for name, data in undamaged_files((96,)).items():
        assert max(read_radiograph(data).pixels.shape) == 96, name
    first, again, other = ([data for _, data in damaged_files(40, seed, (96,))] for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert len(set(first)) == 40


def test_every_damaged_file_is_read_or_refused_and_the_reader_survives():
    found = untrusted(["--quick"])["untrusted"]
    assert found["alive"]
    assert found["read"] + found["refused"] == 300
    assert min(found["read"], found["refused"]) > 20
    assert found["slowest_seconds"] < 10
    assert found["worker_peak_megabytes"] < 1000


@pytest.mark.slow
def test_fine_tuning():
    found = fine_tuning(["--quick"])["fine_tune"]
    assert found["studies"] == {"train": 40, "valid": 20}
    assert found["base"] == "mura-phantom"
    row = found["auroc"]
    assert row["difference"] == pytest.approx(row["after"] - row["before"])
    assert row["low"] <= row["difference"] <= row["high"]


@pytest.mark.slow
def test_load_of_the_app():
    found = demo(["--quick", "--topics", "demo_load"])["demo_load"]
    assert found["errors"] == 0
    assert found["crowd"]["answered"] == 4


@pytest.mark.browser
@pytest.mark.skipif(
    not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), reason="no Chromium"
)
def test_speed_of_the_app():
    found = demo(["--quick", "--topics", "demo"])["demo"]
    assert found["answer"]["mura-phantom"] > 0


def test_without_chromium_the_app_is_not_measured(monkeypatch):
    monkeypatch.setattr(demo_app.shutil, "which", lambda name: None)
    with pytest.raises(MuraError, match="install the package chromium"):
        demo_app.measure_demo()


@pytest.mark.parametrize(
    "command",
    [comparisons, data_loading, killed_trainings, label_leakage, ood_scores, phantom_speed, shortcuts, worklist_speed],
)
def test_a_long_benchmark_has_help(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        command(["--help"])
    assert "Topics" in capsys.readouterr().out


def test_a_benchmark_without_quick_run_says_so(capsys):
    with pytest.raises(SystemExit, match="2"):
        ood_scores(["--quick"])
    assert "has no quick run" in capsys.readouterr().err


@pytest.fixture(scope="module")
def batch():
    return render_batch()


# Every model family, kind of head, stage and pooling once; `systems.py` checks all systems with their real backbones.
@pytest.mark.parametrize(
    "name",
    [
        "a_siamese_triplet_focal", "a_siamese_hard_negatives", "a_siamese_two_stage", "b_frozen", "b_finding_type",
        "c_cnn15", "c_unified_resnet18", "c_specialized_cnn4", "c_specialized_routed", "d_fusenet_full_resolution",
        "d_ensemble", "e_wrist_cnn", "x_noisy_or", "x_attention", "x_convnext",
    ],
)  # fmt: skip
def test_a_system_learns_is_saved_and_explains(name, batch):
    found = check_system(name, *batch, side=48, slim=True)
    assert found["system"] == SYSTEMS[name]
    for stage, learned in found["stages"].items():
        assert has_learned(learned), (stage, learned)
    assert found["equal"]
    assert found["heatmaps"] or "No heatmap" in found["why_not"]
