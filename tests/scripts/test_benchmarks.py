"""Runs each benchmark once on tiny sizes, or only its `--help` if it trains, kills or serves for long."""

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path

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
from retrieval_speed import clustered_codes, share_found
from retrieval_speed import main as retrieval_speed
from systems import SYSTEMS, build_system, check_system, has_learned, render_batch, shrink_config
from training_speed import main as training_speed

from mura_hf import StudyPredictor, load_mura, read_radiograph
from mura_hf.common import BUNDLED
from mura_hf.errors import MuraError
from mura_hf.evaluation.pointing_game import play_pointing_game
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
    """Bounds are those of a busy machine; on an idle one a heatmap costs 1.05 forward passes, and FuseNet 2.2."""
    name = str(checkpoint)
    assert 0.5 < measure_prediction([name], rounds=2)[name]["heatmap_ratio"] < 5
    found = prediction_speed(["--quick", "--topics", "explain", "fusenet"])
    for row in found["explain"].values():
        assert row["method"] == "grad_cam"
        assert 0.5 < row["ratio"] < 2.5
        assert row["grad_cam_ratio"] is None or row["grad_cam_ratio"] < 1
    assert 1 < found["fusenet"]["ratio"] < 4
    assert 1 < found["fusenet"]["full_resolution_ratio"] < 4


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


def test_runtimes_that_are_missing_are_left_out(checkpoint, monkeypatch):
    def find(name):
        if name != "torch":
            raise ImportError(f"{name} is not installed")
        return name

    def fail(*_):
        raise RuntimeError("no compiler\nDetails")

    monkeypatch.setattr(runtimes, "check_runtime", find)
    monkeypatch.setattr(torch, "compile", lambda *_, **__: fail)  # it fails when it is called
    left_out = {name: f"{name} is not installed" for name in ("onnxruntime", "openvino")}
    forward = runtimes.measure_forward([("resnet10t", [1])], 64, runtimes.VARIANTS[:-1], 1, rounds=1)
    assert list(forward["resnet10t, batch of 1"]["eager"]) == ["milliseconds"]
    whole = runtimes.measure_whole([str(checkpoint)], threads=1, rounds=1)
    assert forward["left_out"] == {"compiled": "no compiler", **left_out}
    assert whole["left_out"] == left_out
    assert whole[str(checkpoint)]["torch"]["over_torch"] == 1


def test_training_speed():
    found = training_speed(["--quick"])
    assert found["loop"]["rate"] > 0
    assert found["precision"]["bf16_channels_last"] > 0


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


@pytest.mark.parametrize("zoom", framing.ZOOMS)
def test_a_window_has_the_proportions_of_the_film_and_contains_the_box(zoom):
    rng, shape = np.random.default_rng(0), (300, 200)
    firsts = set()
    for box in [(0, 0, 10, 12), (190, 290, 200, 300), (95, 140, 105, 150)] * 10:
        rows, columns = framing.find_window(shape, box, zoom, rng)
        assert (rows.stop - rows.start, columns.stop - columns.start) == (round(300 / zoom), round(200 / zoom))
        assert 0 <= rows.start <= box[1] < box[3] <= rows.stop <= 300
        assert 0 <= columns.start <= box[0] < box[2] <= columns.stop <= 200
        firsts.add(rows.start)
    assert len(firsts) > 5
    rows, columns = framing.find_window(shape, (20, 30, 190, 280), zoom, rng)  # larger than the window
    assert abs(rows.start + rows.stop - 310) <= 2
    assert abs(columns.start + columns.stop - 210) <= 2


def test_places_on_normal_films_are_like_those_of_findings():
    film, rng = np.zeros((200, 100), np.uint8), np.random.default_rng(0)
    film[:, 30:60], film[80:120, 40:50] = 120, 220  # a limb with a bright bone
    for shown in (film, film[::-1, ::-1]):  # mirror images are alike
        limb = framing.find_limb(shown)
        for box, level in (((42, 90, 48, 100), 220), ((31, 10, 37, 20), 120)):
            place = framing.describe_place(framing.find_limb(film), film.shape, box)
            x0, y0, x1, y1 = framing.find_similar_place(limb, film.shape, place, rng)
            assert shown[y0:y1, x0:x1].mean() == pytest.approx(level, rel=0.15)
            assert framing.describe_place(limb, film.shape, (x0, y0, x1, y1)) == pytest.approx(place, abs=0.12)


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
    assert list(report["checkpoints"]["again"]) == list(framing.VARIANTS)
    native, crop = (report["checkpoints"]["again"][name] for name in (framing.NATIVE, "zoom 2"))
    expected = [predictor([row["image"]["path"]], heatmaps=False) for row in rows]
    order = np.argsort([study.probability for study in expected])
    assert native["auroc"] == pytest.approx((order.argsort()[5:].sum() - 10) / 25)
    assert crop["change"]["difference"] == pytest.approx(crop["auroc"] - native["auroc"])
    assert crop["against_first"]["difference"] == 0
    assert native["refused"] == pytest.approx(np.mean([study.in_distribution is False for study in expected]))
    table = framing.framing_table(report)
    assert table.count("\n") == len(framing.VARIANTS) + 1
    assert f"| native | {native['auroc']:.3f}".replace("0.", ".") in table
    folder = shutil.copytree(BUNDLED["mura-phantom"], tmp_path / "phantom")
    framing.add_to_evaluation(str(folder), report | {"checkpoints": {str(folder): report["checkpoints"]["again"]}})
    assert f"| native | {native['auroc']:.3f} |  | {native['refused']:.3f} |" in render_card(folder, "phantom")
    pointing = framing.measure_pointing({"phantom": predictor, "again": predictor}, rows)
    assert (pointing["films"], pointing["checkpoints"]["phantom"]) == (5, _hits(predictor, rows))
    assert {row["mean"] for row in pointing["checkpoints"]["again"]["against_first"].values()} == {0}
    answers = framing.answer_radiographs({"phantom": predictor}, Path(phantom_files[0]).parent)
    assert set(answers) == {Path(file).name for file in phantom_files}


def test_films_that_a_checkpoint_has_seen_are_left_out(monkeypatch, phantom_tree):
    rows = load_mura(phantom_tree)["train"]
    splits = {
        "one": rows,
        "two": rows.select(range(0, len(rows), 2)),
        "normal": rows.filter(lambda row: row["label"] == 0),
    }
    monkeypatch.setattr(framing, "load_split", lambda name, *_: (splits[name], {}))
    both = framing.hold_out(["one", "two"], phantom_tree, "valid")
    seen = set(splits["two"]["study_id"])
    expected = [
        row for row in rows.remove_columns("image") if row["study_id"] in seen and (row["boxes"] or not row["label"])
    ]
    assert both.remove_columns("image").to_list() == expected
    for names, message in ((["normal"], "no normal and abnormal films"), (["bare"], "has no boxes")):
        splits["bare"] = rows.remove_columns("boxes")
        with pytest.raises(MuraError, match=message):
            framing.hold_out(names, phantom_tree, "valid")


def _hits(predictor, rows):
    report = play_pointing_game(predictor, rows).report()["overall"]
    return pytest.approx({"hits": report["hits"], "overlap": report["overlap"]["mean"], "iou": report["box"]["mean"]})


@pytest.mark.parametrize("seed", range(5))
def test_films_to_fine_tune_on_and_the_others_come_from_different_blocks(seed):
    rng = np.random.default_rng(1)
    blocks = np.repeat([*range(30), 99], [*rng.integers(1, 12, 30), 50])
    labels = (rng.random(len(blocks)) < 0.3).astype(int)
    train, others, rest = fine_tuning.draw_films(labels, blocks, 40, 20, seed)
    assert (len(set(train)), len(set(others))) == (40, 20)
    assert set(others) < set(rest)
    assert not set(blocks[train]) & set(blocks[rest])
    assert set(blocks) == {*blocks[train], *blocks[rest]}
    assert 99 in blocks[rest]  # more films than are drawn
    assert min(np.bincount(labels[side]).min() for side in (train, others)) >= 4
    again = fine_tuning.draw_films(labels, blocks, 40, 20, seed)
    assert [list(side) for side in again] == [list(train), list(others), list(rest)]


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


# One system of each family that is trained; `systems.py` checks all of them with their real backbones.
@pytest.mark.parametrize("name", ["x_attention", "a_siamese_two_stage", "c_specialized_cnn4"])
def test_a_system_learns_is_saved_and_explains(name, batch):
    found = check_system(name, *batch, side=48, slim=True)
    for stage, learned in found["stages"].items():
        assert has_learned(learned), (stage, learned)
    assert found["equal"]
    assert found["heatmaps"] or "No heatmap" in found["why_not"]
