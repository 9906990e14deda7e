"""Which printed figures are possible, given how many normal and abnormal cases they were measured on.

The accuracy of n answers is one of n + 1 numbers, and each accuracy goes with a few values of Cohen's kappa only.
These functions go through every confusion matrix of the given counts in whole numbers, so rounding plays no part.
"""

import numpy as np


def right_answers(n: int, accuracy: float, digits: int = 3, *, cut_off: bool = False) -> range:
    """Returns how many of n answers can be correct, given the printed accuracy.

    Args:
        n: Number of answers, 1 or more.
        accuracy: The printed accuracy, in [0, 1].
        digits: Number of printed decimals of that share: 78.57 % has four.
        cut_off: Whether further decimals were cut off. Otherwise they were rounded, a half in either direction.

    Returns:
        The numbers k for which k / n is printed as `accuracy`; may be empty.

    Raises:
        ValueError: If `n` is below 1 or the accuracy lies outside [0, 1].
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
    """Returns every confusion matrix that is printed with a given accuracy and a given kappa.

    Args:
        n_normal: Number of normal cases, 1 or more.
        n_abnormal: Number of abnormal cases, 1 or more.
        accuracy: The printed accuracy, in [0, 1].
        kappa: The printed Cohen's kappa (unweighted), in [-1, 1].
        accuracy_digits: Number of printed decimals of the accuracy.
        kappa_digits: Number of printed decimals of kappa.
        cut_off: See `right_answers`; applies to both figures. Kappa is cut off towards 0.

    Returns:
        int64 `[m, 2]`: false negatives and false positives. `m` is 0 if the pair is impossible.

    Raises:
        ValueError: If a class is empty, or a figure is out of range.
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
    """Returns the lowest and the highest kappa at a printed accuracy, or None if that accuracy is impossible.

    Args:
        n_normal: Number of normal cases, 1 or more.
        n_abnormal: Number of abnormal cases, 1 or more.
        accuracy: The printed accuracy, in [0, 1].
        digits: Number of printed decimals.
        cut_off: See `right_answers`.

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
    """Returns the label (0 normal, 1 abnormal) that gives this accuracy if every case gets it, or None.

    Args:
        n_normal: Number of normal cases.
        n_abnormal: Number of abnormal cases.
        accuracy: The printed accuracy, in [0, 1].
        digits: Number of printed decimals.
        cut_off: See `right_answers`.
    """
    right = right_answers(n_normal + n_abnormal, accuracy, digits, cut_off=cut_off)
    return next((label for label, count in enumerate((n_normal, n_abnormal)) if count in right), None)


def _all_matrices(
    n_normal: int, n_abnormal: int, accuracy: float, digits: int, cut_off: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the errors `[m, 2]` of every matrix with such an accuracy, and numerator and denominator of its kappa.

    With n cases, k of them correct, and E = (abnormal)(called abnormal) + (normal)(called normal), kappa is
    (k n - E) / (n^2 - E). The denominator is never 0 if both classes are present.
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
