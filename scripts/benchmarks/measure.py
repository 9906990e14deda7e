"""Measures the figures that README, cards and notes quote, and appends them to scripts/measurements.json. "all" leaves
out what takes long.

Topics:
  import     seconds that `import mura_hf` adds to torch and transformers' modelling, best of five
  predict    milliseconds from the files of a study of three views to its answer, of each checkpoint of the package,
             and the cost of heatmaps over the same without, alternated in one process, medians
  explain    an answer with heatmap over the bare forward pass and over PyPI's grad-cam (pip install --no-deps grad-cam
             ttach; left out without), one picture of 320 px, alternated in one process, median ratios
  mining     batch-hard loss of 128 x 2,048, forward and backward, over pytorch-metric-learning's, alternated in one
             process, median ratio
  fusenet    prediction of FuseNet (ResNet-50, 224 px), and of its full-resolution variant (512 px), over its global
             branch alone, alternated in one process, median ratios
  bootstrap  2,000 resamples of 1,199 studies, all figures: how many times as fast as the same loop over scikit-learn,
             in one process
  retrieval  exact search of 36,808 codes of 2,048 over FAISS's FlatL2, one query and 3,197, and whether the neighbours
             are those of float64, for clusters of four kinds (5 minutes)
  retrieval_million  recall at 5, and time over exact search, of FAISS's IVF1024,SQ8 on 1,000,000 codes of 512 (5
             minutes, 8 GB of memory)
  coverage   how often 95 % intervals hold the truth, over 1,000 simulated sets of clustered studies (2 minutes)
  systems    every system of the README's table at 64 px with its real backbone: learns one batch of 32 by heart, is
             saved and loaded, answers and explains (40 minutes)
  phantoms   phantom pictures a second at 512 px, one process and two
  load       seconds in which load_mura loads a tree with MURA's 40,005 rows, best of three
  cache      the pixel cache at 224 px over 40,000 files of 512 px: pictures built a second over those that two
             processes decode and resize a second, alternated, median of three; pictures read a second (6 minutes)
  kills      whether a cache is whole and right after each of ten builds that were killed in the middle (5 minutes)
  killed_runs  60 SIGKILLs of training runs, 20 of them while a state is being written: how many of the runs end with
             the weights, the optimiser and the rows met of a run left alone, bit by bit (2 minutes)
  loop       steps of the training loop over bare steps of PyTorch with the same model (densenet169, 224 px, batch of
             8), precision and cached pictures, alternated, median of seven rounds (5 minutes)
  precision  how many times as fast a training step of densenet169 at 224 px is in bf16, and in fp32, with channels
             last as in fp32 with channels first, alternated, median of five rounds (5 minutes)
  untrusted  5,000 damaged PNG, JPEG and DICOM files through the guarded reader (5 minutes)
  giveaways  what else than the finding tells the label of the phantom studies in data/phantoms that
             mura-phantom is measured on, fitted on 1,500 others (10 minutes)
  comparisons  FuseNet, gated attention, specialised models and batch hard against what each builds on, on 1,000
             studies of data/phantoms, three seeds; runs that stand in runs/comparisons are kept (90 minutes)
  ablation   what the recipe "ours" is made of, one thing at a time, likewise; runs stand in runs/comparisons too,
             the report in runs/ablation (60 minutes)
  fine_tune  mura-phantom fine-tuned on 200 phantom studies of the wrist, with a finding and an exposure that
             it never saw, against itself on 300 others (6 minutes, of which one makes the phantoms)
  shortcuts  how far a side marker moves a model that was trained on phantoms whose marker gives the label away, and
             mura-phantom, with 95 % intervals: the first must be caught, the second cleared (15 minutes)
  demo       seconds in which `python app.py` answers, its page opens in Chromium, and a study of three views that is
             dropped there is answered, by each checkpoint of the package and by densenet169 at 320 px, medians of
             five (5 minutes)
  demo_load  200 studies asked by eight programs at once: errors, seconds, memory, what is left on the server two
             minutes later; then 64 at once, of whom those beyond the queue are refused in words (5 minutes)
  worklist   rate of a worklist over a bare loop of decoding, preprocessing and model (densenet169, 320 px), in turn;
             two processes against one, and a run that is killed and goes on (15 minutes)
  films      what starting from mura-phantom and what boxes help on real films: FracAtlas in data/fracatlas, three
             seeds, held-out blocks; runs that stand in runs/films/arms are kept (5 hours of one core)
"""

import argparse
import importlib
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

MEASUREMENTS = Path(__file__).with_name("measurements.json")

_IMPORT = """
import time, torch
from transformers import PreTrainedModel
start = time.perf_counter()
import mura_hf
print(time.perf_counter() - start)
"""


def measure_import() -> dict[str, float]:
    seconds = []
    for _ in tqdm(range(5), desc="import"):
        done = subprocess.run([sys.executable, "-c", _IMPORT], capture_output=True, text=True, check=True)
        seconds.append(float(done.stdout))
    return {"seconds": round(min(seconds), 3)}


def measure_mining() -> dict[str, Any]:
    from mining_speed import measure_mining_cost

    return {**measure_mining_cost(), "pytorch_metric_learning": version("pytorch-metric-learning")}


def measure_systems() -> dict[str, Any]:
    from systems import render_films, walk_system

    from mura_hf.training import recipe_names

    films = render_films()
    names = [name for name in recipe_names() if name[:2] in ("a_", "b_", "c_", "d_", "e_", "x_")]
    walked = {name: walk_system(name, *films) for name in tqdm(names, desc="systems")}
    for name, found in walked.items():
        tqdm.write(f"{name}: {json.dumps(found)}")
    learned = {
        name: all(stage["left"] <= (0.7 if stage["frozen"] else 0.2) for stage in found["stages"].values())
        for name, found in walked.items()
    }
    return {
        "systems": len(names),
        "learned": sum(learned.values()),
        "equal_after_loading": sum(found["equal"] for found in walked.values()),
        "with_heatmaps": sum(found["heatmaps"] for found in walked.values()),
        "most_steps": max(stage["steps"] for found in walked.values() for stage in found["stages"].values()),
        "not_learned": [name for name, well in learned.items() if not well],
    }


def _render_every_part(first_seed: int) -> int:
    """Renders three projections of a new patient of every part, every other one abnormal; returns how many."""
    import cv2

    from mura_hf.phantoms import BODY_PARTS, FINDINGS, render_phantom

    cv2.setNumThreads(1)
    for number, part in enumerate(BODY_PARTS):
        finding = FINDINGS[(first_seed + number) % len(FINDINGS)] if number % 2 else None
        for view in range(3):
            render_phantom(first_seed + number, body_part=part, view=view, finding=finding)
    return 3 * len(BODY_PARTS)


def measure_phantoms() -> dict[str, float]:
    rates = {}
    for processes in (1, 2):
        spawned = multiprocessing.get_context("spawn")  # a fork after torch has run may hang
        with ProcessPoolExecutor(processes, mp_context=spawned) as pool:
            list(pool.map(_render_every_part, range(0, 100 * processes, 100)))  # starts, compiles
            rounds = range(1000, 1000 + 800 * processes, 100)
            start = time.perf_counter()
            made = sum(tqdm(pool.map(_render_every_part, rounds), total=len(rounds), desc=f"phantoms, {processes}"))
            rates[f"per_second_{processes}_processes"] = round(made / (time.perf_counter() - start), 1)
    return rates


def measure_giveaways() -> dict[str, dict[str, float]]:
    from mura_hf import load_mura
    from mura_hf.common import BUNDLED
    from mura_hf.evaluation import measure_giveaways as measure
    from mura_hf.phantoms import phantom_record, write_phantom_mura

    made = json.loads((BUNDLED["mura-phantom"] / "training.json").read_text())["data"]["made_with"]
    tree = MEASUREMENTS.parents[1] / "data" / "phantoms"
    if phantom_record(tree) != made:
        sys.exit(f"{tree} is not what mura-phantom was trained on; make it with the command on its card")
    with tempfile.TemporaryDirectory() as folder:
        # Fitted on other patients and without twins, in which whatever else goes with a label would cancel out.
        write_phantom_mura(folder, 1501, made["seed"] + 1, valid_fraction=1 / 1501, workers=os.cpu_count() or 1)
        fit, held_out = (load_mura(root, dev_fraction=0.0, calib_fraction=0.0) for root in (folder, tree))
        found = measure(fit["train"], held_out["valid"])
    return {name: {key: round(row[key], 3) for key in ("auroc", "low", "high")} for name, row in found.items()}


def measure_load() -> dict[str, float]:
    from make_counted_tree import write_counted_mura

    from mura_hf import load_mura

    with tempfile.TemporaryDirectory() as folder:
        tree = write_counted_mura(folder)
        times = []
        for _ in range(3):
            start = time.perf_counter()
            rows = sum(map(len, load_mura(tree).values()))
            times.append(time.perf_counter() - start)
    return {"rows": rows, "seconds": round(min(times), 2)}


def measure_comparisons() -> dict[str, Any]:
    pairs = [
        ("p_fusenet", "p_base_long"),
        ("p_attention", "p_mean"),
        ("p_specialized", "p_base"),
        ("p_batch_hard", "p_base"),
        ("p_batch_hard_joint", "p_base"),
    ]
    return _compare(pairs, "comparisons")


def measure_ablation() -> dict[str, Any]:
    from mura_hf.evaluation import answer_otherwise

    parts = ("label_smoothing", "layer_decay", "ema", "mixup", "no_part_head", "mean")
    pairs = [(f"p_{part}", "p_base") for part in parts]
    _compare(pairs, "ablation")
    answer_otherwise(MEASUREMENTS.parents[1] / "runs" / "comparisons", "p_base", "p_flip", test_time_flip=True)
    return _compare([*pairs, ("p_flip", "p_base")], "ablation")


def _compare(pairs: list[tuple[str, str]], report_name: str) -> dict[str, Any]:
    from mura_hf import evaluation as assessment
    from mura_hf.data import home_folder, load_data
    from mura_hf.training import load_recipe

    root = MEASUREMENTS.parents[1]
    tree, runs = root / "data" / "phantoms", root / "runs"
    datasets, source = load_data(tree, **load_recipe("p_base").cut())
    datasets["train"] = assessment.take_studies(datasets["train"], 1000)
    report = assessment.compare_recipes(
        datasets, pairs, runs / "comparisons", trained_on_phantoms=True, cpu=True, cache_dir=home_folder() / "pixels",
        data_description={**assessment.describe_source(source, tree), "body_parts": "all"}, alone=["subtle_fracture"],
        report_dir=runs / report_name,
    )  # fmt: skip
    assessment.plot_comparison(report, runs / report_name)
    assessment.write_comparison_table(report, runs / report_name)
    return report


def measure_films() -> dict[str, Any]:
    from films import compare_on_films, summarize

    from mura_hf.data import home_folder

    root = MEASUREMENTS.parents[1]
    films = root / "data" / "fracatlas"
    if not films.is_dir():
        sys.exit(f"{films} is not there; put FracAtlas there (doi 10.6084/m9.figshare.22363012), or a link to it")
    report = compare_on_films(films, root / "runs" / "films" / "arms", cpu=True, cache_dir=home_folder() / "pixels")
    return summarize(report)


def measure_refusal() -> dict[str, Any]:
    from ood_scores import compare_refusal_scores

    from mura_hf.common import BUNDLED
    from mura_hf.evaluation import load_splits

    data = MEASUREMENTS.parents[1] / "data"
    films = {"FracAtlas": data / "fracatlas" / "images"} if (data / "fracatlas").is_dir() else {}
    report = {}
    for name, tree, others in (("mura-phantom", "phantoms", films), ("mura-film", "fracatlas", {})):
        if (data / tree).is_dir():
            datasets, _ = load_splits(BUNDLED[name], data / tree, "calib")
            report[name] = compare_refusal_scores(name, datasets, others)
    return report or sys.exit(f"{data} holds neither phantoms nor fracatlas; put there what was trained on")


def _call(module: str, function: str) -> Callable[[], dict[str, Any]]:
    """A topic that is one function of the package, which is imported when it is asked for."""
    return lambda: getattr(importlib.import_module(f"mura_hf.evaluation.{module}"), function)()


def _call_in_folder(module: str, function: str, **options: Any) -> Callable[[], dict[str, Any]]:
    """As `_call`, of a function that is given a folder to work in."""

    def measure() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            return getattr(importlib.import_module(f"mura_hf.evaluation.{module}"), function)(Path(folder), **options)

    return measure


TOPICS: dict[str, Callable[[], dict[str, Any]]] = {
    "import": measure_import,
    "predict": _call_in_folder("answer_cost", "measure_answers"),
    "explain": _call("explain_cost", "measure_explain_cost"),
    "mining": measure_mining,
    "fusenet": _call("fusenet_cost", "measure_fusenet_cost"),
    "bootstrap": _call("bootstrap_cost", "measure_bootstrap_cost"),
    "coverage": _call("bootstrap_cost", "measure_coverage"),
    "retrieval": _call("retrieval_cost", "measure_retrieval_cost"),
    "retrieval_million": _call("retrieval_cost", "measure_retrieval_million"),
    "systems": measure_systems,
    "phantoms": measure_phantoms,
    "load": measure_load,
    "killed_runs": _call_in_folder("killed_runs", "measure_killed_runs"),
    "cache": _call("cache_speed", "measure_cache_speed"),
    "kills": _call("cache_speed", "measure_killed_builds"),
    "loop": _call("loop_cost", "measure_loop_cost"),
    "precision": _call("loop_cost", "measure_precision"),
    "giveaways": measure_giveaways,
    "comparisons": measure_comparisons,
    "ablation": measure_ablation,
    "films": measure_films,
    "untrusted": _call("untrusted", "measure_untrusted"),
    "fine_tune": _call_in_folder("fine_tuning", "measure_fine_tuning", workers=os.cpu_count() or 1),
    "refusal": measure_refusal,
    "shortcuts": _call_in_folder("planted", "measure_planted", workers=os.cpu_count() or 1),
    "demo": _call_in_folder("demo_speed", "measure_demo"),
    "demo_load": _call_in_folder("demo_load", "measure_demo_load"),
    "worklist": _call_in_folder("worklist_speed", "measure_worklist"),
}
LONG = (
    "coverage", "retrieval", "retrieval_million", "systems", "cache", "kills", "killed_runs", "loop", "precision",
    "giveaways", "comparisons", "ablation", "films", "untrusted", "fine_tune", "shortcuts", "refusal",
    "demo", "demo_load", "worklist",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("topics", nargs="+", choices=[*TOPICS, "all"])
    options = parser.parse_args()
    for topic in [topic for topic in TOPICS if topic not in LONG] if "all" in options.topics else options.topics:
        record = {
            "topic": topic,
            **TOPICS[topic](),
            "date": datetime.now(UTC).date().isoformat(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "versions": {name: version(name) for name in ("mura_hf", "torch", "transformers", "timm", "captum")},
        }
        records = json.loads(MEASUREMENTS.read_text()) if MEASUREMENTS.exists() else []
        MEASUREMENTS.write_text(json.dumps([*records, record], indent=1) + "\n")
        print(json.dumps(record))


if __name__ == "__main__":
    main()
