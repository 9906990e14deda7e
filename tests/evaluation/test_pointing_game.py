import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from audit_shortcuts import measure_sensitivity
from datasets import Image

from mura_hf import DatasetError, StudyPredictor
from mura_hf.evaluation import play_pointing_game
from mura_hf.evaluation.pointing_game import compare_with_box, projection_agreement
from mura_hf.explain import localize
from mura_hf.models import BODY_PARTS

SHAPE = (128, 128)


class Pointer:
    """Points at given places, one for each view; None gives an empty heatmap."""

    checkpoint = "pointer"

    def __init__(self, places):
        self.places, self.parts = list(places), []

    def __call__(self, views, body_part=None):
        heatmap = np.zeros(SHAPE, np.float32)
        place = self.places[len(self.parts)]
        self.parts.append(body_part)
        if place is not None:
            heatmap[min(place[0], SHAPE[0] - 1), min(place[1], SHAPE[1] - 1)] = 1
        return SimpleNamespace(views=[SimpleNamespace(heatmap=heatmap)])


def play(places, rows):
    return play_pointing_game(Pointer(places), rows)


@pytest.fixture(scope="module")
def boxed(train_rows):
    return train_rows.filter(lambda row: row["label"] == 1 and len(row["boxes"]) == 1)


@pytest.fixture(scope="module")
def boxes(boxed):
    return [boxes[0] for boxes in boxed["boxes"]]


def test_hits_are_counted_inside_the_box_as_it_is(train_rows, boxed, boxes):
    inside = [(y0, x1 - 1) for x0, y0, x1, y1 in boxes]
    pointer = Pointer(inside)
    report = play_pointing_game(pointer, train_rows).report()
    assert report["overall"]["hits"] == 1
    assert pointer.parts == [BODY_PARTS[part] for part in boxed["body_part"]]  # models by body part need it
    assert report["overall"]["n"] == len(boxes)
    assert sum(report[third]["n"] for third in ("small", "medium", "large")) == len(boxes)
    kinds = [name for name in report if name not in ("overall", "small", "medium", "large")]
    assert sum(report[kind]["n"] for kind in kinds) == len(boxes)
    outside = [(y0, x1) if x1 < SHAPE[1] else (y0, x0 - 1) for x0, y0, x1, y1 in boxes]
    assert play(outside, train_rows).report()["overall"]["hits"] == 0
    half = [place if n % 2 else None for n, place in enumerate(inside)]  # an empty heatmap is a miss
    overall = play(half, train_rows).report()["overall"]
    assert overall["hits"] == pytest.approx((len(boxes) // 2) / len(boxes))
    assert overall["cold"] == pytest.approx(1 - overall["hits"])
    assert overall["low"] <= overall["hits"] <= overall["high"]


def test_a_constant_place_is_no_better_than_the_constant_guess(train_rows, boxes):
    overall = play([(60, 60)] * len(boxes), train_rows).report()["overall"]
    assert overall["constant"] == pytest.approx(overall["hits"], abs=0.05)


def test_figures_of_a_real_checkpoint(boxed, checkpoint):
    predictor, rows = StudyPredictor.from_pretrained(checkpoint, device="cpu"), boxed.select(range(12))
    overall = play_pointing_game(predictor, rows).report()["overall"]
    hits, inside, overlaps = [], [], []
    for row in rows.cast_column("image", Image(decode=False)):
        heat = predictor([row["image"]["path"]]).views[0].heatmap
        (x0, y0, x1, y1), (y, x) = row["boxes"][0], np.argwhere(heat == heat.max())[0]
        hits.append(heat.max() > 0 and x0 <= x < x1 and y0 <= y < y1)
        inside.append(heat[y0:y1, x0:x1].sum() / max(heat.sum(), 1e-12))
        found, true = np.zeros(heat.shape, bool), np.zeros(heat.shape, bool)
        true[y0:y1, x0:x1] = True
        if (box := localize(heat)) is not None:
            found[box.y0 : box.y1, box.x0 : box.x1] = True
        overlaps.append((found & true).sum() / (found | true).sum())
    assert overall["hits"] == pytest.approx(np.mean(hits))
    for figure, values in (("inside", inside), ("overlap", overlaps)):
        assert overall[figure]["mean"] == pytest.approx(np.mean(values), rel=1e-4)
        assert overall[figure]["low"] <= overall[figure]["mean"] <= overall[figure]["high"]
        assert 0 <= overall[figure]["constant"] <= 1


def test_of_several_boxes_the_one_that_fits_best_counts(boxed, boxes):
    """Views with a second box have figures for the box only."""
    rows = boxed.select(range(12))
    both = [[box, [0, 0, 1, 1]] if n < 4 else [box] for n, box in enumerate(boxes[:12])]
    rows = rows.remove_columns("boxes").add_column("boxes", both)
    places = [(0, 0) if n in (1, 3) else (box[1], box[0]) if n < 8 else None for n, box in enumerate(boxes[:12])]
    game = play(places, rows)
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes[:8]]
    expected = [1 if n in (1, 3) else 1 / area for n, area in enumerate(areas)] + [0] * 4
    assert game.overlaps == pytest.approx(expected)
    overall, box = game.report()["overall"], game.report()["overall"]["box"]
    assert (overall["n"], overall["hits"], box["n"], box["hits"]["n"]) == (8, 0.5, 12, 8)
    assert overall["overlap"]["mean"] == pytest.approx(np.mean(expected[4:]))
    assert (box["mean"], box["hits"]["mean"]) == pytest.approx((np.mean(expected), np.mean(expected[:8])))
    assert box["low"] <= box["mean"] <= box["high"]
    assert [share["mean"] for share in box["at_least"].values()] == pytest.approx([1 / 6] * 3)
    assert play([None] * 12, rows).report()["overall"]["box"]["hits"] is None
    single = rows.select(range(4, 12))
    assert projection_agreement(game) == projection_agreement(play(places[4:], single))


def test_rows_without_boxes_are_refused(train_rows):
    with pytest.raises(DatasetError, match="no boxes"):
        play([], train_rows.remove_columns("boxes"))
    with pytest.raises(DatasetError, match="exactly one box"):
        play([], train_rows.filter(lambda row: row["label"] == 0))


def test_figures_of_one_heatmap():
    heat = np.zeros((20, 30), np.float32)
    heat[4:8, 10:14] = 1.0
    heat[15, 20] = 0.5  # too cold for the box of `localize`
    assert compare_with_box(heat, (10, 4, 14, 8)) == (True, 1.0, pytest.approx(16 / 16.5))
    assert compare_with_box(heat, (12, 4, 16, 8)) == (False, pytest.approx(8 / 24), pytest.approx(8 / 16.5))
    assert compare_with_box(heat, (0, 0, 3, 3)) == (False, 0.0, 0.0)
    assert compare_with_box(np.zeros((20, 30)), (0, 0, 3, 3)) == (False, 0.0, 0.0)


def test_projections_agree_as_counted(boxed, boxes):
    studies = boxed["study_id"]
    hit = [number % 3 != 0 for number in range(len(boxes))]
    inside = [(box[1], box[0]) for box in boxes]
    places = [place if one else None for place, one in zip(inside, hit, strict=True)]
    pairs = [(hit[i], hit[j]) for i in range(len(hit)) for j in range(i + 1, len(hit)) if studies[i] == studies[j]]
    found = projection_agreement(play(places, boxed))
    assert found["n"] == len(pairs) > 5
    assert found["both"] == pytest.approx(np.mean([all(pair) for pair in pairs]))
    assert found["neither"] == pytest.approx(np.mean([not any(pair) for pair in pairs]))
    assert found["both"] + found["one"] + found["neither"] == pytest.approx(1)
    assert found["expected"] == pytest.approx(np.mean(pairs) ** 2)
    assert -1 <= found["kappa"] < 1
    assert projection_agreement(play(inside, boxed))["both"] == 1
    first = [n for n, study in enumerate(studies) if study not in studies[:n]]  # one view of each study
    assert projection_agreement(play([(0, 0)] * len(first), boxed.select(first))) is None


def test_heat_follows_an_added_finding(monkeypatch):
    predictor = StudyPredictor.from_pretrained("mura-phantom", device="cpu")
    found = measure_sensitivity(predictor, 7, size=256)
    assert json.loads(json.dumps(found)) == found
    overall = found["overall"]
    assert 0 < overall["n"] <= 7
    assert sum(row["n"] for name, row in found.items() if name != "overall") == overall["n"]
    assert overall["difference"] == pytest.approx(overall["inside"] - overall["inside_without"])
    assert overall["low"] <= overall["difference"] <= overall["high"]
    assert overall["inside"] > overall["area"]

    inner = predictor.pixel_values  # a model that cannot see the finding
    monkeypatch.setattr(predictor, "pixel_values", lambda images: inner(images) * 0 + torch.linspace(0, 1, 384))
    assert measure_sensitivity(predictor, 3, size=128)["overall"]["difference"] == 0
