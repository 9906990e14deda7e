"""Pointing game: do heatmaps lie on the findings that radiologists, or phantoms, mark with boxes?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from datasets import Dataset, Image
from tqdm.auto import tqdm

from ..data.open_data import REGION_GROUPS
from ..errors import CheckpointError, DatasetError
from ..explain import localize
from ..inference import StudyPredictor
from ..metrics import bootstrap_mean
from .prediction_cache import body_part_of, image_source, spread_indices

_GRID = 64  # side of the mean heatmaps


@dataclass(frozen=True, eq=False)
class PointingGame:
    """Results for the views with exactly one box; arrays are `[n]` in the order of `rows`."""

    rows: Dataset
    hits: np.ndarray  # bool, whether the hottest pixel lies inside the box
    overlaps: np.ndarray  # intersection over union of the box from `localize` with the true box
    inside: np.ndarray  # share of the heat inside the box
    cold: np.ndarray  # bool, whether the heatmap is zero everywhere; the others are then False and 0
    constant: np.ndarray  # `[3, n]`: hits, overlaps and inside of the constant guess

    def report(self) -> dict[str, Any]:
        """Summarises groups of views.

        A view is a hit if the hottest pixel lies inside the box (Zhang et al., arXiv 1608.00507, without their margin
        of 15 pixels). A heatmap without any heat is a miss.

        Returns:
            `overall`; `small`, `medium` and `large` (thirds by the area of the box); each of `REGION_GROUPS` and each
            kind of finding if the rows have these. Each holds `n`, `hits` (a share) with `low` and `high` (95 %
            interval from a bootstrap over patients), `constant` (share of hits of the constant guess), `cold` (share
            of heatmaps without heat), and `overlap` and `inside`, each with `mean`, `low`, `high` and `constant`.
        """
        patients = np.asarray(self.rows["patient_id"])
        report = {}
        for name, members in _groups(self.rows).items():
            if not members.any():
                continue
            hits, overlap, inside = (
                _summary(values[members], guesses[members], patients[members])
                for values, guesses in zip((self.hits, self.overlaps, self.inside), self.constant, strict=True)
            )
            report[name] = {
                "n": int(members.sum()),
                "hits": hits.pop("mean"),
                **hits,
                "cold": float(self.cold[members].mean()),
                "overlap": overlap,
                "inside": inside,
            }
        return report


def play_pointing_game(predictor: StudyPredictor, rows: Dataset, *, progress: bool = True) -> PointingGame:
    """Compares the heatmap of every abnormal view that has exactly one box with this box, whatever the prediction.

    The baseline is a constant guess: the mean heatmap over all views of the same region, or of the same body part if
    the rows have no regions. It knows where findings tend to be, but not the image. The only view of its body part has
    no guess.

    Args:
        predictor: The checkpoint.
        rows: Rows of `load_mura` with boxes, of patients that the checkpoint has not seen.
        progress: Whether to show a progress bar.

    Raises:
        DatasetError: If the rows have no boxes, no view has exactly one, or the checkpoint has no heatmaps.
    """
    if "boxes" not in rows.column_names:
        raise DatasetError("the rows have no boxes to compare heatmaps with; use data with boxes")
    chosen = rows.cast_column("image", Image(decode=False)).select(views_with_one_box(rows))
    if not len(chosen):
        raise DatasetError("no abnormal view has exactly one box")
    figures, shapes, small = [], [], []
    for row in tqdm(chosen, desc="Pointing game", disable=not progress):
        try:
            heatmap = find_heatmap(predictor, row)
        except CheckpointError as error:
            raise DatasetError(f"{error}: the pointing game needs heatmaps") from error
        figures.append((*compare_with_box(heatmap, row["boxes"][0]), not heatmap.any()))
        shapes.append(heatmap.shape)
        small.append(cv2.resize(heatmap, (_GRID, _GRID), interpolation=cv2.INTER_AREA))
    constant, boxes = np.zeros((3, len(chosen))), chosen["boxes"]
    regions = list(chosen["region" if _has_regions(chosen) else "body_part"])
    for region in set(regions):
        members = [n for n, one in enumerate(regions) if one == region]
        if len(members) == 1:
            continue  # its mean heatmap would be its own
        mean = np.mean([small[n] for n in members], axis=0)
        for n in members:
            constant[:, n] = compare_with_box(cv2.resize(mean, shapes[n][::-1]), boxes[n][0])
    hits, overlaps, inside, cold = (np.asarray(values) for values in zip(*figures, strict=True))
    return PointingGame(chosen, hits, overlaps, inside, cold, constant)


def views_with_one_box(rows: Dataset) -> list[int]:
    """Returns the indices of the abnormal views with exactly one box; empty if the rows have no boxes."""
    if "boxes" not in rows.column_names:
        return []
    pairs = zip(rows["boxes"], rows["label"], strict=True)
    return [n for n, (boxes, label) in enumerate(pairs) if label == 1 and len(boxes) == 1]


def compare_with_box(heatmap: np.ndarray, box: Sequence[int]) -> tuple[bool, float, float]:
    """Returns whether the hottest pixel lies in a box, the IoU of `localize` with it, and the share of heat in it.

    Args:
        heatmap: `[H, W]`, 0 or above.
        box: x0, y0, x1 and y1, half open.
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


def select_abnormal(rows: Dataset, n: int) -> Dataset:
    """Selects at most `n` evenly spaced abnormal views, not decoded; any views if none is abnormal.

    Heatmaps show evidence for abnormal, so those of normal views are rightly empty.
    """
    abnormal = np.flatnonzero(np.asarray(rows["label"]) == 1)
    candidates = abnormal if len(abnormal) else np.arange(len(rows))
    rows = rows.cast_column("image", Image(decode=False))
    return rows.select(candidates[spread_indices(len(candidates), n)])


def _summary(values: np.ndarray, guesses: np.ndarray, patients: np.ndarray) -> dict[str, float]:
    low, high = bootstrap_mean(values, patients)
    return {"mean": float(np.mean(values)), "low": low, "high": high, "constant": float(guesses.mean())}


def _has_regions(rows: Dataset) -> bool:
    return "region" in rows.column_names and any(rows["region"])


def _groups(rows: Dataset) -> dict[str, np.ndarray]:
    """Name of a group -> which views are in it, bool `[n]`."""
    areas = np.asarray([(x1 - x0) * (y1 - y0) for ((x0, y0, x1, y1),) in rows["boxes"]])
    lower, upper = np.quantile(areas, [1 / 3, 2 / 3])
    groups = {
        "overall": np.ones(len(rows), bool),
        "small": areas <= lower,
        "medium": (areas > lower) & (areas <= upper),
        "large": areas > upper,
    }
    if _has_regions(rows):
        shown = [set((region or "").split("+")) for region in rows["region"]]
        groups |= {
            name: np.asarray([bool(one & set(group)) for one in shown]) for name, group in REGION_GROUPS.items()
        }
    if "finding" in rows.column_names:
        kinds = np.asarray([kind or "unknown" for kind in rows["finding"]])
        groups |= {str(kind): kinds == kind for kind in sorted(set(kinds))}
    return groups
