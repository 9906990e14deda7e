from dataclasses import dataclass

import numpy as np
import pytest
from datasets import Image

from mura_hf import DatasetError, StudyPredictor, load_mura
from mura_hf.evaluation import point_at_findings
from mura_hf.evaluation import pointing_game as summarize
from mura_hf.evaluation.pointing_game import compare_with_box
from mura_hf.evaluation.saliency import agree_between_projections
from mura_hf.explain import localize
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


def pointing_game(predictor, rows, progress=False):
    return summarize(point_at_findings(predictor, rows, progress=progress))


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
    hits, inside, overlaps = [], [], []
    for row in rows.cast_column("image", Image(decode=False)):
        if row["label"] and row["boxes"]:
            heat = predictor([row["image"]["path"]]).views[0].heatmap
            (x0, y0, x1, y1), (row_, column) = row["boxes"][0], np.argwhere(heat == heat.max())[0]
            hits.append(heat.max() > 0 and x0 <= column < x1 and y0 <= row_ < y1)
            inside.append(heat[y0:y1, x0:x1].sum() / max(heat.sum(), 1e-12))
            found, true = np.zeros(heat.shape, bool), np.zeros(heat.shape, bool)
            true[y0:y1, x0:x1] = True
            if (box := localize(heat)) is not None:
                found[box.y0 : box.y1, box.x0 : box.x1] = True
            overlaps.append((found & true).sum() / (found | true).sum())
    overall = report["overall"]
    assert overall["hits"] == pytest.approx(np.mean(hits))
    assert overall["inside"]["mean"] == pytest.approx(np.mean(inside), rel=1e-4)
    assert overall["overlap"]["mean"] == pytest.approx(np.mean(overlaps), rel=1e-4)
    for figure in ("overlap", "inside"):
        assert overall[figure]["low"] <= overall[figure]["mean"] <= overall[figure]["high"]
        assert 0 <= overall[figure]["constant"] <= 1


def test_without_boxes_there_is_nothing_to_point_at(rows):
    with pytest.raises(DatasetError, match="no boxes"):
        pointing_game(_Pointer([], (1, 1)), rows.remove_columns("boxes"), progress=False)
    with pytest.raises(DatasetError, match="exactly one box"):
        pointing_game(_Pointer([], (1, 1)), rows.filter(lambda row: row["label"] == 0), progress=False)


def test_figures_of_one_map_by_hand():
    heat = np.zeros((20, 30), np.float32)
    heat[4:8, 10:14] = 1.0
    heat[15, 20] = 0.5  # cold enough to stay outside the frame
    assert compare_with_box(heat, (10, 4, 14, 8)) == (True, 1.0, pytest.approx(16 / 16.5))
    assert compare_with_box(heat, (12, 4, 16, 8)) == (False, pytest.approx(8 / 24), pytest.approx(8 / 16.5))
    assert compare_with_box(heat, (0, 0, 3, 3)) == (False, 0.0, 0.0)
    assert compare_with_box(np.zeros((20, 30)), (0, 0, 3, 3)) == (False, 0.0, 0.0)


def test_projections_agree_as_counted_by_hand(rows):
    boxes = _boxes(rows)
    studies = [row["study_id"] for row in rows.remove_columns("image") if row["boxes"] and row["label"]]
    hit = [number % 3 != 0 for number in range(len(boxes))]
    places = [(box[1], box[0]) if one else (399, 399) for box, one in zip(boxes, hit, strict=True)]
    pairs = [(hit[i], hit[j]) for i in range(len(hit)) for j in range(i + 1, len(hit)) if studies[i] == studies[j]]
    found = agree_between_projections(point_at_findings(_Pointer(places, (400, 400)), rows, progress=False))
    assert found["n"] == len(pairs) > 5
    assert found["both"] == pytest.approx(np.mean([all(pair) for pair in pairs]))
    assert found["neither"] == pytest.approx(np.mean([not any(pair) for pair in pairs]))
    assert found["both"] + found["one"] + found["neither"] == pytest.approx(1)
    rate = np.mean(pairs)
    assert found["expected"] == pytest.approx(rate**2)
    assert -1 <= found["kappa"] < 1
    all_hit = [(box[1], box[0]) for box in boxes]
    assert (
        agree_between_projections(point_at_findings(_Pointer(all_hit, (400, 400)), rows, progress=False))["both"] == 1
    )


def test_views_of_different_studies_make_no_pairs(rows):
    one = rows.filter(lambda row: row["label"] == 1 and len(row["boxes"]) == 1)
    first = [n for n, study in enumerate(one["study_id"]) if study not in one["study_id"][:n]]
    pointed = point_at_findings(_Pointer([(0, 0)] * len(first), (400, 400)), one.select(first), progress=False)
    assert agree_between_projections(pointed) is None
