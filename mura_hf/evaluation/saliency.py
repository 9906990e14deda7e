"""Evaluation of heatmaps: by boxes, by added findings, by the prediction, and by what the model has learned."""

from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..data.views import group_studies
from ..inference import StudyPredictor
from ..metrics import bootstrap_mean
from ..models import BODY_PARTS
from ..phantoms import MIX, render_phantom
from . import insertion_deletion, randomization
from .pointing_game import PointingGame, compare_with_box, play_pointing_game, views_with_one_box
from .prediction_cache import PredictionCache, body_part_of

N_PHANTOMS = 210
"""Phantom patients of `measure_sensitivity`."""


def measure_saliency(cache: PredictionCache, predictor: StudyPredictor, *, phantoms: bool) -> dict[str, Any]:
    """Runs every evaluation of heatmaps that checkpoint and data allow.

    Args:
        cache: Checkpoint and split.
        predictor: The checkpoint.
        phantoms: Whether to run `measure_sensitivity`, which renders phantoms.

    Returns:
        `randomization`, see `measure_randomization`. If the checkpoint has heatmaps: `insertion_deletion`, see
        `measure_insertion_deletion`; `sensitivity`, see `measure_sensitivity`; with boxes, `pointing_game`, see
        `PointingGame.report`, and `projections`, see `projection_agreement`.
    """
    rows = cache.rows
    options: dict[str, Any] = {
        "n_views": randomization.N_VIEWS,
        "n_seeds": randomization.N_SEEDS,
        "steps": randomization.STEPS,
    }
    measure = partial(randomization.measure_randomization, predictor, rows, **options)
    report = {"randomization": cache.measure_once("randomization", options, measure)}
    if "none" in report["randomization"]:
        return report
    options = {"n_views": insertion_deletion.N_VIEWS, "steps": insertion_deletion.STEPS}
    measure = partial(insertion_deletion.measure_insertion_deletion, predictor, rows, **options)
    report["insertion_deletion"] = cache.measure_once("insertion_deletion", options, measure)
    if _has_heatmaps_of_boxes(predictor, cache):
        report |= cache.measure_once("pointing_game", {}, partial(_pointing_game, predictor, cache))
    if phantoms:
        options = {"n": N_PHANTOMS}
        measure = partial(measure_sensitivity, predictor, **options)
        report["sensitivity"] = cache.measure_once("sensitivity", options, measure)
    return report


def _has_heatmaps_of_boxes(predictor: StudyPredictor, cache: PredictionCache) -> bool:
    """Returns whether a view has exactly one box, and the checkpoint a heatmap for its body part."""
    chosen = views_with_one_box(cache.rows)
    if not chosen:
        return False
    ramp = np.tile(np.arange(64, dtype=np.uint8), (64, 1))
    part = body_part_of({"body_part": cache.rows["body_part"][chosen[0]]})
    return predictor([ramp], body_part=part).views[0].heatmap is not None


def _pointing_game(predictor: StudyPredictor, cache: PredictionCache) -> dict[str, Any]:
    game = play_pointing_game(predictor, cache.rows)
    agreement = projection_agreement(game)
    return {"pointing_game": game.report(), **({} if agreement is None else {"projections": agreement})}


def projection_agreement(game: PointingGame) -> dict[str, Any] | None:
    """Measures how often the heatmaps of two projections of one study point at the same finding.

    Pixels of two projections do not correspond, but the boxes of a finding do. Two heatmaps point at the same place if
    each hottest pixel lies in the box of its own view. All pairs of a study's views that show the finding count.

    Args:
        game: From `play_pointing_game`.

    Returns:
        `n` pairs; `both`, the share in which both hit the finding, with `low` and `high` (95 % interval from a
        bootstrap over patients) and `expected`, that share for independent views with the same share of hits; `one`
        and `neither`, the other shares; `kappa`, the agreement on hits beyond chance (None if all views are alike).
        None if no study has two such views.
    """
    studies = group_studies(game.rows["study_id"]).values()
    pairs = np.asarray([pair for members in studies for pair in combinations(members, 2)], int)
    if not len(pairs):
        return None
    hits = game.hits[pairs]  # [pairs, 2]
    both, neither = hits.all(1), ~hits.any(1)
    rate = hits.mean()
    agreement, by_chance = float((both | neither).mean()), float(rate**2 + (1 - rate) ** 2)
    low, high = bootstrap_mean(both, np.asarray(game.rows["patient_id"])[pairs[:, 0]])
    return {
        "n": len(pairs),
        "both": float(both.mean()),
        "low": low,
        "high": high,
        "expected": float(rate**2),
        "one": 1 - agreement,
        "neither": float(neither.mean()),
        "kappa": (agreement - by_chance) / (1 - by_chance) if by_chance < 1 else None,
    }


def measure_sensitivity(
    predictor: StudyPredictor, n: int = N_PHANTOMS, seed: int = 2_000_000, *, size: int = 512, progress: bool = True
) -> dict[str, Any]:
    """Renders views with and without a finding, equal bit for bit elsewhere, and compares their heatmaps.

    Without the finding its place looks normal, so heat that still lies there is habit. A difference between the two is
    caused by the finding, since nothing else was changed.

    Args:
        predictor: A checkpoint with heatmaps.
        n: Number of patients with one view each. Body parts take turns; findings have the shares of `MIX`. Patients
            whose finding is not visible in the view do not count.
        seed: Seed of the first patient. Seeds of a training tree below 2^32 are unlikely to occur again.
        size: Long side in pixels.
        progress: Whether to show a progress bar.

    Returns:
        `overall` and each kind of finding: `n`; `inside` and `inside_without`, the mean share of the heat inside the
        finding's box with and without the finding; their `difference` with `low` and `high` (95 % interval from a
        bootstrap over patients); `hits` and `hits_without`, the shares whose hottest pixel lies in the box; and
        `area`, the mean share of the image that the box covers.
    """
    rng = np.random.default_rng([seed, 0])
    kinds = rng.choice(list(MIX), size=n, p=np.array(list(MIX.values())) / sum(MIX.values()))
    rows: dict[str, list[tuple[float, ...]]] = {"overall": [], **{kind: [] for kind in MIX}}
    for number in tqdm(range(n), desc="Added findings", disable=not progress):
        part, patient = BODY_PARTS[number % len(BODY_PARTS)], seed + number
        view = (number // len(BODY_PARTS)) % 3
        pair = [
            render_phantom(patient, body_part=part, view=view, finding=finding, size=size)
            for finding in (str(kinds[number]), None)
        ]
        box, kind = pair[0].box, pair[0].finding
        if box is None or kind is None:
            continue
        row: list[float] = []
        for phantom in pair:
            heatmap = predictor([phantom.pixels], body_part=part).views[0].heatmap
            assert heatmap is not None
            hit, _, inside = compare_with_box(heatmap, box)
            row += [inside, float(hit)]
        area = (box[2] - box[0]) * (box[3] - box[1]) / pair[0].pixels.size
        for name in ("overall", kind):
            rows[name].append((*row, area))
    return {name: _sensitivity_summary(np.asarray(values)) for name, values in rows.items() if values}


def _sensitivity_summary(values: np.ndarray) -> dict[str, Any]:
    inside, hits, inside_without, hits_without, area = values.T
    low, high = bootstrap_mean(inside - inside_without, np.arange(len(values)))
    return {
        "n": len(values),
        "inside": float(inside.mean()),
        "inside_without": float(inside_without.mean()),
        "difference": float((inside - inside_without).mean()),
        "low": low,
        "high": high,
        "hits": float(hits.mean()),
        "hits_without": float(hits_without.mean()),
        "area": float(area.mean()),
    }
