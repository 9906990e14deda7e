"""Many studies, one row each, most likely abnormal first."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import MuraError
from ..files import replace_file
from ..radiographs import Radiograph, read_radiograph
from .predictor import StudyPredictor
from .study_files import StudyFile, StudyFiles

Read = Callable[[StudyFile], Radiograph]


@dataclass(frozen=True)
class WorklistRow:
    """What is known of one study; the columns of a worklist.

    Attributes:
        study: Its name.
        body_part: Told or found; None where neither.
        probability: P(abnormal) in [0, 1]; None where no view could be read, or the model could not answer.
        band: "normal", "uncertain" or "abnormal", as in `StudyPrediction`.
        label: "normal" or "abnormal" at the operating point.
        in_distribution: Whether it is like those of training; where not, the answer may mean nothing.
        n_views: Views that were read.
        left_out: Sentences about views that could not be read.
        warnings: Sentences that belong beside the answer.
        error: Why there is no answer; None where there is one.
        operating_point: Name of the threshold.
        threshold: Abnormal lies strictly above it.
        checkpoint: As `StudyPrediction` names it.
    """

    study: str
    body_part: str | None = None
    probability: float | None = None
    band: str | None = None
    label: str | None = None
    in_distribution: bool | None = None
    n_views: int = 0
    left_out: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    error: str | None = None
    operating_point: str | None = None
    threshold: float | None = None
    checkpoint: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "left_out": list(self.left_out), "warnings": list(self.warnings)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "WorklistRow":
        """A row as `to_dict` gave it."""
        return cls(**{**values, "left_out": tuple(values["left_out"]), "warnings": tuple(values["warnings"])})


def read_from_disk(file: StudyFile) -> Radiograph:
    """Reads a view in this process.

    Raises:
        RadiographError: As `read_radiograph`.
    """
    return read_radiograph(file.content(), name=file.name)


def predict_rows(
    predictor: StudyPredictor,
    studies: Iterable[StudyFiles],
    *,
    operating_point: str | None = None,
    read: Read = read_from_disk,
) -> Iterator[WorklistRow]:
    """A row for each study as it is read, in the order given; of a study that cannot be answered, why.

    The views of the next study are read while the model looks at the one before.

    Args:
        predictor: Answers.
        studies: Of `find_studies`.
        operating_point: As for a call of the predictor.
        read: Reads a view; away from this process where files come from strangers.

    Raises:
        ValueError: If the checkpoint has no such operating point.
    """
    predictor.find_threshold(operating_point)
    coming = iter(studies)

    def views_of(study: StudyFiles) -> tuple[StudyFiles, list[str], list[Radiograph], list[str]]:
        return study, *_read_views(study, read)

    with ThreadPoolExecutor(1, thread_name_prefix="worklist") as ahead:
        first = next(coming, None)
        waiting = None if first is None else ahead.submit(views_of, first)
        while waiting is not None:
            study, names, radiographs, left_out = waiting.result()
            following = next(coming, None)
            waiting = None if following is None else ahead.submit(views_of, following)
            yield _predict_row(predictor, study, names, radiographs, left_out, operating_point)


def sort_rows(rows: Iterable[WorklistRow]) -> list[WorklistRow]:
    """Most likely abnormal first; then studies unlike those of training, whose answers may mean nothing; then those
    without an answer. By name where equal.
    """

    def place(row: WorklistRow) -> tuple[int, float, str]:
        if row.probability is None:
            return 2, 0.0, row.study
        return int(row.in_distribution is False), -row.probability, row.study

    return sorted(rows, key=place)


def worklist_csv(rows: Sequence[WorklistRow]) -> str:
    """Rows as a CSV file with a header.

    Several sentences in a cell are divided by " | "; cells that a spreadsheet would take for a formula begin with an
    apostrophe.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(WorklistRow)])
    writer.writerows([_cell(value) for value in row.to_dict().values()] for row in rows)
    return text.getvalue()


def worklist_json(rows: Sequence[WorklistRow]) -> str:
    """Rows as a JSON list."""
    return json.dumps([row.to_dict() for row in rows], indent=1, allow_nan=False) + "\n"


def _read_views(study: StudyFiles, read: Read) -> tuple[list[str], list[Radiograph], list[str]]:
    names, radiographs, left_out = [], [], []
    for file in study.files:
        try:
            radiographs.append(read(file))
            names.append(file.name)
        except MuraError as error:
            left_out.append(str(error))
    return names, radiographs, left_out


def _predict_row(
    predictor: StudyPredictor,
    study: StudyFiles,
    names: list[str],
    radiographs: list[Radiograph],
    left_out: list[str],
    operating_point: str | None,
) -> WorklistRow:
    told: dict[str, Any] = {
        "study": study.name,
        "n_views": len(radiographs),
        "left_out": tuple(left_out),
        "checkpoint": predictor.checkpoint,
    }
    if not radiographs:
        return WorklistRow(body_part=study.body_part, error="No view could be read.", **told)
    try:
        answer = predictor(
            radiographs,
            names=names,
            body_part=study.body_part,
            operating_point=operating_point,
            heatmaps=False,
        )
    except (MuraError, ValueError) as error:  # the latter: a part that the checkpoint needs, or has no model of
        return WorklistRow(body_part=study.body_part, error=str(error), **told)
    return WorklistRow(
        body_part=answer.body_part,
        probability=answer.probability,
        band=answer.band,
        label=answer.label,
        in_distribution=answer.in_distribution,
        warnings=tuple(answer.warnings),
        operating_point=answer.operating_point,
        threshold=answer.threshold,
        **told,
    )


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6f}"
    text = " | ".join(value) if isinstance(value, list) else str(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def write_worklist(rows: Sequence[WorklistRow], file: Path) -> None:
    """Writes a worklist whole or not at all, as JSON where the file ends so, else as CSV."""
    text = worklist_json(rows) if file.suffix.lower() == ".json" else worklist_csv(rows)
    replace_file(file, text.encode(errors="backslashreplace"))
