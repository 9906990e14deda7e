"""Runs the three comparisons whose figures the READMEs quote. Finished runs below runs/ are not trained again.

Topics:
  comparisons  FuseNet, gated attention, specialized models and batch-hard loss against what each builds on, on 1,000
               studies of data/phantoms, three seeds (90 minutes; reports in runs/comparisons)
  ablation     each part of the config `ours` against `p_base`, likewise (60 minutes; report in runs/ablation)
  films        what starting from mura-phantom gains on real films, and what boxes gain: FracAtlas in data/fracatlas,
               three seeds, held-out blocks (5 hours of one core; report in runs/films/arms)
"""

import json
from collections.abc import Sequence
from typing import Any

from compare import change_predictions, compare_configs, take_studies
from harness import CONFIGS, DATA, RUNS, run_benchmark

from mura_hf.common import home_folder
from mura_hf.data import load_data
from mura_hf.data.open_data import REGION_GROUPS
from mura_hf.errors import DatasetError
from mura_hf.evaluation import describe_source
from mura_hf.training import load_config

COMPARISONS = (
    ("p_fusenet", "p_base_long"),
    ("p_attention", "p_mean"),
    ("p_specialized", "p_base"),
    ("p_batch_hard", "p_base"),
    ("p_batch_hard_joint", "p_base"),
)
ABLATION = tuple(
    (f"p_{part}", "p_base") for part in ("label_smoothing", "layer_decay", "ema", "mixup", "no_part_head", "mean")
)
FILMS = (
    ("film_phantom", "film_scratch"),  # what phantoms gain without boxes
    ("film_boxes", "film_scratch"),  # what boxes gain without phantoms
    ("film_small", "film_phantom"),  # what boxes gain with phantoms
    ("film_small", "film_boxes"),  # what phantoms gain with boxes
    ("film_small", "film_scratch"),  # both
)
REGIONS = {name: REGION_GROUPS[name] for name in ("hand", "shoulder", "leg", "upper limb")}  # too few fractured hips


def measure_comparisons() -> dict[str, Any]:
    """Returns the report of `compare_configs`."""
    return _compare_on_phantoms(COMPARISONS, "comparisons")


def measure_ablation() -> dict[str, Any]:
    """Returns the report of `compare_configs`. `p_flip` has the weights of `p_base` and averages mirrored images."""
    _compare_on_phantoms(ABLATION, "ablation")
    change_predictions(RUNS / "comparisons", "p_base", "p_flip", test_time_flip=True)
    return _compare_on_phantoms([*ABLATION, ("p_flip", "p_base")], "ablation")


def measure_films() -> dict[str, Any]:
    """Returns the report of `compare_configs`, with figures to three places."""
    folder = DATA / "fracatlas"
    if not folder.is_dir():
        raise DatasetError(f"{folder} does not exist; put FracAtlas there (doi 10.6084/m9.figshare.22363012)")
    split = load_config("film_scratch", [CONFIGS]).split_options()
    datasets, source = load_data(folder, **split)
    report = compare_configs(
        datasets, FILMS, RUNS / "films" / "arms",
        data_description={**describe_source(source, folder), "body_parts": "all", "split": split}, cpu=True,
        cache_dir=home_folder() / "pixels", regions=REGIONS, match_prevalence=True,
    )  # fmt: skip
    return json.loads(json.dumps(report), parse_float=lambda text: round(float(text), 3))


def _compare_on_phantoms(pairs: Sequence[tuple[str, str]], report_name: str) -> dict[str, Any]:
    datasets, source = load_data(DATA / "phantoms", **load_config("p_base", [CONFIGS]).split_options())
    datasets["train"] = take_studies(datasets["train"], 1000)
    return compare_configs(
        datasets, pairs, RUNS / "comparisons",
        data_description={**describe_source(source, DATA / "phantoms"), "body_parts": "all"}, trained_on_phantoms=True,
        cpu=True, cache_dir=home_folder() / "pixels", findings=["subtle_fracture"], report_dir=RUNS / report_name,
    )  # fmt: skip


TOPICS = {
    "comparisons": (measure_comparisons, None),
    "ablation": (measure_ablation, None),
    "films": (measure_films, None),
}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    return run_benchmark(__doc__, TOPICS, argv)


if __name__ == "__main__":
    main()
