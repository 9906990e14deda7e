"""Runs each benchmark once on tiny sizes, or only its `--help` if it trains, kills or serves for long."""

import dataclasses
import json
import shutil
import subprocess

import comparisons
import damaged_files
import data_loading
import demo_app
import fine_tuning
import framing
import killed_trainings
import label_leakage
import mutated_checkpoints
import numpy as np
import ood_scores
import phantom_speed
import pytest
import runtimes
import shortcuts
import static_space
import torch
import worklist_speed
from bootstrap import main as bootstrap
from datasets import Image
from harness import record
from prediction_speed import main as prediction_speed
from prediction_speed import measure_prediction
from retrieval_speed import main as retrieval_speed
from systems import check_system, has_learned, render_batch
from training_speed import main as training_speed

from mura_hf import StudyPredictor, load_mura, read_radiograph
from mura_hf.common import BUNDLED
from mura_hf.errors import MuraError
from mura_hf.hub import render_card
from mura_hf.retrieval import OODDetector


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


def test_prediction_speed(checkpoint):
    """Times of a busy machine prove nothing; on an idle one a heatmap costs 1.05 forward passes, and FuseNet 2.2."""
    name = str(checkpoint)
    assert measure_prediction([name], rounds=2)[name]["heatmap_ratio"] > 0
    found = prediction_speed(["--quick", "--topics", "explain", "fusenet"])
    for row in found["explain"].values():
        assert row["method"] == "grad_cam"
        assert row["ratio"] > 0
        assert row["grad_cam_ratio"] is None or row["grad_cam_ratio"] > 0
    assert min(found["fusenet"]["ratio"], found["fusenet"]["full_resolution_ratio"]) > 0


def test_runtimes(checkpoint):
    """Each variant computes the same; what cannot run here is left out with its reason."""
    model = StudyPredictor.from_pretrained(checkpoint, device="cpu", runtime="torch").model
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    wanted = [name for name in runtimes.VARIANTS if name != "compiled"]  # which takes long
    forwards, left_out = runtimes.open_variants(runtimes.Logits(model), images, wanted, threads=1)
    assert forwards.keys() | left_out.keys() == set(wanted)
    with torch.no_grad():
        expected = model.classify_views(images).logits
        for name, forward in forwards.items():
            tolerance = 0.02 if name == "int8" else 1e-4
            np.testing.assert_allclose(forward(images), expected, atol=tolerance, err_msg=name)


def test_training_speed():
    found = training_speed(["--quick"])
    assert found["loop"]["rate"] > 0
    assert found["precision"]["bf16_channels_last"] > 0


def test_retrieval_speed():
    found = retrieval_speed(["--quick"])
    for kind in ("easy", "decaying", "hard", "unclustered"):
        assert found["retrieval"][kind]["same"] == 1
    assert found["retrieval_million"]["recall"] >= 0.95


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


def test_films_are_predicted_as_by_the_predictor_and_compared(checkpoint, phantom_tree, phantom_files, tmp_path):
    predictor = StudyPredictor.from_pretrained(checkpoint, device="cpu")
    films = [read_radiograph(file).to_uint8() for file in phantom_files]
    films = [change(film) for film in films[:2] for change in framing.APPEARANCES.values()]
    codes = np.concatenate([predictor([film], heatmaps=False).codes for film in films])
    one = np.ones(codes.shape[1], np.float32)
    detector = OODDetector(one, np.diag(one), codes.mean(0)[None] * 0, np.ones(1, bool), np.zeros((0, 1)), "")
    calib = np.quantile(detector.score(codes), np.linspace(0, 0.6, 40))[:, None]
    predictor.ood_detector = dataclasses.replace(detector, calib=calib)
    probabilities, refused = framing.predict_films(predictor, films)
    assert 0 < refused.sum() < len(films)
    studies = [predictor([film], heatmaps=False) for film in films]
    assert probabilities == pytest.approx([study.probability for study in studies], abs=1e-4)
    assert [not flag for flag in refused] == [study.in_distribution for study in studies]

    rows = load_mura(phantom_tree)["train"]
    rows = rows.filter(lambda row: row["label"] == 0 or row["boxes"]).cast_column("image", Image(decode=False))
    rows = rows.select([n for label in (0, 1) for n in np.flatnonzero(np.asarray(rows["label"]) == label)[:5]])
    report = framing.measure_framing({"phantom": predictor, "again": predictor}, rows)
    assert json.loads(json.dumps(report)) == report
    assert (report["films"], report["abnormal"]) == (10, 5)
    native, crop = (report["checkpoints"]["again"][name] for name in (framing.NATIVE, "zoom 2"))
    expected = [predictor([row["image"]["path"]], heatmaps=False) for row in rows]
    order = np.argsort([study.probability for study in expected])
    assert native["auroc"] == pytest.approx((order.argsort()[5:].sum() - 10) / 25)
    assert crop["change"]["difference"] == pytest.approx(crop["auroc"] - native["auroc"])
    assert crop["against_first"]["difference"] == 0
    folder = shutil.copytree(BUNDLED["mura-phantom"], tmp_path / "phantom")
    framing.add_to_evaluation(str(folder), report | {"checkpoints": {str(folder): report["checkpoints"]["again"]}})
    assert f"| native | {native['auroc']:.3f} |  | {native['refused']:.3f} |" in render_card(folder, "phantom")


def test_films_to_fine_tune_on_and_the_others_come_from_different_blocks():
    rng = np.random.default_rng(1)
    blocks = np.repeat([*range(30), 99], [*rng.integers(1, 12, 30), 50])
    labels = (rng.random(len(blocks)) < 0.3).astype(int)
    train, others, rest = fine_tuning.draw_films(labels, blocks, 40, 20, seed=1)
    assert (len(set(train)), len(set(others))) == (40, 20)
    assert set(others) < set(rest)
    assert not set(blocks[train]) & set(blocks[rest])
    assert set(blocks) == {*blocks[train], *blocks[rest]}
    assert 99 in blocks[rest]  # more films than are drawn
    assert min(np.bincount(labels[side]).min() for side in (train, others)) >= 4


LONG = (
    comparisons, data_loading, demo_app, fine_tuning, framing, killed_trainings, label_leakage, ood_scores,
    phantom_speed, runtimes, shortcuts, static_space, worklist_speed,
)  # fmt: skip


@pytest.mark.parametrize("benchmark", LONG, ids=lambda module: module.__name__)
def test_a_long_benchmark_has_help(benchmark, capsys):
    with pytest.raises(SystemExit, match="0"):
        benchmark.main(["--help"])
    shown = capsys.readouterr().out
    assert all(f"\n  {topic} " in shown for topic in benchmark.TOPICS)


@pytest.fixture(scope="module")
def batch():
    return render_batch()


# One system of each family that is trained; `systems.py` checks all of them with their real backbones.
@pytest.mark.parametrize("name", ["x_attention", "a_siamese_two_stage", "c_specialized_cnn4"])
def test_a_system_learns_is_saved_and_explains(name, batch):
    found = check_system(name, *batch, side=48, slim=True)
    for stage, learned in found["stages"].items():
        assert has_learned(learned), (stage, learned)
    assert found["equal"]
    assert found["heatmaps"] or "No heatmap" in found["why_not"]
