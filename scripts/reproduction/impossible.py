"""Published figures that cannot be, or that are not what they are taken for."""

from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from plausibility import constant_answer, kappa_range, matching_errors, right_answers

from mura_hf.data.mura_release import OFFICIAL_COUNTS, WITHDRAWN_VALID_STUDIES
from mura_hf.evaluation.published import (
    ALL_PARTS,
    Claim,
    PublishedFigure,
    PublishedStudy,
    PublishedSystem,
    print_share,
)

IMPOSSIBLE = "impossible"
PAIR = "impossible pair"
CONSTANT = "constant answer"
NOT_STUDIES = "images, not studies"
AGAINST_KAPPA = "accuracy against kappa"

_WAYS = (False, True)  # rounded, or cut off


@dataclass(frozen=True)
class Flag:
    """What is wrong with figures of a study.

    Attributes:
        kind: In few words, one of the constants of this module.
        about: The systems' names and their figures.
        text: A sentence without its full stop.
    """

    kind: str
    about: tuple[tuple[str, PublishedFigure], ...]
    text: str


class _Counts(NamedTuple):
    """How many images or studies a figure is of; the labels' are None where they are not known."""

    n: int
    normal: int | None = None
    abnormal: int | None = None


def find_flags(study: PublishedStudy) -> list[Flag]:
    """Everything that the counts of the data, or what it is compared with, say against a study's figures.

    A figure counts as impossible only where it can come neither from rounding nor from cutting off further decimals.
    What was measured on data whose counts are not known is not judged.
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
        flags += _look_at_claim(study, claim)
    return [flag for flag in flags if flag is not None]


def _counts(system: PublishedSystem, figure: PublishedFigure, level: str) -> _Counts | None:
    """Of what a figure was measured on, in images or in studies; None where they are not known."""
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
    """The numbers of right answers that print an accuracy."""
    if counts is None:
        return []
    ranges = [right_answers(counts.n, figure.value, figure.digits, cut_off=way) for way in _WAYS]
    return sorted({count for found in ranges for count in found})


def _impossible(system: PublishedSystem, figure: PublishedFigure) -> Flag | None:
    counts = _counts(system, figure, figure.level)
    if counts is None or _right(counts, figure):
        return None
    about, text = ((system.name, figure),), f"{_told(system, figure)} is no share of {counts.n:,} {_many(figure)}"
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
        f"{_told(system, accuracy)} and kappa {kappa.printed} cannot both be on all {counts.n:,} {_many(accuracy)}, "
        f"{counts.normal:,} normal and {counts.abnormal:,} abnormal ones: {_kappas(counts, accuracy)}"
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
    text = f"{_told(system, figure)} is that of calling all {named}: {right:,} of {counts.n:,} {_many(figure)} are"
    return Flag(CONSTANT, ((system.name, figure),), text)


def _only_of_images(system: PublishedSystem, accuracies: list[PublishedFigure]) -> Flag | None:
    """Figures of images that are taken for those of studies, where the counts prove that they are none."""
    found = []
    for figure in accuracies:
        images, studies = _counts(system, figure, "image"), _counts(system, figure, "study")
        right = _right(images, figure)
        if images is not None and studies is not None and right and not _right(studies, figure):
            found.append((figure, f"{figure.printed} is {right[0]:,} of {images.n:,}", studies.n))
    if not found:
        return None
    told = "; ".join(
        f"accuracy {share} images ({figure.part}, {figure.split}), but no share of {studies:,} studies"
        for figure, share, studies in found
    )
    return Flag(NOT_STUDIES, tuple((system.name, figure) for figure, *_ in found), f"{system.name}: {told}")


def _look_at_claim(study: PublishedStudy, claim: Claim) -> list[Flag]:
    """A comparison that mixes figures or levels."""
    about = tuple((system, one) for system in study.systems for one in system.figures if claim.is_about(system, one))
    named = tuple((system.name, figure) for system, figure in about)
    flags = []
    whose = f"{claim.its_metric} {claim.its_value}" if claim.its_value else f"the {claim.its_metric}s"
    whose += f" of {claim.against}"
    system, figure = about[0]
    single = len(about) == 1
    subject = _told(system, figure) if single else f"each {claim.metric}"
    counts, images = _counts(system, figure, figure.level), _right(_counts(system, figure, "image"), figure)
    if (claim.metric, claim.its_metric) == ("accuracy", "kappa"):
        text = f"{subject} is set against {whose}, another kind of figure"
        if single and counts is not None and counts.normal is not None:
            there = f"{counts.normal:,} normal and {counts.abnormal:,} abnormal {_many(figure)}"
            text += f": with {there} {_kappas(counts, figure)}"
        flags.append(Flag(AGAINST_KAPPA, named, text))
    if claim.its_level == "study" and figure.level == "image":
        share = f" ({images[0]:,} of {counts.n:,})" if single and images and counts is not None else ""
        flags.append(Flag(NOT_STUDIES, named, f"{subject} is of images{share}, and {whose} of studies"))
    return flags


def _kappas(counts: _Counts, figure: PublishedFigure) -> str:
    """The kappas that go with an accuracy, in words."""
    assert counts.normal is not None
    assert counts.abnormal is not None
    found = [kappa_range(counts.normal, counts.abnormal, figure.value, figure.digits, cut_off=way) for way in _WAYS]
    ends = [end for ends in found if ends is not None for end in ends]
    return (
        f"such an accuracy has a kappa from {print_share(min(ends))} to {print_share(max(ends))}"
        if ends
        else "no share is so"
    )


def _told(system: PublishedSystem, figure: PublishedFigure) -> str:
    return f"{system.name}: accuracy {figure.printed} ({figure.part}, {figure.split.replace('_', ' ')})"


def _many(figure: PublishedFigure) -> str:
    return "images" if figure.level == "image" else "studies"
