"""Real films: what helps a small network that starts from nothing."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from comparisons import compare_recipes, plot_comparison

from mura_hf.data import load_data
from mura_hf.data.fracatlas import REGION_GROUPS
from mura_hf.evaluation.splits import describe_source
from mura_hf.training import load_recipe

ARMS = ("film_scratch", "film_phantom", "film_boxes", "film")
"""Recipes: labels alone from scratch, labels alone from the phantom checkpoint, boxes from scratch, both."""

PAIRS = (
    ("film_phantom", "film_scratch"),
    ("film_boxes", "film_scratch"),
    ("film", "film_phantom"),
    ("film", "film_boxes"),
    ("film", "film_scratch"),
)
"""The second is what the first is measured against: what phantoms help without boxes and with them, what boxes help
without phantoms and with them, and both together.
"""

GROUPS = {name: REGION_GROUPS[name] for name in ("hand", "shoulder", "leg", "upper limb")}
"""FracAtlas' regions; a film may show several. Fractured hips are too few."""

_SHOWN = ("auroc", "kappa")


def compare_on_films(
    root: str | Path,
    output_dir: str | Path,
    *,
    pairs: Sequence[tuple[str, str]] = PAIRS,
    seeds: Sequence[int] = (0, 1, 2),
    regions: Mapping[str, Sequence[str]] = GROUPS,
    cpu: bool = False,
    cache_dir: str | Path | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Trains the arms on FracAtlas with each seed, and compares them on the blocks that are held out.

    All runs have the cut of the first pair's second recipe; an epoch is chosen on `dev`, the threshold of kappa on
    `calib`, and `valid` is looked at last. Runs that stand finished in `output_dir` are not trained again.

    Args:
        root: FracAtlas.
        output_dir: A folder for each arm and seed, `comparison.json`, `comparison.png` and the table `films.md`.
        pairs: As in `compare_recipes`.
        seeds: Of the training.
        regions: Groups of films to tell apart, as in `compare_recipes`.
        cpu: Whether to stay on the CPU.
        cache_dir: As in `train`.
        **changes: Fields of all recipes.

    Returns:
        As `compare_recipes`.
    """
    cut = load_recipe(pairs[0][1], **changes).cut()
    datasets, source = load_data(root, **cut)
    report = compare_recipes(
        datasets, pairs, output_dir, seeds=seeds,
        data_description={**describe_source(source, root), "body_parts": "all", "cut": cut}, cpu=cpu,
        cache_dir=cache_dir, regions=regions, call_by_calib=True, **changes,
    )  # fmt: skip
    plot_comparison(report, output_dir)
    (Path(output_dir) / "films.md").write_text(tabulate(report, ["all", *regions]))
    return report


def tabulate(report: dict[str, Any], groups: Sequence[str]) -> str:
    """Two tables in Markdown: the arms' figures with intervals, and the differences in AUROC with theirs."""
    recipes = report["recipes"]
    counts = next(iter(recipes.values()))
    heads = [f"{group} ({counts[group]['n_abnormal']} of {counts[group]['n']})" for group in groups]
    lines = [
        f"Held-out films (fractured of all), mean of {len(report['seeds'])} seeds with 95 % intervals over blocks; "
        '"together" is the mean of the seeds\' probabilities.',
        "",
        _row("recipe", "figure", *heads),
        _row(*["---"] * (len(groups) + 2)),
    ]
    for name, found in recipes.items():
        for figure in _SHOWN:
            lines.append(_row(name, figure, *(_tell(found[group], figure) for group in groups)))
        lines.append(_row(name, "auroc, together", *(f"{found[group]['auroc_together']:.3f}" for group in groups)))
    lines += ["", _row("difference in AUROC", *groups), _row(*["---"] * (len(groups) + 1))]
    for pair, found in report["pairs"].items():
        cells = [found[group]["auroc"] for group in groups]
        lines.append(
            _row(pair, *(f"{cell['difference']:+.3f} ({cell['low']:+.3f} to {cell['high']:+.3f})" for cell in cells))
        )
    return "\n".join(lines) + "\n"


def _tell(found: dict[str, Any], figure: str) -> str:
    low, high = found["intervals"][figure]
    return f"{found[figure]:.3f} ({low:.3f} to {high:.3f})"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def summarize(report: dict[str, Any]) -> dict[str, Any]:
    """What measurements keep of a report: figures to three places, with intervals."""
    return json.loads(json.dumps(report), parse_float=lambda text: round(float(text), 3))
