from dataclasses import replace

import numpy as np
import pytest

from mura_hf import Radiograph
from mura_hf.inference.postprocessing import find_conflicts
from mura_hf.models import BODY_PARTS

NAMES = ["a.png", "b.png", "c.png"]


@pytest.fixture
def views():
    rng = np.random.default_rng(0)
    return [Radiograph(rng.random((20, 30), dtype=np.float32), 8, "PNG") for _ in NAMES]


def _found(*parts, sure=0.95):
    found = np.full((len(parts), len(BODY_PARTS)), (1 - sure) / 6)
    found[np.arange(len(parts)), [BODY_PARTS.index(part) for part in parts]] = sure
    return found


def test_views_that_may_be_one_study(views):
    assert find_conflicts(NAMES, views) == []
    same = [replace(view, side="left", patient_hash="aa", body_part="wrist") for view in views[:2]] + views[2:]
    assert find_conflicts(NAMES, same, _found("hand", "hand", "wrist")) == []  # what files say counts first


def test_the_same_picture_twice(views):
    (told,) = find_conflicts(NAMES, [views[0], views[1], replace(views[0], pixels=views[0].pixels.copy())])
    assert told.startswith("a.png and c.png show the same picture")
    turned = replace(views[0], pixels=views[0].pixels.reshape(30, 20))
    assert find_conflicts(NAMES[:2], [views[0], turned]) == []


def test_views_of_several_patients(views):
    (told,) = find_conflicts(
        NAMES, [replace(view, patient_hash=mark) for view, mark in zip(views, "xyx", strict=True)]
    )
    assert "of 2 patients, by what the files say: a.png and c.png; b.png." in told


def test_views_of_both_sides(views):
    known = [replace(views[0], side="right"), views[1], replace(views[2], side="left")]
    (told,) = find_conflicts(NAMES, known)
    assert "both sides, by what the files say: left: c.png; right: a.png." in told


def test_views_of_different_parts(views):
    (told,) = find_conflicts(NAMES, views, _found("wrist", "elbow", "wrist"))
    assert "different parts of the body: elbow: b.png; wrist: a.png and c.png." in told
    assert find_conflicts(NAMES, views, _found("wrist", "elbow", "wrist", sure=0.85)) == []
    (told,) = find_conflicts(
        NAMES, [replace(views[0], body_part="hand"), *views[1:]], _found("wrist", "wrist", "wrist")
    )
    assert "hand: a.png; wrist: b.png and c.png" in told


def test_an_answer_brings_them(predictor, phantom_files):
    study = predictor([phantom_files[0], phantom_files[0]], names=["one.png", "two.png"])
    assert any(warning.startswith("one.png and two.png show the same picture") for warning in study.warnings)
    assert not any("same picture" in warning for warning in predictor(phantom_files).warnings)
