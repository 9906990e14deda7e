"""The pointing game: does the hottest place of a heatmap lie in the finding's box?"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from datasets import Dataset, Image
from tqdm.auto import tqdm

from ..data.fracatlas import REGION_GROUPS
from ..errors import DatasetError
from ..evaluation import bootstrap_mean
from ..inference import StudyPredictor
from ..models import BODY_PARTS

_GRID = 64  # the mean heatmap is kept at this many places a side


def can_point(predictor: StudyPredictor, rows: Dataset) -> bool:
    """Whether some abnormal view of the rows has exactly one box, and the checkpoint a heatmap for it."""
    if "boxes" not in rows.column_names or not _chosen(rows):
        return False
    wedge = np.tile(np.arange(64, dtype=np.uint8), (64, 1))
    return predictor([wedge], body_part=_part(rows[_chosen(rows)[0]])).views[0].heatmap is not None


def _part(row: dict[str, Any]) -> str | None:
    """The body part of a row, for models that need to be told."""
    return None if row["body_part"] is None else BODY_PARTS[row["body_part"]]


def _chosen(rows: Dataset) -> list[int]:
    known = zip(rows["boxes"], rows["label"], strict=True)
    return [n for n, (boxes, label) in enumerate(known) if label == 1 and len(boxes) == 1]


def pointing_game(predictor: StudyPredictor, rows: Dataset, *, progress: bool = True) -> dict[str, Any]:
    """Plays the pointing game on every abnormal view with one visible box, whatever the model says of it.

    A view is a hit where the hottest pixel of its heatmap lies inside the box as it is (Zhang et al., arXiv
    1608.00507, without their margin of 15 pixels). A heatmap without any heat is a miss. Beside it stands the constant
    guess: the hottest place of the mean heatmap of the body part (of the region, where the rows tell regions) over the
    same views, which knows where findings there tend to be, but not the picture; a miss where there is one view only.

    Args:
        predictor: The checkpoint.
        rows: Rows of `load_mura` with boxes, of patients that the checkpoint has not seen.
        progress: Whether to show a progress bar.

    Returns:
        `overall`, `small`, `medium`, `large` (thirds by the box's area in pixels), each of `REGION_GROUPS` and each
        kind of finding, where the rows tell them: a dict with `n`, `hits` (a share), `low` and `high` (95 % interval
        by a bootstrap over patients) and `constant` (share of hits of the constant guess).

    Raises:
        DatasetError: If the rows have no boxes, or no view has exactly one.
    """
    if "boxes" not in rows.column_names:
        raise DatasetError("the rows have no boxes, so that nothing can be pointed at; use data with boxes")
    chosen = rows.cast_column("image", Image(decode=False)).select(_chosen(rows))
    if not len(chosen):
        raise DatasetError("no abnormal view has exactly one box")
    hits, areas, shapes, small = [], [], [], []
    for row in tqdm(chosen, desc="Pointing game", disable=not progress):
        picture = row["image"]
        file = picture["path"] if picture["bytes"] is None else picture["bytes"]
        view = predictor([file], body_part=_part(row)).views[0]
        if view.heatmap is None:
            raise DatasetError(f"{predictor.checkpoint} gives no heatmaps; use a backbone with a feature map")
        heat, (x0, y0, x1, y1) = view.heatmap, row["boxes"][0]
        hits.append(bool(heat.max() > 0) and _inside(np.unravel_index(heat.argmax(), heat.shape), row["boxes"][0]))
        areas.append((x1 - x0) * (y1 - y0))
        shapes.append(heat.shape)
        small.append(cv2.resize(heat, (_GRID, _GRID), interpolation=cv2.INTER_AREA))
    tells = "region" in chosen.column_names and any(chosen["region"])
    shown, boxes = chosen["region" if tells else "body_part"], chosen["boxes"]
    guesses = np.zeros(len(chosen), bool)
    for what in set(shown):
        members = [n for n, one in enumerate(shown) if one == what]
        if len(members) == 1:
            continue  # a view alone would be its own guess
        mean = np.mean([small[n] for n in members], axis=0)
        row, column = (np.array(np.unravel_index(mean.argmax(), mean.shape)) + 0.5) / _GRID
        for n in members:
            guesses[n] = _inside((row * shapes[n][0], column * shapes[n][1]), boxes[n][0])
    lower, upper = np.quantile(areas, [1 / 3, 2 / 3])
    groups = {
        "overall": np.ones(len(chosen), bool),
        "small": np.asarray(areas) <= lower,
        "medium": (np.asarray(areas) > lower) & (np.asarray(areas) <= upper),
        "large": np.asarray(areas) > upper,
    }
    if tells:
        words = [set((one or "").split("+")) for one in shown]
        groups |= {
            name: np.asarray([bool(one & set(group)) for one in words]) for name, group in REGION_GROUPS.items()
        }
    if "finding" in chosen.column_names:
        kinds = np.asarray([kind or "unknown" for kind in chosen["finding"]])
        groups |= {str(kind): kinds == kind for kind in sorted(set(kinds))}
    patients = np.asarray(chosen["patient_id"])
    report = {}
    for name, members in groups.items():
        if not members.any():
            continue
        low, high = bootstrap_mean(np.asarray(hits)[members], patients[members])
        report[name] = {
            "n": int(members.sum()),
            "hits": float(np.mean(np.asarray(hits)[members])),
            "low": low,
            "high": high,
            "constant": float(guesses[members].mean()),
        }
    return report


def _inside(place: Sequence[Any] | np.ndarray, box: Sequence[int]) -> bool:
    """Whether (row, column) lies in the half-open box x0, y0, x1, y1."""
    row, column = place
    x0, y0, x1, y1 = box
    return bool(x0 <= column < x1 and y0 <= row < y1)
