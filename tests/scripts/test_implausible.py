from dataclasses import replace

import pytest
from impossible import find_flags

from mura_hf.evaluation import load_published
from mura_hf.evaluation.published import PublishedFigure, PublishedStudy, PublishedSystem
from mura_hf.models import BODY_PARTS


def _found(key, kind):
    """(system, part, split, printed) of every figure that is flagged so, and the texts."""
    flags = [flag for flag in find_flags(load_published()[key]) if flag.kind == kind]
    figures = {
        (system, one.part, one.split, one.printed)
        for flag in flags
        for system, one in flag.about
        if one.metric == "accuracy"
    }
    return figures, " ".join(flag.text for flag in flags)


def test_study_b_sets_an_accuracy_of_images_against_a_kappa_of_studies():
    for kind in ("accuracy against kappa", "images, not studies"):
        figures, text = _found("B", kind)
        assert figures == {("more linear layers", "all", "valid", ".7857")}
        assert "kappa .778" in text
    _, text = _found("B", "accuracy against kappa")
    assert "from .563 to .578" in text
    _, text = _found("B", "images, not studies")
    assert "2,512 of 3,197" in text


def test_constant_answers_of_study_c():
    figures, text = _found("C", "constant answer")
    scratch = {
        (part, printed) for system, part, _, printed in figures if system == "from scratch, a network for each part"
    }
    assert scratch == {
        ("elbow", ".5054"), ("finger", ".4642"), ("forearm", ".4983"), ("hand", ".5891"), ("humerus", ".5139"),
        ("shoulder", ".4938"),
    }  # fmt: skip
    assert "calling all abnormal: 278 of 563" in text
    assert {system for system, *_ in figures} - {"from scratch, a network for each part"} == {
        "two convolutions, elbow alone"  # 51 %, to its rounding
    }
    _, text = _found("C", "accuracy against kappa")
    assert "the kappas of the MURA paper" in text


def test_impossible_pairs_of_study_a():
    figures, _ = _found("A", "impossible pair")
    assert {(split, printed) for _, _, split, printed in figures} == {
        ("valid", ".496"), ("valid", ".780"), ("valid", ".752"), ("train", ".635"), ("train", ".678"),
    }  # fmt: skip
    figures, text = _found("A", "images, not studies")
    assert {".722", ".744"} <= {printed for *_, printed in figures}
    assert "333 of 461 images (finger, valid), but no share of 175 studies" in text


@pytest.mark.parametrize("key", ["D", "E", "mura_paper"])
def test_nothing_is_held_against_figures_that_can_be(key):
    assert find_flags(load_published()[key]) == []


def _study(*figures):
    system = PublishedSystem("one", None, None, tuple(BODY_PARTS), figures)
    return PublishedStudy("Z", "a study", ("a note",), None, {}, (), (system,))


ACCURACY = PublishedFigure("accuracy", "all", 0.7731, 4, "study", "valid")


def test_figures_of_images_that_are_called_figures_of_studies():
    figure = replace(ACCURACY, value=0.7717)  # between 925 and 926 of 1,199
    (flag,) = find_flags(_study(figure))
    assert flag.kind == "images, not studies"
    assert "2,467 of 3,197 images are" in flag.text
    assert find_flags(_study(replace(figure, level="image"))) == []


def test_shares_that_nothing_prints():
    figure = replace(ACCURACY, part="humerus", level="image", value=0.5001)  # 144 of 288 is .5
    (flag,) = find_flags(_study(figure))
    assert flag.kind == "impossible"
    assert "288 images" in flag.text
    assert find_flags(_study(replace(figure, split="hidden_test"))) == []  # of unknown counts
