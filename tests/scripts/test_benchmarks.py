"""Runs each benchmark once on tiny sizes, or only its `--help` if it trains, kills or serves for long."""

import json
import subprocess

import comparisons
import damaged_files
import data_loading
import demo_app
import fine_tuning
import killed_trainings
import label_leakage
import mutated_checkpoints
import numpy as np
import ood_scores
import phantom_speed
import pytest
import shortcuts
import torch
import worklist_speed
from bootstrap import main as bootstrap
from harness import record
from prediction_speed import main as prediction_speed
from retrieval_speed import clustered_codes, share_found
from retrieval_speed import main as retrieval_speed
from systems import SYSTEMS, build_system, check_system, has_learned, render_batch, shrink_config
from training_speed import main as training_speed

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


def test_prediction_speed():
    """Bounds are those of a busy machine; on an idle one a heatmap costs 1.05 forward passes, and FuseNet 2.2."""
    found = prediction_speed(["--quick", "--topics", "predict", "runtimes", "explain", "fusenet"])
    assert all(row["difference"] < 1e-4 for row in found["runtimes"]["mura-phantom, 1 views"].values())
    assert 0.5 < found["predict"]["mura-phantom"]["heatmap_ratio"] < 5
    for row in found["explain"].values():
        assert row["method"] == "class_activation_map"
        assert 0.5 < row["ratio"] < 2.5
        assert row["grad_cam_ratio"] is None or row["grad_cam_ratio"] < 1
    assert 1 < found["fusenet"]["ratio"] < 4
    assert 1 < found["fusenet"]["full_resolution_ratio"] < 4


def test_training_speed():
    found = training_speed(["--quick", "--topics", "loop", "mining"])
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
    for name, data in damaged_files.undamaged_files((96,)).items():
        assert max(read_radiograph(data).pixels.shape) == 96, name
    first, again, other = ([data for _, data in damaged_files.damaged_files(40, seed, (96,))] for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert len(set(first)) == 40


def test_every_damaged_file_is_read_or_refused_and_the_reader_survives():
    found = damaged_files.main(["--quick"])["untrusted"]
    assert found["alive"]
    assert found["read"] + found["refused"] == found["files"]
    assert min(found["read"], found["refused"]) > 10
    assert found["slowest_seconds"] < 10
    assert found["worker_peak_megabytes"] < 1000


def test_every_mutated_checkpoint_works_or_is_refused(tmp_path):
    found = mutated_checkpoints.main(["--quick"])["mutated"]
    assert (found["other_errors"], found["forbidden"]) == ({}, {})
    assert found["working"] + found["refused"] == found["files"]
    assert min(found["working"], found["refused"]) > 3
    watch = mutated_checkpoints.Watch()
    with watch.watching(tmp_path):
        (tmp_path / "file").write_text("")
        subprocess.run(["true"], check=True)
    assert {event.split()[0] for event in watch.found} >= {"open", "subprocess.Popen"}


def test_without_chromium_the_app_is_not_measured(monkeypatch):
    monkeypatch.setattr(demo_app.shutil, "which", lambda name: None)
    with pytest.raises(MuraError, match="install the package chromium"):
        demo_app.measure_demo()


LONG = (
    comparisons, data_loading, demo_app, fine_tuning, killed_trainings, label_leakage, ood_scores, phantom_speed,
    shortcuts, worklist_speed,
)  # fmt: skip


@pytest.mark.parametrize("benchmark", LONG, ids=lambda module: module.__name__)
def test_a_long_benchmark_has_help(benchmark, capsys):
    with pytest.raises(SystemExit, match="0"):
        benchmark.main(["--help"])
    shown = capsys.readouterr().out
    assert all(f"\n  {topic} " in shown for topic in benchmark.TOPICS)


def test_a_benchmark_without_quick_run_says_so(capsys):
    with pytest.raises(SystemExit, match="2"):
        ood_scores.main(["--quick"])
    assert "has no quick run" in capsys.readouterr().err


@pytest.fixture(scope="module")
def batch():
    return render_batch()


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_is_built_from_its_config(name):
    assert type(build_system(shrink_config(name, 48, True), 48, True)).__name__ == SYSTEMS[name]


# One system of each family; `systems.py` checks all of them with their real backbones.
@pytest.mark.parametrize(
    "name", ["x_attention", "a_siamese_two_stage", "d_fusenet", "d_ensemble", "c_specialized_cnn4"]
)
def test_a_system_learns_is_saved_and_explains(name, batch):
    found = check_system(name, *batch, side=48, slim=True)
    for stage, learned in found["stages"].items():
        assert has_learned(learned), (stage, learned)
    assert found["equal"]
    assert found["heatmaps"] or "No heatmap" in found["why_not"]
