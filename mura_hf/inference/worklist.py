"""Many studies, one row each, most likely abnormal first.

A worklist that is written as it grows, goes on after a kill, and may be made by several processes.
"""

import csv
import glob
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from accelerate import PartialState
from tqdm.auto import tqdm

from ..common import replace_file
from ..errors import DatasetError, MuraError
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


def make_worklist(
    predictor: StudyPredictor,
    studies: Sequence[StudyFiles],
    output: str | os.PathLike[str],
    *,
    operating_point: str | None = None,
    progress: bool = True,
) -> list[WorklistRow]:
    """Answers studies and writes their worklist; started again after whatever ended it, it goes on where it stood.

    Rows are kept as they come in `OUTPUT.part-0`, one a process; the worklist is written once all are there, and these
    files go. Where Accelerate's launcher started several processes, each takes its share, and the main one writes.

    Args:
        predictor: Answers; of the same checkpoint as before where a run goes on.
        studies: Of `find_studies`; the same in every process.
        output: A new file, ending in .csv or .json.
        operating_point: As for a call of the predictor.
        progress: Whether to show a progress bar; of the main process's share.

    Returns:
        All rows, most likely abnormal first; those of its share, in another process than the main one.

    Raises:
        DatasetError: If the output exists, ends otherwise, cannot be written, or rows of another run wait there.
        ValueError: If the checkpoint has no such operating point.
    """
    output, state = Path(output), PartialState()
    if output.suffix.lower() not in (".csv", ".json"):
        raise DatasetError(f"{output.name}: a worklist is a .csv or a .json file; name it so")
    if output.exists():
        raise DatasetError(f"{output} exists; name another file, or remove it")
    identity = _identity(predictor, studies, predictor.find_threshold(operating_point)[0])
    done: dict[str, WorklistRow] = {}
    for file in _parts(output):
        done |= _read_part(file, identity)
    own = studies[state.process_index :: state.num_processes]
    rows = {study.name: done[study.name] for study in own if study.name in done}
    left = [study for study in own if study.name not in done]
    part = _part(output, state.process_index)
    try:
        _mend(part, identity)
        with part.open("a", encoding="utf-8") as lines, tqdm(
            total=len(own), initial=len(rows), desc="Reading studies", unit="study",
            disable=not (progress and state.is_main_process),
        ) as bar:  # fmt: skip
            for row in predict_rows(predictor, left, operating_point=operating_point):
                lines.write(json.dumps(row.to_dict()) + "\n")
                lines.flush()
                rows[row.study] = row
                bar.update()
            os.fsync(lines.fileno())
        state.wait_for_everyone()
        if not state.is_main_process:
            return sort_rows(rows.values())
        for file in _parts(output):
            done |= _read_part(file, identity)
        ordered = sort_rows(done[study.name] for study in studies)
        write_worklist(ordered, output)
    except OSError as error:
        raise DatasetError(
            f"{output} cannot be written ({error.strerror or error}); make room there and start again: rows that were "
            "read are kept"
        ) from error
    for file in _parts(output):
        file.unlink()
    return ordered


def _identity(predictor: StudyPredictor, studies: Sequence[StudyFiles], operating_point: str) -> dict[str, Any]:
    """What must be the same for a run to go on."""
    digest = hashlib.sha256()
    for study in studies:
        files = [(str(file.path), file.member, _stamp(file.path)) for file in study.files]
        digest.update(json.dumps([study.name, study.body_part, files]).encode())
    return {
        "checkpoint": predictor.checkpoint,
        "weights": predictor.weights_sha256,
        "operating_point": operating_point,
        "studies": digest.hexdigest(),
    }


def _stamp(path: Path) -> list[int] | None:
    try:
        known = path.stat()
    except OSError:
        return None
    return [known.st_size, known.st_mtime_ns]


def _part(output: Path, number: int) -> Path:
    return output.with_name(f"{output.name}.part-{number}")


def _parts(output: Path) -> list[Path]:
    found = output.parent.glob(f"{glob.escape(output.name)}.part-*")
    return sorted(file for file in found if file.name.rpartition("-")[2].isdecimal())


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    """What stands in a file, up to a line that a kill cut off."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return
    for line in text.splitlines(keepends=True):
        if not line.endswith("\n"):
            return
        try:
            yield json.loads(line)
        except ValueError:
            return


def _read_part(file: Path, identity: dict[str, Any]) -> dict[str, WorklistRow]:
    """Rows that stand in a file.

    Raises:
        DatasetError: If they are of another run.
    """
    lines = _lines(file)
    known = next(lines, None)
    if known is None:
        return {}
    if known != identity:
        others = [name for name in identity if known.get(name) != identity[name]]
        raise DatasetError(
            f"{file} holds rows of another run ({', '.join(others).replace('_', ' ')} differ); remove it, or name "
            "another output"
        )
    return {row["study"]: WorklistRow.from_dict(row) for row in lines}


def _mend(file: Path, identity: dict[str, Any]) -> None:
    """Leaves whole lines only, so that what is added starts a line; begins the file where it is new."""
    kept = list(_lines(file)) or [identity]
    replace_file(file, "".join(json.dumps(line) + "\n" for line in kept).encode())
