"""Pointing game: do heatmaps lie on the findings that radiologists, or phantoms, mark with boxes?"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import cv2
import numpy as np
from datasets import Dataset, Image
from tqdm.auto import tqdm

from ..data.views import group_studies
from ..errors import CheckpointError, DatasetError
from ..explain import localize
from ..inference import StudyPredictor
from ..metrics import mean_with_interval
from .splits import body_part_of, has_regions, image_source, region_members

_GRID = 64  # side of the mean heatmaps
_LEAST_OVERLAPS = (0.1, 0.3, 0.5)


@dataclass(frozen=True, eq=False)
class PointingGame:
    """Results for the abnormal views with boxes; arrays are `[n]` in the order of `rows`."""

    rows: Dataset
    single: np.ndarray  # bool, whether the view has exactly one box
    hits: np.ndarray  # bool, whether the hottest pixel lies inside a box
    overlaps: np.ndarray  # largest intersection over union of the box from `localize` with a true box
    inside: np.ndarray  # share of the heat inside the box that has most of it
    cold: np.ndarray  # bool, whether the heatmap is zero everywhere; the others are then False and 0
    constant: np.ndarray  # `[3, n]`: hits, overlaps and inside of the constant guess; nan without guess or one box

    def report(self) -> dict[str, Any]:
        """Summarises groups of views.

        A view is a hit if the hottest pixel lies inside the box (Zhang et al., arXiv 1608.00507, without their margin
        of 15 pixels). A heatmap without any heat is a miss.

        Returns:
            `overall`; `small`, `medium` and `large` (thirds by the area of the box); each of `REGION_GROUPS` and each
            kind of finding if the rows have these. Each holds `n`, `hits` (a share) with `low` and `high` (95 %
            interval over patients), `constant` (share of hits of the constant guess), `cold` (share
            of heatmaps without heat), and `overlap` and `inside`, each with `mean`, `low`, `high` and `constant`. The
            constant guess has intervals too (`constant_low`, `constant_high`), over the views that have one. All of
            these are about the views with exactly one box. `box` is about all views of the group with boxes: the
            intersection over union (IoU) of the box that a `StudyPrediction` shows with the true box that it fits
            best. It holds `n`, `mean`, `low` and `high`; `hits`, the same for the views whose hottest pixel lies in a
            box (None if there are none); and `at_least`, with the share of views (`mean`, `low`, `high`) whose IoU is
            at least .1, .3 and .5.
        """
        patients = np.asarray(self.rows["patient_id"])
        report = {}
        for name, group in _groups(self.rows, self.single).items():
            members = group & self.single
            if members.any():
                hits, overlap, inside = (
                    _with_guess(values[members], guesses[members], patients[members])
                    for values, guesses in zip((self.hits, self.overlaps, self.inside), self.constant, strict=True)
                )
                report[name] = {
                    "n": int(members.sum()),
                    "hits": hits.pop("mean"),
                    **hits,
                    "cold": float(self.cold[members].mean()),
                    "overlap": overlap,
                    "inside": inside,
                    "box": _box_figures(self.overlaps[group], self.hits[group], patients[group]),
                }
        return report


def _box_figures(overlaps: np.ndarray, hits: np.ndarray, patients: np.ndarray) -> dict[str, Any]:
    return {
        "n": len(overlaps),
        **mean_with_interval(overlaps, patients, least=0),
        "hits": (
            {"n": int(hits.sum()), **mean_with_interval(overlaps[hits], patients[hits], least=0)}
            if hits.any()
            else None
        ),
        "at_least": {str(least): mean_with_interval(overlaps >= least, patients) for least in _LEAST_OVERLAPS},
    }


def _with_guess(values: np.ndarray, guesses: np.ndarray, patients: np.ndarray) -> dict[str, float | None]:
    known = np.isfinite(guesses)
    guess = (  # of the same kind as the values: hits are a proportion
        mean_with_interval(guesses[known].astype(values.dtype), patients[known], least=0)
        if known.any()
        else dict.fromkeys(("mean", "low", "high"))
    )
    return {
        **mean_with_interval(values, patients, least=0),
        "constant": guess["mean"],
        "constant_low": guess["low"],
        "constant_high": guess["high"],
    }


def _groups(rows: Dataset, single: np.ndarray) -> dict[str, np.ndarray]:
    """Name of a group -> which views are in it, bool `[n]`. Thirds are those of the views with a single box."""
    areas = np.asarray([max((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes) for boxes in rows["boxes"]])
    lower, upper = np.quantile(areas[single], [1 / 3, 2 / 3])
    groups = {
        "overall": np.ones(len(rows), bool),
        "small": areas <= lower,
        "medium": (areas > lower) & (areas <= upper),
        "large": areas > upper,
    }
    if has_regions(rows):
        groups |= region_members(rows["region"])
    if "finding" in rows.column_names:
        kinds = np.asarray([kind or "unknown" for kind in rows["finding"]])
        groups |= {str(kind): kinds == kind for kind in sorted(set(kinds))}
    return groups


def play_pointing_game(predictor: StudyPredictor, rows: Dataset) -> PointingGame:
    """Compares the heatmap of every abnormal view that has boxes with these, whatever the prediction.

    The baseline for views with exactly one box is a constant guess: the mean heatmap over all of them of the same
    region, or of the same body part if the rows have no regions. It knows where findings tend to be, but not the
    image. The only view of its body part has no guess.

    Args:
        predictor: The checkpoint.
        rows: Rows of `load_mura` with boxes, of patients that the checkpoint has not seen.

    Raises:
        DatasetError: If the rows have no boxes, no view has exactly one, or the checkpoint has no heatmaps.
    """
    if "boxes" not in rows.column_names:
        raise DatasetError("the rows have no boxes to compare heatmaps with; use data with boxes")
    counts = [len(boxes) if label == 1 else 0 for boxes, label in zip(rows["boxes"], rows["label"], strict=True)]
    chosen = rows.cast_column("image", Image(decode=False)).select(np.flatnonzero(counts))
    single = np.asarray([len(boxes) == 1 for boxes in chosen["boxes"]], bool)
    if not single.any():
        raise DatasetError("no abnormal view has exactly one box")
    figures, shapes, small = [], [], []
    for row in tqdm(chosen, desc="Pointing game", leave=False):
        try:
            heatmap = find_heatmap(predictor, row)
        except CheckpointError as error:
            raise DatasetError(f"{error}: the pointing game needs heatmaps") from error
        figures.append((*np.max([compare_with_box(heatmap, box) for box in row["boxes"]], axis=0), not heatmap.any()))
        shapes.append(heatmap.shape)
        small.append(cv2.resize(heatmap, (_GRID, _GRID), interpolation=cv2.INTER_AREA))
    constant, boxes = np.full((3, len(chosen)), np.nan), chosen["boxes"]
    regions = list(chosen["region" if has_regions(chosen) else "body_part"])
    for region in set(regions):
        members = [n for n, one in enumerate(regions) if one == region and single[n]]
        if len(members) > 1:  # else its mean heatmap would be its own
            mean = np.mean([small[n] for n in members], axis=0)
            for n in members:
                constant[:, n] = compare_with_box(cv2.resize(mean, shapes[n][::-1]), boxes[n][0])
    hits, overlaps, inside, cold = (np.asarray(values) for values in zip(*figures, strict=True))
    return PointingGame(chosen, single, hits.astype(bool), overlaps, inside, cold, constant)


def compare_with_box(heatmap: np.ndarray, box: Sequence[int]) -> tuple[bool, float, float]:
    """Returns whether the hottest pixel lies in a box, the IoU of `localize` with it, and the share of heat in it.

    The heatmap `[H, W]` is 0 or above; the box is x0, y0, x1 and y1, half open.
    """
    if not heatmap.max() > 0:
        return False, 0.0, 0.0
    x0, y0, x1, y1 = box
    row, column = np.unravel_index(int(heatmap.argmax()), heatmap.shape)
    found, overlap = localize(heatmap), 0.0
    if found is not None:
        shared = max(0, min(found.x1, x1) - max(found.x0, x0)) * max(0, min(found.y1, y1) - max(found.y0, y0))
        union = (found.x1 - found.x0) * (found.y1 - found.y0) + (x1 - x0) * (y1 - y0) - shared
        overlap = shared / union
    inside = float(heatmap[y0:y1, x0:x1].sum(dtype=np.float64) / heatmap.sum(dtype=np.float64))
    return bool(x0 <= column < x1 and y0 <= row < y1), overlap, inside


def find_heatmap(predictor: StudyPredictor, row: dict[str, Any]) -> np.ndarray:
    """Returns the heatmap of a row's view, float32 `[H, W]` in [0, 1]; the row's image is not decoded.

    Raises:
        CheckpointError: If the checkpoint has no heatmaps; the message says why.
    """
    study = predictor([image_source(row["image"])], body_part=body_part_of(row))
    heatmap = study.views[0].heatmap
    if heatmap is None:
        reasons = [warning for warning in study.warnings if warning.startswith("No heatmap")]
        raise CheckpointError(reasons[0] if reasons else f"{predictor.checkpoint} gives no heatmaps")
    return heatmap


def projection_agreement(game: PointingGame) -> dict[str, Any] | None:
    """Measures how often the heatmaps of two projections of one study point at the same finding.

    Two heatmaps do so if each hottest pixel lies in the box of its own view. All pairs of a study's views with exactly
    one box count.

    Returns:
        `n` pairs; `both`, the share in which both hit the finding, with `low` and `high` (95 % interval over
        patients) and `expected`, that share for independent views with the same share of hits; `one`
        and `neither`, the other shares; `kappa`, the agreement on hits beyond chance (None if all views are alike).
        None if no study has two such views.
    """
    studies = group_studies(game.rows["study_id"]).values()
    single = ([n for n in members if game.single[n]] for members in studies)
    pairs = np.asarray([pair for members in single for pair in combinations(members, 2)], int)
    if not len(pairs):
        return None
    hits = game.hits[pairs]  # [pairs, 2]
    rate, neither = hits.mean(), float((~hits.any(1)).mean())
    agreement, by_chance = float((hits[:, 0] == hits[:, 1]).mean()), float(rate**2 + (1 - rate) ** 2)
    both = mean_with_interval(hits.all(1), np.asarray(game.rows["patient_id"])[pairs[:, 0]])
    return {
        "n": len(pairs),
        "both": both.pop("mean"),
        **both,
        "expected": float(rate**2),
        "one": 1 - agreement,
        "neither": neither,
        "kappa": (agreement - by_chance) / (1 - by_chance) if by_chance < 1 else None,
    }
