"""Rows of a split and the heatmaps of their views.

Do heatmaps lie on findings? The pointing game, the box's overlap, and the share of the heat inside.
Does the heat follow a finding that was added to a picture?
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from datasets import Dataset, Image
from tqdm.auto import tqdm

from ..data.fracatlas import REGION_GROUPS
from ..errors import CheckpointError, DatasetError
from ..explain import localize
from ..inference import StudyPredictor
from ..metrics import bootstrap_mean
from ..models import BODY_PARTS
from ..phantoms import MIX, render_phantom
from .prediction_cache import file_of, spread


def find_heatmap(predictor: StudyPredictor, row: dict[str, Any]) -> np.ndarray:
    """The heatmap of a row's view, float32 `[H, W]` in [0, 1].

    Args:
        predictor: The checkpoint.
        row: Of `load_mura`, its image not decoded.

    Raises:
        CheckpointError: If the checkpoint has no heatmaps; the message says why.
    """
    study = predictor([file_of(row["image"])], body_part=body_part_of(row))
    heatmap = study.views[0].heatmap
    if heatmap is None:
        told = [warning for warning in study.warnings if warning.startswith("No heatmap")]
        raise CheckpointError(told[0] if told else f"{predictor.checkpoint} gives no heatmaps")
    return heatmap


def body_part_of(row: dict[str, Any]) -> str | None:
    """The body part of a row, for models that need to be told."""
    return None if row["body_part"] is None else BODY_PARTS[row["body_part"]]


def take_abnormal(rows: Dataset, n: int) -> Dataset:
    """Some abnormal views, spread evenly, not decoded; of any kind where none is abnormal.

    A heatmap shows evidence for abnormal, and of a normal view there is rightly none to be shown.
    """
    abnormal = np.flatnonzero(np.asarray(rows["label"]) == 1)
    places = abnormal if len(abnormal) else np.arange(len(rows))
    chosen = spread(len(places), n)
    return rows.cast_column("image", Image(decode=False)).select(places[chosen])


_GRID = 64  # the mean heatmap is kept at this many places a side


@dataclass(frozen=True, eq=False)
class Pointed:
    """How views with one box fared; each array is `[n]`, in the order of `rows`.

    Attributes:
        rows: The views.
        hits: bool, whether the hottest pixel lies inside the box.
        overlaps: Intersection over union of the box that `localize` frames with the true one.
        inside: Share of the heat that lies inside the box.
        cold: bool, whether there is no heat at all; then the others are False and 0.
        constant: As `hits`, `overlaps` and `inside`, of the constant guess: `[3, n]`.
    """

    rows: Dataset
    hits: np.ndarray
    overlaps: np.ndarray
    inside: np.ndarray
    cold: np.ndarray
    constant: np.ndarray


def can_point(predictor: StudyPredictor, rows: Dataset) -> bool:
    """Whether some abnormal view of the rows has exactly one box, and the checkpoint a heatmap for it."""
    if "boxes" not in rows.column_names or not _chosen(rows):
        return False
    wedge = np.tile(np.arange(64, dtype=np.uint8), (64, 1))
    return predictor([wedge], body_part=body_part_of(rows[_chosen(rows)[0]])).views[0].heatmap is not None


def _chosen(rows: Dataset) -> list[int]:
    known = zip(rows["boxes"], rows["label"], strict=True)
    return [n for n, (boxes, label) in enumerate(known) if label == 1 and len(boxes) == 1]


def point_at_findings(predictor: StudyPredictor, rows: Dataset, *, progress: bool = True) -> Pointed:
    """Looks at the heatmap of every abnormal view with one visible box, whatever the model says of it.

    Beside it stands the constant guess: the mean heatmap of the body part (of the region, where the rows tell
    regions) over the same views, which knows where findings there tend to be, but not the picture; a view that is
    alone with its part has no guess.

    Args:
        predictor: The checkpoint.
        rows: Rows of `load_mura` with boxes, of patients that the checkpoint has not seen.
        progress: Whether to show a progress bar.

    Raises:
        DatasetError: If the rows have no boxes, no view has exactly one, or the checkpoint has no heatmaps.
    """
    if "boxes" not in rows.column_names:
        raise DatasetError("the rows have no boxes, so that nothing can be pointed at; use data with boxes")
    chosen = rows.cast_column("image", Image(decode=False)).select(_chosen(rows))
    if not len(chosen):
        raise DatasetError("no abnormal view has exactly one box")
    figures, shapes, small = [], [], []
    for row in tqdm(chosen, desc="Pointing game", disable=not progress):
        try:
            heat = find_heatmap(predictor, row)
        except CheckpointError as error:
            raise DatasetError(f"{error}: without heatmaps nothing can be pointed at") from error
        figures.append((*compare_with_box(heat, row["boxes"][0]), not heat.any()))
        shapes.append(heat.shape)
        small.append(cv2.resize(heat, (_GRID, _GRID), interpolation=cv2.INTER_AREA))
    constant = np.zeros((3, len(chosen)))
    shown, boxes = _places(chosen), chosen["boxes"]
    for what in set(shown):
        members = [n for n, one in enumerate(shown) if one == what]
        if len(members) == 1:
            continue  # a view alone would be its own guess
        mean = np.mean([small[n] for n in members], axis=0)
        for n in members:
            constant[:, n] = compare_with_box(cv2.resize(mean, shapes[n][::-1]), boxes[n][0])
    hits, overlaps, inside, cold = (np.asarray(values) for values in zip(*figures, strict=True))
    return Pointed(chosen, hits, overlaps, inside, cold, constant)


def compare_with_box(heat: np.ndarray, box: Sequence[int]) -> tuple[bool, float, float]:
    """Whether the hottest pixel of a map lies in a box, the overlap of `localize` with it, and the heat's share in it.

    Args:
        heat: `[H, W]`, not negative.
        box: x0, y0, x1 and y1, half open.
    """
    if not heat.max() > 0:
        return False, 0.0, 0.0
    x0, y0, x1, y1 = box
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    found, overlap = localize(heat), 0.0
    if found is not None:
        shared = max(0, min(found.x1, x1) - max(found.x0, x0)) * max(0, min(found.y1, y1) - max(found.y0, y0))
        union = (found.x1 - found.x0) * (found.y1 - found.y0) + (x1 - x0) * (y1 - y0) - shared
        overlap = shared / union
    inside = float(heat[y0:y1, x0:x1].sum(dtype=np.float64) / heat.sum(dtype=np.float64))
    return bool(x0 <= column < x1 and y0 <= row < y1), overlap, inside


def pointing_game(pointed: Pointed) -> dict[str, Any]:
    """The figures of groups of views.

    A view is a hit where the hottest pixel of its heatmap lies inside the box as it is (Zhang et al., arXiv
    1608.00507, without their margin of 15 pixels). A heatmap without any heat is a miss.

    Args:
        pointed: From `point_at_findings`.

    Returns:
        `overall`, `small`, `medium`, `large` (thirds by the box's area in pixels), each of `REGION_GROUPS` and each
        kind of finding, where the rows tell them: a dict with `n`, `hits` (a share), `low` and `high` (95 % interval
        by a bootstrap over patients), `constant` (share of hits of the constant guess), `cold` (share of heatmaps
        without heat), and `overlap` and `inside`: each a dict with `mean`, `low`, `high` and `constant`.
    """
    patients = np.asarray(pointed.rows["patient_id"])
    report = {}
    for name, members in _groups(pointed.rows).items():
        if not members.any():
            continue
        hits, overlap, inside = (
            _summary(values[members], guesses[members], patients[members])
            for values, guesses in zip((pointed.hits, pointed.overlaps, pointed.inside), pointed.constant, strict=True)
        )
        report[name] = {
            "n": int(members.sum()),
            "hits": hits.pop("mean"),
            **hits,
            "cold": float(pointed.cold[members].mean()),
            "overlap": overlap,
            "inside": inside,
        }
    return report


def _summary(values: np.ndarray, guesses: np.ndarray, patients: np.ndarray) -> dict[str, float]:
    low, high = bootstrap_mean(values, patients)
    return {"mean": float(np.mean(values)), "low": low, "high": high, "constant": float(guesses.mean())}


def _places(rows: Dataset) -> list[Any]:
    """What the constant guess knows of each view: its region where the rows tell regions, else its body part."""
    tells = "region" in rows.column_names and any(rows["region"])
    return list(rows["region" if tells else "body_part"])


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
    if "region" in rows.column_names and any(rows["region"]):
        words = [set((one or "").split("+")) for one in rows["region"]]
        groups |= {
            name: np.asarray([bool(one & set(group)) for one in words]) for name, group in REGION_GROUPS.items()
        }
    if "finding" in rows.column_names:
        kinds = np.asarray([kind or "unknown" for kind in rows["finding"]])
        groups |= {str(kind): kinds == kind for kind in sorted(set(kinds))}
    return groups


N_TWINS = 210


def measure_following(
    predictor: StudyPredictor, n: int = N_TWINS, seed: int = 2_000_000, *, size: int = 512, progress: bool = True
) -> dict[str, Any]:
    """Renders views with and without a finding, equal bit for bit elsewhere, and compares their heatmaps.

    In the twin without it, the place of the finding looks as it does where there is none: what heat lies there is
    habit, not finding. The finding is the cause of the difference, since nothing else was changed.

    Args:
        predictor: The checkpoint; one that has heatmaps.
        n: Patients, one view each; body parts take turns, findings come in the shares of `MIX`. Those whose finding
            does not show in the view do not count.
        seed: Of the first patient. Seeds below 2^32 that a training tree drew are unlikely to be met again.
        size: Pixels on the long side.
        progress: Whether to show a progress bar.

    Returns:
        `overall` and each kind of finding: a dict with `n`; `inside` and `inside_without`, the mean share of the heat
        inside the finding's box with the finding and in the twin; `difference` of the two, with `low` and `high` (95 %
        interval by a bootstrap over patients); `hits` and `hits_without`, the shares whose hottest pixel lies in the
        box; and `area`, the box's mean share of the picture, which heat spread evenly would have inside.
    """
    rng = np.random.default_rng([seed, 0])
    kinds = rng.choice(list(MIX), size=n, p=np.array(list(MIX.values())) / sum(MIX.values()))
    found: dict[str, list[tuple[float, ...]]] = {"overall": [], **{kind: [] for kind in MIX}}
    for number in tqdm(range(n), desc="Added findings", disable=not progress):
        part, patient = BODY_PARTS[number % len(BODY_PARTS)], seed + number
        view = (number // len(BODY_PARTS)) % 3
        twins = [
            render_phantom(patient, body_part=part, view=view, finding=finding, size=size)
            for finding in (str(kinds[number]), None)
        ]
        box, kind = twins[0].box, twins[0].finding
        if box is None or kind is None:
            continue
        row: list[float] = []
        for twin in twins:
            heat = predictor([twin.pixels], body_part=part).views[0].heatmap
            assert heat is not None
            hit, _, inside = compare_with_box(heat, box)
            row += [inside, float(hit)]
        area = (box[2] - box[0]) * (box[3] - box[1]) / twins[0].pixels.size
        for name in ("overall", kind):
            found[name].append((*row, area))
    return {name: _sensitivity_summary(np.asarray(values)) for name, values in found.items() if values}


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
