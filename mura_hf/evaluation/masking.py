"""Places of a film that may tell the label without showing the patient: its corners, and letters near its border.

How far answers move when one thing is added to a picture or taken out of it, and whether that is too far.
What corners and letters do to a model's answer on films as they are: painted over, and the answers compared.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import cv2
import numpy as np
from datasets import Dataset, Image
from tqdm.auto import tqdm

from ..errors import DatasetError
from ..inference import StudyPredictor
from ..metrics import bootstrap_mean
from ..models import BODY_PARTS, LABELS
from ..radiographs import Radiograph, read_radiograph
from .prediction_cache import file_of

Box = tuple[int, int, int, int]

_CORNER = 0.15  # of the sides
_SIDE, _COARSE = 512, 128  # long side in pixels at which letters are sought, and at which places are filled
_STROKE, _GAP = 0.04, 0.012  # of the long side: wider than a letter's stroke, and than the gap between two letters
_BRIGHT, _CONTRAST = 0.4, 0.25  # of the film's range: of a letter, and of a letter over what is around
_LARGEST, _SMALLEST, _BAND = (
    0.22,
    0.012,
    0.25,
)  # of the sides: of a letter, or a row of them, and how far from a border
_ALONE = 0.9  # share of what is around a letter that is darker than it
_MARGIN = 0.012  # of the long side, around a letter


def corner_boxes(pixels: np.ndarray) -> list[Box]:
    """The four corners of a film `[H, W]`, as boxes x0, y0, x1, y1 in pixels, half open."""
    height, width = pixels.shape
    down, right = max(1, round(_CORNER * height)), max(1, round(_CORNER * width))
    return [(x, y, x + right, y + down) for y in (0, height - down) for x in (0, width - right)]


def marker_boxes(pixels: np.ndarray) -> list[Box]:
    """Finds bright, compact things near the border that stand alone: lead letters, labels, clips.

    What is brighter than an opening leaves it is kept where it is bright and small, lies near a border, and has
    darker, empty surroundings. Metal in the middle of a film is none.

    Args:
        pixels: float32 `[H, W]` in [0, 1], bone bright.

    Returns:
        Boxes as of `corner_boxes`, with a margin; none where nothing is found.
    """
    scale = min(1.0, _SIDE / max(pixels.shape))
    small = cv2.resize(pixels.astype(np.float32), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    low, high = np.quantile(small, [0.01, 0.999])
    small = np.clip((small - low) / max(float(high - low), 1e-6), 0, 1)
    long = max(small.shape)
    stroke, gap = 2 * round(_STROKE * long / 2) + 1, 2 * round(_GAP * long / 2) + 1
    opened = cv2.morphologyEx(small, cv2.MORPH_OPEN, np.ones((stroke, stroke), np.uint8))
    bright = ((small > _BRIGHT) & (small - opened > _CONTRAST)).astype(np.uint8)
    joined = cv2.dilate(bright, np.ones((gap, gap), np.uint8))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(joined)
    margin = max(1, round(_MARGIN * long))
    boxes = []
    for number, (x, y, width, height, _) in enumerate(stats[1:], 1):
        letter = bright[y : y + height, x : x + width] * (labels[y : y + height, x : x + width] == number) > 0
        box = (x - margin, y - margin, x + width + margin, y + height + margin)
        if _is_letter(small, letter, (x, y), box):
            boxes.append(tuple(round(edge / scale) for edge in box))
    bottom, right = pixels.shape
    return [(max(x0, 0), max(y0, 0), min(x1, right), min(y1, bottom)) for x0, y0, x1, y1 in boxes]


def _is_letter(small: np.ndarray, letter: np.ndarray, corner: tuple[int, int], box: Box) -> bool:
    """Whether a bright thing is as large as a letter, near a border, and alone.

    Args:
        small: The film.
        letter: bool `[h, w]`, its pixels within their rectangle.
        corner: Column and row of the rectangle.
        box: The rectangle with a margin.
    """
    (height, width), (rows, columns) = letter.shape, small.shape
    down, across = (np.flatnonzero(letter.any(axis)) + start for axis, start in ((1, corner[1]), (0, corner[0])))
    if max(height / rows, width / columns) > _LARGEST or min(np.ptp(down), np.ptp(across)) < _SMALLEST * max(
        rows, columns
    ):
        return False
    if min(down[0], across[0], rows - 1 - down[-1], columns - 1 - across[-1]) < 2:
        return False  # a sliver of the film's frame
    middle = float(np.mean(across)) / columns, float(np.mean(down)) / rows
    if min(*middle, *(1 - share for share in middle)) > _BAND:
        return False
    inside = (slice(corner[1], corner[1] + height), slice(corner[0], corner[0] + width))
    level = float(np.median(small[inside][letter]))
    ring = np.zeros(small.shape, bool)
    ring[max(box[1], 0) : box[3], max(box[0], 0) : box[2]] = True
    ring[inside] = False
    return bool(np.quantile(small[ring], _ALONE) < level - _CONTRAST)


def move_boxes(boxes: Sequence[Box], shape: tuple[int, int], rng: np.random.Generator) -> list[Box]:
    """Boxes of the same size at random places as near to a border, off the given ones where there is room.

    Args:
        boxes: What is moved.
        shape: Height and width of the film.
        rng: What places are drawn from.
    """
    moved: list[Box] = []
    for x0, y0, x1, y1 in boxes:
        width, height = x1 - x0, y1 - y0
        depth = min(x0, y0, shape[1] - x1, shape[0] - y1)  # how far from its border
        for _ in range(50):
            along, far = rng.random(), rng.random() < 0.5
            if rng.random() < shape[1] / sum(shape):  # along the upper or the lower border
                x = round(along * (shape[1] - width))
                y = shape[0] - height - depth if far else depth
            else:
                x = shape[1] - width - depth if far else depth
                y = round(along * (shape[0] - height))
            place = (x, y, x + width, y + height)
            if not any(_overlap(place, other) for other in [*boxes, *moved]):
                break
        moved.append(place)
    return moved


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def fill_boxes(pixels: np.ndarray, boxes: Sequence[Box]) -> np.ndarray:
    """Paints boxes over with what is around them (Telea, J. Graphics Tools 9, 2004), with soft edges.

    Args:
        pixels: float32 `[H, W]` in [0, 1].
        boxes: What is painted over.

    Returns:
        float32 `[H, W]`; equal to `pixels` outside of the boxes.
    """
    height, width = pixels.shape
    mask = np.zeros(pixels.shape, np.uint8)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = 255
    scale = min(1.0, _COARSE / max(pixels.shape))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    hidden = (cv2.resize(mask, size, interpolation=cv2.INTER_AREA) > 0).astype(np.uint8)
    filled = cv2.inpaint(np.rint(small * 255).astype(np.uint8), hidden, 3, cv2.INPAINT_TELEA)
    filled = cv2.resize(filled.astype(np.float32) / 255, (width, height), interpolation=cv2.INTER_LINEAR)
    depth = cv2.distanceTransform(np.pad(mask, 1, mode="edge"), cv2.DIST_L2, 3)[1:-1, 1:-1]
    share = np.minimum(depth / max(2.0, 0.004 * max(pixels.shape)), 1).astype(np.float32)
    return pixels * (1 - share) + filled * share


LIMIT = 0.05
"""Mean absolute change of a study's probability up to which a thing counts as no shortcut."""

CAUGHT, CLEARED, UNDECIDED, EXPECTED = "caught", "cleared", "undecided", "expected"
_WORST = 6  # of a thing, whose pictures are kept


@dataclass(frozen=True)
class Shift:
    """One study's answer with and without a thing.

    Attributes:
        what: The thing.
        study: What the study is called.
        patient: Whom it is of.
        label: 0 normal, 1 abnormal.
        before: Probability without the change.
        after: Probability with it.
        threshold: Above which the study is called abnormal.
        control: Probability after a change of the same size that should not matter; None where there is none.
        pictures: uint8 `[H, W]` without and with the change, of the view with most of it; empty where not kept.
    """

    what: str
    study: str
    patient: str
    label: int
    before: float
    after: float
    threshold: float
    control: float | None = None
    pictures: tuple[np.ndarray, ...] = ()


class Shifts:
    """Changes of answers, by what was changed; pictures are kept of those studies alone that moved furthest.

    Args:
        order: Things in the order of the report; others follow as they come.
    """

    def __init__(self, order: Sequence[str] = ()) -> None:
        self._found: dict[str, list[Shift]] = {what: [] for what in order}
        self._worst: dict[str, list[Shift]] = {}

    def add(self, shift: Shift, pictures: Callable[[], tuple[np.ndarray, ...]] = tuple) -> None:
        """Takes a study in.

        Args:
            shift: Without pictures.
            pictures: Gives them; asked where the study is among those that moved furthest.
        """
        self._found.setdefault(shift.what, []).append(shift)
        worst = self._worst.setdefault(shift.what, [])
        if len(worst) < _WORST or _size(shift) > _size(worst[-1]):
            worst.append(Shift(**{**vars(shift), "pictures": pictures()}))
            worst.sort(key=_size, reverse=True)
            del worst[_WORST:]

    def worst(self) -> dict[str, list[Shift]]:
        """Thing -> the studies whose answers it moved furthest, furthest first, with pictures."""
        return self._worst

    def report(self, expected: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
        """Sums up each thing.

        Args:
            expected: Things that ought to move answers, and so are not judged.

        Returns:
            Thing -> `n` studies; of the change of their probabilities `mean` with its interval `low` and `high`,
            `mean_absolute` with `absolute_low` and `absolute_high`, `median`, `median_absolute`, `p05` and `p95`
            (percentiles); `flips`, the share of studies that it carries over the threshold; `normal` and `abnormal`:
            `n`, `mean`, `low`, `high` of these. Where there is a control, its mean absolute change `control`, and
            `excess`, how much larger that of the thing is, with `excess_low` and `excess_high`. Intervals are 95 %
            ones from a bootstrap over patients. `verdict`, by the mean absolute change or, where there is a control,
            the excess: "caught" where all of its interval lies above `LIMIT`, "cleared" where none does, else
            "undecided"; "expected" where it ought to move answers.
        """
        return {what: _summary(shifts, what in expected) for what, shifts in self._found.items() if shifts}


def _size(shift: Shift) -> float:
    return abs(shift.after - shift.before)


def _summary(shifts: list[Shift], expected: bool) -> dict[str, Any]:
    change = np.array([shift.after - shift.before for shift in shifts])
    patients = [shift.patient for shift in shifts]
    flips = [(one.before > one.threshold) != (one.after > one.threshold) for one in shifts]
    p05, median, p95 = np.quantile(change, [0.05, 0.5, 0.95]).tolist()
    row: dict[str, Any] = {
        "n": len(shifts),
        **_mean(change, patients),
        **_mean(np.abs(change), patients, "absolute_", "mean_absolute"),
        "median": median,
        "median_absolute": float(np.median(np.abs(change))),
        "p05": p05,
        "p95": p95,
        "flips": float(np.mean(flips)),
    }
    for label, word in enumerate(LABELS):
        of_label = [number for number, shift in enumerate(shifts) if shift.label == label]
        if of_label:
            row[word] = {"n": len(of_label), **_mean(change[of_label], [patients[n] for n in of_label])}
    low, high = row["absolute_low"], row["absolute_high"]
    controls = [abs(shift.control - shift.before) for shift in shifts if shift.control is not None]
    if len(controls) == len(shifts):
        row["control"] = float(np.mean(controls))
        row |= _mean(np.abs(change) - controls, patients, "excess_", "excess")
        low, high = row["excess_low"], row["excess_high"]
    judged = CAUGHT if low > LIMIT else CLEARED if high <= LIMIT else UNDECIDED
    return {**row, "verdict": EXPECTED if expected else judged}


def _mean(values: np.ndarray, patients: list[str], prefix: str = "", name: str = "mean") -> dict[str, float]:
    """A mean with its interval."""
    low, high = bootstrap_mean(values, patients)
    return {name: float(values.mean()), f"{prefix}low": low, f"{prefix}high": high}


N_STUDIES = 200

_HIDDEN: dict[str, Callable[[np.ndarray], list[Box]]] = {"corners": corner_boxes, "markers": marker_boxes}


def measure_masking(
    predictor: StudyPredictor, rows: Dataset, n_studies: int = N_STUDIES, seed: int = 0, *, progress: bool = True
) -> Shifts:
    """Paints corners over, and bright compact things near the border (see `marker_boxes`), and compares the answers.

    Painting over moves answers by itself. So the same boxes are painted over at random places along the border, too:
    the control.

    Args:
        predictor: The checkpoint.
        rows: Rows of any dataset, of patients that the checkpoint has not seen.
        n_studies: For each thing at most so many studies, drawn by lot among those that show it.
        seed: Of the lot, and of the control's places.
        progress: Whether to show a progress bar.

    Returns:
        Changes of `corners` and `markers`; studies on which no marker is found do not count for these.

    Raises:
        DatasetError: If there are no rows.
    """
    if not len(rows):
        raise DatasetError("there are no films to paint over; choose another split")
    places: dict[str, list[int]] = {}
    for number, study in enumerate(rows["study_id"]):
        places.setdefault(study, []).append(number)
    studies, rows, shifts = list(places), rows.cast_column("image", Image(decode=False)), Shifts(list(_HIDDEN))
    taken = dict.fromkeys(_HIDDEN, 0)
    for number in tqdm(np.random.default_rng(seed).permutation(len(studies)), desc="Masking", disable=not progress):
        wanted = [what for what in _HIDDEN if taken[what] < n_studies]
        if not wanted:
            break
        views = rows.select(places[studies[number]])
        films = [read_radiograph(file_of(image)) for image in views["image"]]
        part = None if views[0]["body_part"] is None else BODY_PARTS[views[0]["body_part"]]
        found = {what: [_HIDDEN[what](film.pixels) for film in films] for what in wanted}
        found = {what: boxes for what, boxes in found.items() if any(boxes)}
        if not found:
            continue
        plain = predictor(films, body_part=part, heatmaps=False)
        for what, boxes in found.items():
            taken[what] += 1
            rng = np.random.default_rng([seed, int(number), list(_HIDDEN).index(what)])
            elsewhere = [move_boxes(one, film.pixels.shape, rng) for one, film in zip(boxes, films, strict=True)]
            masked, control = (_paint(films, one) for one in (boxes, elsewhere))
            after, beside = (predictor(one, body_part=part, heatmaps=False) for one in (masked, control))
            most = int(np.argmax([sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in one) for one in boxes]))
            shifts.add(
                Shift(
                    what=what,
                    study=studies[number],
                    patient=views[0]["patient_id"],
                    label=views[0]["label"],
                    before=plain.probability,
                    after=after.probability,
                    threshold=plain.threshold,
                    control=beside.probability,
                ),
                partial(_look, films[most], masked[most]),
            )
    return shifts


def _look(film: Radiograph, masked: Radiograph) -> tuple[np.ndarray, ...]:
    return film.to_uint8(), masked.to_uint8()


def _paint(films: list[Radiograph], boxes: list[list[Box]]) -> list[Radiograph]:
    return [
        replace(film, pixels=fill_boxes(film.pixels, one)) if one else film
        for film, one in zip(films, boxes, strict=True)
    ]
