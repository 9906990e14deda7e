"""Whether figures that someone printed can be, at the counts that they are of.

A share of n answers is one of n + 1 numbers, and with the accuracy only some values of Cohen's kappa go together. Here
every confusion matrix of the counts is looked at, in whole numbers, so that no rounding of ours decides.
"""

import numpy as np


def right_answers(n: int, accuracy: float, digits: int = 3, *, cut_off: bool = False) -> range:
    """How many of n answers can be right where an accuracy is printed.

    Args:
        n: Answers, 1 or more.
        accuracy: As printed, a share in [0, 1].
        digits: Decimals that were printed, of the share: 78.57 % has four.
        cut_off: Whether further decimals were cut off; else they were rounded, a half to either side.

    Returns:
        The numbers k for which k / n prints so; empty where there is none.

    Raises:
        ValueError: If there are no answers, or the accuracy lies outside [0, 1].
    """
    if n < 1 or not 0 <= accuracy <= 1:
        raise ValueError(f"n is {n} and accuracy {accuracy}: they must be 1 or more, and in [0, 1]")
    unit = 10**digits
    printed = round(accuracy * unit)
    if cut_off:
        low, high = -(-printed * n // unit), -(-(printed + 1) * n // unit) - 1
    else:
        low, high = -(-(2 * printed - 1) * n // (2 * unit)), (2 * printed + 1) * n // (2 * unit)
    return range(max(low, 0), min(high, n) + 1)


def matching_errors(
    n_normal: int,
    n_abnormal: int,
    accuracy: float,
    kappa: float,
    accuracy_digits: int = 3,
    kappa_digits: int = 3,
    *,
    cut_off: bool = False,
) -> np.ndarray:
    """Every confusion matrix that prints a given accuracy together with a given kappa.

    Args:
        n_normal: Normal cases, 1 or more.
        n_abnormal: Abnormal cases, 1 or more.
        accuracy: As printed, in [0, 1].
        kappa: Cohen's, unweighted, as printed, in [-1, 1].
        accuracy_digits: Decimals of the accuracy.
        kappa_digits: Decimals of kappa.
        cut_off: As in `right_answers`, for both; kappa is cut off towards 0.

    Returns:
        int64 `[m, 2]`, abnormal cases called normal and normal cases called abnormal; `m` is 0 where the pair cannot
        be.

    Raises:
        ValueError: If a class is empty, or a figure lies outside its range.
    """
    if not -1 <= kappa <= 1:
        raise ValueError(f"kappa is {kappa}: it must lie in [-1, 1]")
    errors, above, below = _all_matrices(n_normal, n_abnormal, accuracy, accuracy_digits, cut_off)
    unit = 10**kappa_digits
    printed = round(kappa * unit)
    if not cut_off:
        fits = np.abs(2 * (unit * above - printed * below)) <= below
    elif printed:
        sign = 1 if printed > 0 else -1
        beyond = sign * (unit * above - printed * below)  # in units of the last digit, times `below`
        fits = (beyond >= 0) & (beyond < below)
    else:
        fits = np.abs(unit * above) < below
    return errors[fits]


def kappa_range(
    n_normal: int, n_abnormal: int, accuracy: float, digits: int = 3, *, cut_off: bool = False
) -> tuple[float, float] | None:
    """The lowest and the highest kappa that go with an accuracy as printed; None where that cannot be at all.

    Args:
        n_normal: Normal cases, 1 or more.
        n_abnormal: Abnormal cases, 1 or more.
        accuracy: As printed, in [0, 1].
        digits: Its decimals.
        cut_off: As in `right_answers`.

    Raises:
        ValueError: If a class is empty, or the accuracy lies outside [0, 1].
    """
    _, above, below = _all_matrices(n_normal, n_abnormal, accuracy, digits, cut_off)
    if not len(above):
        return None
    kappas = above / below
    return float(kappas.min()), float(kappas.max())


def constant_answer(
    n_normal: int, n_abnormal: int, accuracy: float, digits: int = 3, *, cut_off: bool = False
) -> int | None:
    """The label that, given to every case, prints this accuracy: 0 normal, 1 abnormal; None where neither does.

    Args:
        n_normal: Normal cases.
        n_abnormal: Abnormal cases.
        accuracy: As printed, in [0, 1].
        digits: Its decimals.
        cut_off: As in `right_answers`.
    """
    right = right_answers(n_normal + n_abnormal, accuracy, digits, cut_off=cut_off)
    return next((label for label, count in enumerate((n_normal, n_abnormal)) if count in right), None)


def _all_matrices(
    n_normal: int, n_abnormal: int, accuracy: float, digits: int, cut_off: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Misses and alarms `[m, 2]` of every matrix with such an accuracy, and its kappa as a fraction, above and below.

    With n cases, k of them right and E = (abnormal)(called abnormal) + (normal)(called normal), kappa is
    (k n - E) / (n^2 - E); with both classes there, what is below is never 0.
    """
    if n_normal < 1 or n_abnormal < 1:
        raise ValueError(f"{n_normal} normal and {n_abnormal} abnormal cases: kappa needs some of both")
    n = n_normal + n_abnormal
    found = [np.empty((0, 3), np.int64)]
    for right in right_answers(n, accuracy, digits, cut_off=cut_off):
        wrong = n - right
        misses = np.arange(max(0, wrong - n_normal), min(n_abnormal, wrong) + 1, dtype=np.int64)
        found.append(np.stack([misses, wrong - misses, np.full_like(misses, right)], axis=1))
    misses, alarms, right = np.concatenate(found).T
    called = n_abnormal - misses + alarms
    expected = n_abnormal * called + n_normal * (n - called)
    return np.stack([misses, alarms], axis=1), right * n - expected, n * n - expected
