"""The shortcut audit: do answers hang on what does not show the patient?"""

from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from ..inference import StudyPredictor
from .masking import N_STUDIES, measure_masking
from .shifts import LIMIT, Shift
from .twins import TELLING, measure_twins


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
