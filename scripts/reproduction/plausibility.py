"""Checks whether printed figures are possible, given how many normal and abnormal cases they were measured on.

The accuracy of n answers is one of n + 1 numbers, and each accuracy goes with a few values of Cohen's kappa only. The
functions go through every confusion matrix of the given counts in whole numbers, so rounding plays no part.
`find_flags` applies them to all figures of a study.
"""

from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
from published import (
    ALL_PARTS,
    PublishedFigure,
    PublishedStudy,
    PublishedSystem,
    print_share,
)

from mura_hf.data.mura_release import OFFICIAL_COUNTS, WITHDRAWN_VALID_STUDIES

IMPOSSIBLE = "impossible"
PAIR = "impossible pair"
CONSTANT = "constant answer"
NOT_STUDIES = "images, not studies"
AGAINST_KAPPA = "accuracy against kappa"

_WAYS = (False, True)  # rounded, or cut off


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


@dataclass(frozen=True)
class Claim:
    """A comparison with a figure of others that a study makes. None stands for all, or for several figures."""

    metric: str
    against: str  # whose figure it is compared with
    its_metric: str
    its_level: str
    its_value: str | None = None
    system: str | None = None
    part: str | None = None
    split: str | None = None
    printed: str | None = None  # which figure, as a share, if a system has several

    def is_about(self, system: PublishedSystem, figure: PublishedFigure) -> bool:
        """Returns whether a figure is among those that are compared."""
        wanted = (self.metric, self.system, self.part, self.split, self.printed)
        has = (figure.metric, system.name, figure.part, figure.split, figure.printed)
        return all(one in (None, other) for one, other in zip(wanted, has, strict=True))


@dataclass(frozen=True)
class Flag:
    """What is wrong with figures of a study.

    Attributes:
        kind: One of the constants of this module.
        about: The figures, each with the name of its system.
        text: A sentence without its full stop.
    """

    kind: str
    about: tuple[tuple[str, PublishedFigure], ...]
    text: str


class _Counts(NamedTuple):
    """Number of images or studies behind a figure; normal and abnormal ones are None if they are not known."""

    n: int
    normal: int | None = None
    abnormal: int | None = None


def find_flags(study: PublishedStudy) -> list[Flag]:
    """Everything in a study's figures that contradicts the counts of the data, or is compared with something else.

    A figure is impossible only if it can result neither from rounding nor from cutting off decimals. Figures on data
    with unknown counts are not judged.
    """
    flags: list[Flag | None] = []
    for system in study.systems:
        accuracies = [figure for figure in system.figures if figure.metric == "accuracy"]
        kappas = [figure for figure in system.figures if figure.metric == "kappa"]
        flags += [_impossible(system, figure) for figure in accuracies]
        flags += [_impossible_pair(system, *pair) for pair in product(accuracies, kappas)]
        flags += [_constant(system, figure) for figure in accuracies]
        if study.taken_for == "study":
            flags.append(_only_of_images(system, accuracies))
    for claim in study.claims:
        flags += _check_claim(study, Claim(**claim))
    return [flag for flag in flags if flag is not None]


def _counts(system: PublishedSystem, figure: PublishedFigure, level: str) -> _Counts | None:
    """Number of images or studies behind a figure; None if it is not known."""
    parts = system.body_parts if figure.part == ALL_PARTS else (figure.part,)
    if figure.split == "valid_v1_0" and level == "study":
        return _Counts(sum(WITHDRAWN_VALID_STUDIES[part] for part in parts))
    if figure.split not in OFFICIAL_COUNTS:
        return None
    rows = [OFFICIAL_COUNTS[figure.split][part] for part in parts]
    if level == "image":
        normal, abnormal = sum(row.normal_images for row in rows), sum(row.abnormal_images for row in rows)
    else:
        normal, abnormal = sum(row.normal_studies for row in rows), sum(row.abnormal_studies for row in rows)
    return _Counts(normal + abnormal, normal, abnormal)


def _right(counts: _Counts | None, figure: PublishedFigure) -> list[int]:
    """Numbers of correct answers that are printed as this accuracy."""
    if counts is None:
        return []
    ranges = [right_answers(counts.n, figure.value, figure.digits, cut_off=way) for way in _WAYS]
    return sorted({count for found in ranges for count in found})


def _impossible(system: PublishedSystem, figure: PublishedFigure) -> Flag | None:
    counts = _counts(system, figure, figure.level)
    if counts is None or _right(counts, figure):
        return None
    about, text = ((system.name, figure),), f"{_describe(system, figure)} is no share of {counts.n:,} {_unit(figure)}"
    images = _counts(system, figure, "image")
    if figure.level == "study" and images is not None and (right := _right(images, figure)):
        return Flag(NOT_STUDIES, about, f"{text}, but {right[0]:,} of {images.n:,} images are")
    return Flag(IMPOSSIBLE, about, f"{text}, rounded or cut off")


def _impossible_pair(system: PublishedSystem, accuracy: PublishedFigure, kappa: PublishedFigure) -> Flag | None:
    counts = _counts(system, accuracy, accuracy.level)
    alike = all(getattr(accuracy, name) == getattr(kappa, name) for name in ("part", "split", "level", "note"))
    if not alike or counts is None or counts.normal is None or counts.abnormal is None:
        return None
    pair = (counts.normal, counts.abnormal, accuracy.value, kappa.value, accuracy.digits, kappa.digits)
    if any(len(matching_errors(*pair, cut_off=way)) for way in _WAYS):
        return None
    text = (
        f"{_describe(system, accuracy)} and kappa {kappa.printed} cannot both be of all {counts.n:,} "
        f"{_unit(accuracy)}, {counts.normal:,} normal and {counts.abnormal:,} abnormal ones: "
        f"{_kappas(counts, accuracy)}"
    )
    return Flag(PAIR, ((system.name, accuracy), (system.name, kappa)), text)


def _constant(system: PublishedSystem, figure: PublishedFigure) -> Flag | None:
    counts = _counts(system, figure, figure.level)
    if counts is None or counts.normal is None or counts.abnormal is None:
        return None
    label = constant_answer(counts.normal, counts.abnormal, figure.value, figure.digits)
    if label is None:
        return None
    named, right = ("normal", counts.normal) if label == 0 else ("abnormal", counts.abnormal)
    text = f"{_describe(system, figure)} is that of calling all {named}: {right:,} of {counts.n:,} {_unit(figure)} are"
    return Flag(CONSTANT, ((system.name, figure),), text)


def _only_of_images(system: PublishedSystem, accuracies: list[PublishedFigure]) -> Flag | None:
    """Figures that are taken for those of studies, where the counts prove that they are those of images."""
    found = []
    for figure in accuracies:
        images, studies = _counts(system, figure, "image"), _counts(system, figure, "study")
        right = _right(images, figure)
        if images is not None and studies is not None and right and not _right(studies, figure):
            found.append((figure, f"{figure.printed} is {right[0]:,} of {images.n:,}", studies.n))
    if not found:
        return None
    text = "; ".join(
        f"accuracy {share} images ({figure.part}, {figure.split}), but no share of {studies:,} studies"
        for figure, share, studies in found
    )
    return Flag(NOT_STUDIES, tuple((system.name, figure) for figure, *_ in found), f"{system.name}: {text}")


def _check_claim(study: PublishedStudy, claim: Claim) -> list[Flag]:
    """A comparison of different metrics or levels."""
    about = tuple((system, one) for system in study.systems for one in system.figures if claim.is_about(system, one))
    named = tuple((system.name, figure) for system, figure in about)
    flags = []
    whose = f"{claim.its_metric} {claim.its_value}" if claim.its_value else f"the {claim.its_metric}s"
    whose += f" of {claim.against}"
    system, figure = about[0]
    single = len(about) == 1
    subject = _describe(system, figure) if single else f"each {claim.metric}"
    counts, images = _counts(system, figure, figure.level), _right(_counts(system, figure, "image"), figure)
    if (claim.metric, claim.its_metric) == ("accuracy", "kappa"):
        text = f"{subject} is compared with {whose}, another metric"
        if single and counts is not None and counts.normal is not None:
            text += f": with {counts.normal:,} normal and {counts.abnormal:,} abnormal {_unit(figure)} "
            text += _kappas(counts, figure)
        flags.append(Flag(AGAINST_KAPPA, named, text))
    if claim.its_level == "study" and figure.level == "image":
        share = f" ({images[0]:,} of {counts.n:,})" if single and images and counts is not None else ""
        flags.append(Flag(NOT_STUDIES, named, f"{subject} is of images{share}, and {whose} of studies"))
    return flags


def _kappas(counts: _Counts, figure: PublishedFigure) -> str:
    """The range of kappa at an accuracy, in words."""
    found = [kappa_range(counts.normal, counts.abnormal, figure.value, figure.digits, cut_off=way) for way in _WAYS]
    ends = [end for ends in found if ends is not None for end in ends]
    if not ends:
        return "no share is printed so"
    return f"such an accuracy has a kappa from {print_share(min(ends))} to {print_share(max(ends))}"


def _describe(system: PublishedSystem, figure: PublishedFigure) -> str:
    return f"{system.name}: accuracy {figure.printed} ({figure.part}, {figure.split.replace('_', ' ')})"


def _unit(figure: PublishedFigure) -> str:
    return "images" if figure.level == "image" else "studies"
