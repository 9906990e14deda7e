from fractions import Fraction
from itertools import product
from math import trunc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plausibility import (
    AGAINST_KAPPA,
    CONSTANT,
    NOT_STUDIES,
    PAIR,
    find_flags,
    kappa_range,
    matching_errors,
    right_answers,
)
from published import load_published

COUNTS = st.integers(1, 14)


def _prints(exact, printed, digits, cut_off):
    """Whether an exact number is printed so; a half may go either way."""
    scaled, whole = exact * 10**digits, round(printed * 10**digits)
    return trunc(scaled) == whole if cut_off else abs(scaled - whole) <= Fraction(1, 2)


def _kappa(normal, abnormal, misses, alarms):
    """Cohen's kappa by its definition, exact."""
    n, called = normal + abnormal, abnormal - misses + alarms
    chance = Fraction(abnormal * called + normal * (n - called), n * n)
    return (Fraction(n - misses - alarms, n) - chance) / (1 - chance)


@given(COUNTS, COUNTS, st.integers(0, 100), st.integers(-100, 100), st.integers(1, 2), st.booleans())
def test_pairs_are_those_of_every_matrix_tried(normal, abnormal, accuracy, kappa, digits, cut_off):
    shown = (accuracy / 100, kappa / 100) if digits == 2 else (accuracy // 10 / 10, round(kappa / 100, 1))
    n = normal + abnormal
    expected = {
        (misses, alarms)
        for misses, alarms in product(range(abnormal + 1), range(normal + 1))
        if _prints(Fraction(n - misses - alarms, n), shown[0], digits, cut_off)
        and _prints(_kappa(normal, abnormal, misses, alarms), shown[1], digits, cut_off)
    }
    found = matching_errors(normal, abnormal, *shown, digits, digits, cut_off=cut_off)
    assert found.shape == (len(expected), 2)
    assert set(map(tuple, found.tolist())) == expected
    right = right_answers(n, shown[0], digits, cut_off=cut_off)
    assert list(right) == [k for k in range(n + 1) if _prints(Fraction(k, n), shown[0], digits, cut_off)]
    kappas = [
        float(_kappa(normal, abnormal, misses, alarms))
        for misses, alarms in product(range(abnormal + 1), range(normal + 1))
        if n - misses - alarms in right
    ]
    limits = kappa_range(normal, abnormal, shown[0], digits, cut_off=cut_off)
    assert limits == (pytest.approx((min(kappas), max(kappas))) if kappas else None)


def _flagged(key, kind):
    """(system, part, split, printed) of every accuracy that is flagged so, and the texts."""
    flags = [flag for flag in find_flags(load_published()[key]) if flag.kind == kind]
    about = [pair for flag in flags for pair in flag.about if pair[1].metric == "accuracy"]
    figures = {(system, one.part, one.split, one.printed) for system, one in about}
    return figures, " ".join(flag.text for flag in flags)


def test_study_b_compares_an_accuracy_of_images_with_a_kappa_of_studies():
    figures, text = _flagged("B", AGAINST_KAPPA)
    assert figures == {("more linear layers", "all", "valid", ".7857")}
    assert "from .563 to .578" in text
    assert "2,512 of 3,197" in _flagged("B", NOT_STUDIES)[1]


def test_impossible_pairs_of_study_a():
    figures, _ = _flagged("A", PAIR)
    assert {(split, printed) for _, _, split, printed in figures} == {
        ("valid", ".496"), ("valid", ".780"), ("valid", ".752"), ("train", ".635"), ("train", ".678"),
    }  # fmt: skip


def test_constant_answers_of_study_c():
    figures, text = _flagged("C", CONSTANT)
    scratch = {(part, printed) for system, part, _, printed in figures if system.startswith("from scratch, a network")}
    assert scratch == {
        ("elbow", ".5054"), ("finger", ".4642"), ("forearm", ".4983"), ("hand", ".5891"), ("humerus", ".5139"),
        ("shoulder", ".4938"),
    }  # fmt: skip
    assert "calling all abnormal: 278 of 563" in text


@pytest.mark.parametrize("key", ["D", "E", "mura_paper"])
def test_possible_figures_are_not_flagged(key):
    assert find_flags(load_published()[key]) == []
