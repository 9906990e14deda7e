"""What a finding, a marker, blades, plaster, a ring or metal does to an answer, all else being equal bit for bit.

The shortcut audit: do answers hang on what does not show the patient?
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from ..inference import StudyPredictor
from ..phantoms import BODY_PARTS, MIX, render_phantom
from .masking import LIMIT, N_STUDIES, Shift, Shifts, measure_masking

WORN: dict[str, dict[str, bool]] = {
    "marker": {"marker": True},
    "collimation": {"collimated": True},
    "cast": {"cast": True},
    "ring": {"jewel": True},
    "metal": {"metal": True},
}
"""What is added besides findings -> the option of `render_phantom`."""

TELLING = ("finding", *MIX, "metal")
"""What ought to move answers: a plate or a wire is abnormal in MURA's sense."""

_HIDING = ("cast", "ring")  # what may hide a finding: an answer that falls then is no shortcut
_PLAIN: dict[str, Any] = {"marker": False, "collimated": False, "cast": False, "jewel": False}
_VIEWS = 3


def measure_twins(
    predictor: StudyPredictor, n: int = 210, seed: int = 1_000_000, *, size: int = 512, progress: bool = True
) -> Shifts:
    """Renders studies of three views with and without something, and compares the answers.

    Findings are added to normal patients. What is no finding is added to normal and to abnormal patients in turn: a
    thing that stands for normal moves no answer that is so already. Plaster and rings are added to normal ones alone,
    since they hide findings.

    Args:
        predictor: The checkpoint; any that gives a study's probability.
        n: Patients; body parts take turns, findings come in the shares of `MIX`.
        seed: Of the first patient. Seeds below 2^32 that a training tree drew are unlikely to be met again.
        size: Pixels on the long side.
        progress: Whether to show a progress bar.

    Returns:
        Changes of `finding` (all kinds), each kind of `MIX`, and each of `WORN`. Patients on whose films a thing does
        not fit (a shoulder wears no ring; blades may stand beyond the film) do not count for it.
    """
    rng = np.random.default_rng([seed, 0])
    kinds = rng.choice(list(MIX), size=n, p=np.array(list(MIX.values())) / sum(MIX.values()))
    shifts = Shifts(["finding", *MIX, *WORN])
    for number in tqdm(range(n), desc="Twins", disable=not progress):
        part, patient, kind = BODY_PARTS[number % len(BODY_PARTS)], seed + number, str(kinds[number])
        ill = {**_PLAIN, "finding": kind}
        bases = {what: number // len(BODY_PARTS) % 2 if what not in _HIDING else 0 for what in WORN}
        drawn = [_PLAIN, ill, *({**(_PLAIN, ill)[bases[what]], **option} for what, option in WORN.items())]
        studies: list[list[np.ndarray]] = [[] for _ in drawn]
        for view in range(_VIEWS):  # view by view, since twins share their shadows
            for study, options in zip(studies, drawn, strict=True):
                phantom = render_phantom(patient, body_part=part, view=view, size=size, **options)
                study.append(phantom.pixels)
                kind = phantom.finding or kind
        answers = [predictor(study, body_part=part, heatmaps=False) for study in studies]
        pairs = [("finding", 0, 1), (kind, 0, 1)]
        pairs += [(what, base, place) for place, (what, base) in enumerate(bases.items(), 2)]
        for what, before, after in pairs:
            order = _by_change(studies[before], studies[after])
            if order is None and what in WORN:
                continue
            shifts.add(
                Shift(
                    what=what,
                    study=f"{part} {patient}",
                    patient=str(patient),
                    label=before,
                    before=answers[before].probability,
                    after=answers[after].probability,
                    threshold=answers[before].threshold,
                ),
                partial(_look, studies[before], studies[after], order or 0),
            )
    return shifts


def _look(one: list[np.ndarray], other: list[np.ndarray], view: int) -> tuple[np.ndarray, ...]:
    return one[view], other[view]


def _by_change(one: list[np.ndarray], other: list[np.ndarray]) -> int | None:
    """The view in which most pixels differ; None where none do."""
    differ = [int((first != second).sum()) for first, second in zip(one, other, strict=True)]
    return int(np.argmax(differ)) if any(differ) else None


@dataclass(frozen=True)
class ShortcutAudit:
    """What an audit found.

    Attributes:
        record: Plain values: `limit`; `twins` and `masking`, where measured, as of `Shifts.report`.
        worst: Thing -> the studies that it moved furthest, with pictures. They show patients: for this machine only.
    """

    record: dict[str, Any]
    worst: dict[str, list[Shift]]


def audit_shortcuts(
    predictor: StudyPredictor,
    rows: Dataset | None = None,
    *,
    twins: int = 0,
    n_studies: int = N_STUDIES,
    size: int = 512,
    progress: bool = True,
) -> ShortcutAudit:
    """Measures how far answers move with what is no finding.

    Args:
        predictor: The checkpoint.
        rows: Films whose corners and markers are painted over (`measure_masking`); left out where None.
        twins: Phantom patients to render with and without a marker, blades, plaster, a ring, metal and a finding
            (`measure_twins`); 0 leaves them out.
        n_studies: Of the films, at most.
        size: Pixels on the long side of the phantoms.
        progress: Whether to show progress bars.

    Raises:
        ValueError: If there is nothing to measure.
    """
    if rows is None and not twins:
        raise ValueError("nothing to audit with; give films, or a number of twins, or both")
    record: dict[str, Any] = {"limit": LIMIT}
    worst: dict[str, list[Shift]] = {}
    if twins:
        added = measure_twins(predictor, twins, size=size, progress=progress)
        record["twins"] = added.report(TELLING)
        worst |= {what: found for what, found in added.worst().items() if what not in TELLING or what == "metal"}
    if rows is not None:
        hidden = measure_masking(predictor, rows, n_studies, progress=progress)
        record["masking"] = hidden.report()
        worst |= {f"{what} painted over": found for what, found in hidden.worst().items()}
    return ShortcutAudit(record, worst)
