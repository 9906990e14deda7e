from fractions import Fraction
from itertools import product
from math import trunc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plausibility import constant_answer, kappa_range, matching_errors, right_answers
from sklearn.metrics import cohen_kappa_score

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


def test_the_formula_is_that_of_scikit_learn():
    for misses, alarms in product(range(4), range(6)):
        truth = [0] * 5 + [1] * 3
        called = [1] * alarms + [0] * (5 - alarms) + [0] * misses + [1] * (3 - misses)
        assert cohen_kappa_score(truth, called) == pytest.approx(float(_kappa(5, 3, misses, alarms)))


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


@given(COUNTS, COUNTS, st.data(), st.integers(1, 4), st.booleans())
def test_what_a_matrix_prints_is_possible(normal, abnormal, data, digits, cut_off):
    misses, alarms = data.draw(st.integers(0, abnormal)), data.draw(st.integers(0, normal))
    n, kappa = normal + abnormal, _kappa(normal, abnormal, misses, alarms)
    accuracy = Fraction(n - misses - alarms, n)
    unit = 10**digits
    shown = [float(Fraction(trunc(x * unit) if cut_off else round(x * unit), unit)) for x in (accuracy, kappa)]
    assert n - misses - alarms in right_answers(n, shown[0], digits, cut_off=cut_off)
    found = matching_errors(normal, abnormal, *shown, digits, digits, cut_off=cut_off)
    assert [misses, alarms] in found.tolist()
    low, high = kappa_range(normal, abnormal, shown[0], digits, cut_off=cut_off)
    assert low - 1e-12 <= float(kappa) <= high + 1e-12


@pytest.mark.parametrize(
    ("n", "printed", "digits", "cut_off", "expected"),
    [
        (3197, 0.7857, 4, False, [2512]),
        (1199, 0.7857, 4, False, [942]),  # studies could print it too
        (175, 0.722, 3, False, []),
        (175, 0.722, 3, True, []),
        (461, 0.722, 3, False, [333]),
        (160, 0.8688, 4, False, [139]),  # .86875, a half rounded up
        (160, 0.8687, 4, False, [139]),  # and down
        (563, 0.7637, 4, False, []),
        (563, 0.7637, 4, True, [430]),
        (3, 1.0, 2, False, [3]),
        (3, 0.0, 2, True, [0]),
    ],
)
def test_shares_of_whole_numbers(n, printed, digits, cut_off, expected):
    assert list(right_answers(n, printed, digits, cut_off=cut_off)) == expected


def test_kappas_beside_an_accuracy():
    # 8 normal and 2 abnormal, nine right: one miss, or one alarm.
    assert kappa_range(8, 2, 0.9, 1) == pytest.approx((float(_kappa(8, 2, 1, 0)), float(_kappa(8, 2, 0, 1))))
    assert kappa_range(8, 2, 0.95, 3) is None
    low, high = kappa_range(1667, 1530, 0.7857, 4)
    assert 0.56 < low < high < 0.58  # far from .778
    assert not len(matching_errors(1667, 1530, 0.7857, 0.778, 4))


def test_constant_answers():
    assert constant_answer(235, 230, 0.5054, 4) == 0
    assert constant_answer(285, 278, 0.4938, 4) == 1
    assert constant_answer(364, 295, 0.6844, 4) is None
    assert constant_answer(5, 5, 0.5, 1) == 0


def test_what_cannot_be_asked():
    with pytest.raises(ValueError, match="some of both"):
        kappa_range(0, 5, 0.5)
    with pytest.raises(ValueError, match="kappa is 78"):
        matching_errors(5, 5, 0.5, 78)
    with pytest.raises(ValueError, match=r"accuracy 78\.57"):
        right_answers(3197, 78.57)
