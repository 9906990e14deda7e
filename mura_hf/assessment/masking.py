"""What corners and letters do to a model's answer on films as they are: painted over, and the answers compared."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from datasets import Dataset, Image
from tqdm.auto import tqdm

from ..errors import DatasetError
from ..inference import StudyPredictor
from ..models import BODY_PARTS
from ..radiographs import Radiograph, read_radiograph
from .masks import Box, corner_boxes, fill_boxes, marker_boxes, move_boxes
from .picking import file_of
from .shifts import Shift, Shifts

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
