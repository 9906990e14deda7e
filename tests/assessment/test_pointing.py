from dataclasses import dataclass

import numpy as np
import pytest
from datasets import Image

from mura_hf import DatasetError, StudyPredictor, load_mura
from mura_hf.assessment import pointing_game
from mura_hf.models import BODY_PARTS


@pytest.fixture(scope="module")
def rows(phantom_tree):
    return load_mura(phantom_tree, dev_fraction=0.0, calib_fraction=0.0)["train"]


@dataclass
class _View:
    heatmap: np.ndarray


@dataclass
class _Study:
    views: list[_View]


class _Pointer:
    """Points at a chosen place of every view, by its number."""

    checkpoint = "pointer"

    def __init__(self, places, shape):
        self.places, self.shape, self.calls, self.parts = places, shape, 0, []

    def __call__(self, views, body_part=None):
        self.parts.append(body_part)
        heat = np.zeros(self.shape, np.float32)
        place = self.places[self.calls]
        self.calls += 1
        if place is not None:
            heat[place] = 1
        return _Study([_View(heat)])


def _boxes(rows):
    return [boxes[0] for boxes, label in zip(rows["boxes"], rows["label"], strict=True) if boxes and label]


def test_hits_are_counted_inside_the_box_as_it_is(rows):
    boxes = _boxes(rows)
    inside = [(y0, x1 - 1) for x0, y0, x1, y1 in boxes]
    just_outside = [(y0, x1) for x0, y0, x1, y1 in boxes]
    shape = (400, 400)
    assert pointing_game(_Pointer(inside, shape), rows, progress=False)["overall"]["hits"] == 1
    assert pointing_game(_Pointer(just_outside, shape), rows, progress=False)["overall"]["hits"] == 0
    half = [place if n % 2 else None for n, place in enumerate(inside)]  # no heat at all is a miss
    report = pointing_game(_Pointer(half, shape), rows, progress=False)
    assert report["overall"]["hits"] == pytest.approx((len(boxes) // 2) / len(boxes))
    assert report["overall"]["low"] <= report["overall"]["hits"] <= report["overall"]["high"]


def test_models_by_part_are_told_the_part(rows):
    boxes = _boxes(rows)
    pointer = _Pointer([(0, 0)] * len(boxes), (400, 400))
    pointing_game(pointer, rows, progress=False)
    chosen = [row for row in rows.remove_columns("image") if row["boxes"] and row["label"]]
    assert pointer.parts == [BODY_PARTS[row["body_part"]] for row in chosen]


def test_every_view_is_in_one_third_and_of_one_kind(rows):
    boxes = _boxes(rows)
    report = pointing_game(_Pointer([(0, 0)] * len(boxes), (400, 400)), rows, progress=False)
    assert report["overall"]["n"] == len(boxes)
    assert sum(report[third]["n"] for third in ("small", "medium", "large")) == len(boxes)
    kinds = [name for name in report if name not in ("overall", "small", "medium", "large")]
    assert sum(report[kind]["n"] for kind in kinds) == len(boxes)


def test_who_always_points_to_one_place_is_no_better_than_the_constant_guess(rows):
    boxes = _boxes(rows)
    report = pointing_game(_Pointer([(60, 60)] * len(boxes), (128, 128)), rows, progress=False)
    assert report["overall"]["constant"] == pytest.approx(report["overall"]["hits"], abs=0.05)


def test_a_real_checkpoint_plays(rows, checkpoint):
    predictor = StudyPredictor.from_pretrained(checkpoint, device="cpu")
    report = pointing_game(predictor, rows, progress=False)
    hits = []
    for row in rows.cast_column("image", Image(decode=False)):
        if row["label"] and row["boxes"]:
            heat = predictor([row["image"]["path"]]).views[0].heatmap
            (x0, y0, x1, y1), (row_, column) = row["boxes"][0], np.argwhere(heat == heat.max())[0]
            hits.append(heat.max() > 0 and x0 <= column < x1 and y0 <= row_ < y1)
    assert report["overall"]["hits"] == pytest.approx(np.mean(hits))


def test_without_boxes_there_is_nothing_to_point_at(rows):
    with pytest.raises(DatasetError, match="no boxes"):
        pointing_game(_Pointer([], (1, 1)), rows.remove_columns("boxes"), progress=False)
    with pytest.raises(DatasetError, match="exactly one box"):
        pointing_game(_Pointer([], (1, 1)), rows.filter(lambda row: row["label"] == 0), progress=False)
