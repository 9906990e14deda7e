import numpy as np
import pytest

from mura_hf.evaluation.shifts import LIMIT, Shift, ShiftCollection


def _shifts(changes, *, controls=None, before=0.48, factor="marker"):
    shifts = ShiftCollection()
    for number, change in enumerate(changes):
        control = None if controls is None else before + controls[number]
        shift = Shift(factor, f"s{number}", f"p{number // 2}", number % 2, before, before + change, 0.5, control)
        shifts.add(shift, lambda: (np.zeros((2, 2), np.uint8),) * 2)
    return shifts


def test_figures_of_known_shifts():
    changes = [0.1, -0.1, 0.3, 0.01]
    row = _shifts(changes).report()["marker"]
    assert row["n"] == 4
    assert row["mean"] == pytest.approx(np.mean(changes))
    assert row["mean_absolute"] == pytest.approx(np.mean(np.abs(changes)))
    assert row["median_absolute"] == pytest.approx(0.1)
    assert row["flips"] == 0.5  # .58 and .78 are above .5
    assert row["normal"] == {"n": 2, "mean": pytest.approx(0.2), "low": pytest.approx(0.1), "high": pytest.approx(0.3)}
    assert row["abnormal"]["mean"] == pytest.approx(-0.045)
    # The two patients have mean changes of 0 and .155, and these are the ends of their bootstrap.
    assert (row["low"], row["high"]) == (pytest.approx(0.0), pytest.approx(0.155))
    assert "control" not in row


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [([0.2] * 9, "caught"), ([-0.2] * 9, "caught"), ([0.01] * 9, "cleared"), ([0.3] + [0.0] * 5, "undecided")],
)
def test_the_verdict_is_about_the_whole_interval(changes, verdict):
    row = _shifts(changes).report()["marker"]
    assert row["verdict"] == verdict
    assert (row["absolute_low"] > LIMIT) == (verdict == "caught")
    assert (row["absolute_high"] <= LIMIT) == (verdict == "cleared")
    assert _shifts(changes).report(["marker"])["marker"]["verdict"] == "expected"


def test_the_excess_over_the_control_is_judged():
    row = _shifts([0.2] * 6, controls=[-0.2] * 6).report()["marker"]
    assert row["control"] == pytest.approx(0.2)
    assert row["excess"] == pytest.approx(0)
    assert row["verdict"] == "cleared"
    assert _shifts([0.2] * 6, controls=[0.01] * 6).report()["marker"]["verdict"] == "caught"


def test_images_are_kept_of_the_largest_shifts():
    changes = [0.01 * number for number in (3, 9, 1, 8, 2, 7, 4, 6, 5, 0)]
    largest = _shifts(changes).largest()["marker"]
    assert [shift.study for shift in largest] == ["s1", "s3", "s5", "s7", "s8", "s6"]
    assert all(len(shift.images) == 2 for shift in largest)
