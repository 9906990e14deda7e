"""Worklists: predictions for many studies, most likely abnormal first, written by resumable runs.

A run may be split over several processes (torchrun); a killed run continues where it stopped.
"""

import glob
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from torch import distributed
from tqdm.auto import tqdm

from ..common import csv_text, replace_file
from ..errors import DatasetError, MuraError
from ..radiographs import Radiograph, read_radiograph
from .prediction import FORMER_BANDS
from .predictor import StudyPredictor
from .study_files import StudyFile, StudyFiles

Read = Callable[[StudyFile, StudyFiles], Radiograph]
"""Reads a view of a study."""


@dataclass(frozen=True)
class WorklistRow:
    """One study; its fields are the columns of a worklist."""

    study: str  # name of the study
    body_part: str | None = None  # given or predicted body part, or None
    probability: float | None = None  # P(abnormal) in [0, 1]; None without a prediction
    band: str | None = None  # "low", "uncertain", "suspected" or "out_of_distribution", as in `StudyPrediction`
    label: str | None = None  # "normal" or "abnormal" at the operating point
    # Whether the study is like those of training; if not, the prediction may be meaningless
    in_distribution: bool | None = None
    n_views: int = 0  # number of views that were read
    left_out: tuple[str, ...] = ()  # sentences about views that could not be read
    warnings: tuple[str, ...] = ()  # sentences to show with the prediction
    error: str | None = None  # why there is no prediction, or None
    operating_point: str | None = None  # name of the operating point
    threshold: float | None = None  # its threshold; studies strictly above it are abnormal
    checkpoint: str | None = None  # name of the checkpoint, as in `StudyPrediction`
    region: str | None = None  # predicted region of the body in plain words; None if its probability is below .8

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON values."""
        return {**asdict(self), "left_out": list(self.left_out), "warnings": list(self.warnings)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "WorklistRow":
        """Returns the row of `to_dict`, also of an earlier version, which named the bands in another way."""
        texts = {name: tuple(values[name]) for name in ("left_out", "warnings")}
        return cls(**{**values, **texts, "band": FORMER_BANDS.get(values["band"], values["band"])})


def read_from_disk(file: StudyFile, study: StudyFiles) -> Radiograph:
    """Reads a view in this process, see `read_radiograph`."""
    return read_radiograph(file.content(), name=file.name)


def predict_rows(
    predictor: StudyPredictor,
    studies: Iterable[StudyFiles],
    *,
    operating_point: str | None = None,
    read: Read = read_from_disk,
) -> Iterator[WorklistRow]:
    """Yields a row for each study, in the order given; without a prediction, the row has an error.

    The views of the next study are read while the model runs.

    Args:
        predictor: The predictor.
        studies: Result of `find_studies`.
        operating_point: Operating point, as in a call of the predictor.
        read: Function that reads a view, given its file and its study; in a sandbox for untrusted files.

    Raises:
        ValueError: If the checkpoint has no such operating point.
    """
    predictor.find_threshold(operating_point)

    def read_views(study: StudyFiles) -> tuple[list[str], list[Radiograph], list[str]]:
        names, radiographs, left_out = [], [], []
        for file in study.files:
            try:
                radiographs.append(read(file, study))
                names.append(file.name)
            except MuraError as error:
                left_out.append(str(error))
        return names, radiographs, left_out

    with ThreadPoolExecutor(1, thread_name_prefix="worklist") as ahead:
        waiting = ((study, ahead.submit(read_views, study)) for study in studies)
        upcoming = next(waiting, None)
        while upcoming is not None:
            study, reading = upcoming
            views = reading.result()
            upcoming = next(waiting, None)
            yield _predict_row(predictor, study, *views, operating_point)


def _predict_row(
    predictor: StudyPredictor,
    study: StudyFiles,
    names: list[str],
    radiographs: list[Radiograph],
    left_out: list[str],
    operating_point: str | None,
) -> WorklistRow:
    row = WorklistRow(
        study.name,
        study.body_part,
        n_views=len(radiographs),
        left_out=tuple(left_out),
        checkpoint=predictor.checkpoint,
    )
    if not radiographs:
        return replace(row, error="No view could be read." if study.files else "The folder contains no picture.")
    try:
        prediction = predictor(
            radiographs, names=names, body_part=study.body_part, operating_point=operating_point, heatmaps=False
        )
    except (MuraError, ValueError) as error:  # ValueError: the checkpoint has no model for the body part
        return replace(row, error=str(error))
    copied = ("body_part", "probability", "band", "label", "in_distribution", "operating_point", "threshold")
    values = {name: getattr(prediction, name) for name in copied}
    return replace(row, warnings=tuple(prediction.warnings), region=prediction.region_words, **values)


def sort_rows(rows: Iterable[WorklistRow]) -> list[WorklistRow]:
    """Sorts rows: most likely abnormal first.

    Studies out of distribution, and then those without a prediction, come before those whose band is "low": somebody
    must look at them. Equal rows are sorted by name.
    """

    def place(row: WorklistRow) -> tuple[int, float, str]:
        if row.probability is None:
            return 2, 0.0, row.study
        group = 0
        if row.in_distribution is False:
            group = 1
        elif row.band == "low":
            group = 3
        return group, -row.probability, row.study

    return sorted(rows, key=place)


def worklist_csv(rows: Sequence[WorklistRow]) -> str:
    """Returns a CSV file with a header.

    Sentences in a cell are separated by " | ". All cells are quoted. An apostrophe stands before text that a
    spreadsheet would calculate as a formula.
    """
    header = [field.name for field in fields(WorklistRow)]
    return csv_text([header, *([_cell(value) for value in row.to_dict().values()] for row in rows)])


def worklist_json(rows: Sequence[WorklistRow]) -> str:
    """Returns a JSON list of rows."""
    return json.dumps([row.to_dict() for row in rows], indent=1, allow_nan=False) + "\n"


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.6f}"
    return " | ".join(value) if isinstance(value, list) else value


def write_worklist(rows: Sequence[WorklistRow], file: Path) -> None:
    """Writes a worklist atomically, as JSON if the file name ends in .json, else as CSV."""
    text = worklist_json(rows) if file.suffix.lower() == ".json" else worklist_csv(rows)
    replace_file(file, text.encode(errors="backslashreplace"))


def make_worklist(
    predictor: StudyPredictor,
    studies: Sequence[StudyFiles],
    output: str | os.PathLike[str],
    *,
    operating_point: str | None = None,
) -> list[WorklistRow]:
    """Classifies studies and writes their worklist. A run that was killed continues with the same call.

    Each process appends its rows to `OUTPUT.part-RANK`. When all rows exist, the worklist is written and these files
    are deleted. If `torch.distributed` is initialized, each process takes its share, and the main process writes.

    Args:
        predictor: The predictor; of the same checkpoint if a run continues.
        studies: Result of `find_studies`, the same in every process.
        output: A new file whose name ends in .csv or .json.
        operating_point: Operating point, as in a call of the predictor.

    Returns:
        All rows, most likely abnormal first; in other processes than the main one, only those of its share.

    Raises:
        DatasetError: If the output exists, has another extension, cannot be written, or there are rows of another run.
        ValueError: If the checkpoint has no such operating point.
    """
    output = Path(output)
    rank, n_processes = 0, 1
    if distributed.is_available() and distributed.is_initialized():
        rank, n_processes = distributed.get_rank(), distributed.get_world_size()
    if output.suffix.lower() not in (".csv", ".json"):
        raise DatasetError(f"{output.name}: a worklist is a .csv or a .json file; change the extension")
    if output.exists():
        raise DatasetError(f"{output} exists; name another file, or remove it")
    identity = _identity(predictor, studies, predictor.find_threshold(operating_point)[0])
    done: dict[str, WorklistRow] = {}
    for file in _parts(output):
        done |= _read_part(file, identity)
    own = studies[rank::n_processes]
    rows = {study.name: done[study.name] for study in own if study.name in done}
    left = [study for study in own if study.name not in done]
    part = output.with_name(f"{output.name}.part-{rank}")
    try:
        # Without an incomplete last line.
        kept = _lines(part) or [identity]
        replace_file(part, "".join(json.dumps(line) + "\n" for line in kept).encode())
        with part.open("a", encoding="utf-8") as lines, tqdm(
            total=len(own), initial=len(rows), desc="Reading studies", unit="study",
            disable=rank > 0,
        ) as bar:  # fmt: skip
            for row in predict_rows(predictor, left, operating_point=operating_point):
                lines.write(json.dumps(row.to_dict()) + "\n")
                lines.flush()
                rows[row.study] = row
                bar.update()
            os.fsync(lines.fileno())
        if n_processes > 1:
            distributed.barrier()
        if rank > 0:
            return sort_rows(rows.values())
        for file in _parts(output):
            done |= _read_part(file, identity)
        ordered = sort_rows(done[study.name] for study in studies)
        write_worklist(ordered, output)
    except OSError as error:
        raise DatasetError(
            f"{output} cannot be written ({error.strerror or error}); free some space and start again: finished "
            "rows are kept"
        ) from error
    for file in _parts(output):
        file.unlink()
    return ordered


def _identity(predictor: StudyPredictor, studies: Sequence[StudyFiles], operating_point: str) -> dict[str, Any]:
    """Everything that must be equal for a run to continue."""

    def stamp(path: Path) -> list[int] | None:
        try:
            known = path.stat()
        except OSError:
            return None
        return [known.st_size, known.st_mtime_ns]

    digest = hashlib.sha256()
    for study in studies:
        files = [(str(file.path), file.member, stamp(file.path)) for file in study.files]
        digest.update(json.dumps([study.name, study.body_part, files]).encode())
    return {
        "checkpoint": predictor.checkpoint,
        "weights": predictor.weights_sha256,
        "operating_point": operating_point,
        "studies": digest.hexdigest(),
    }


def _parts(output: Path) -> list[Path]:
    found = output.parent.glob(f"{glob.escape(output.name)}.part-*")
    return sorted(file for file in found if file.name.rpartition("-")[2].isdecimal())


def _lines(file: Path) -> list[dict[str, Any]]:
    """The complete lines of a file; a kill may have cut off the last one."""
    lines = []
    with suppress(OSError, ValueError):
        for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                lines.append(json.loads(line))
    return lines


def _read_part(file: Path, identity: dict[str, Any]) -> dict[str, WorklistRow]:
    """Rows of a file.

    Raises:
        DatasetError: If they belong to another run.
    """
    known, *rows = _lines(file) or [identity]
    if known != identity:
        others = [name for name in identity if known.get(name) != identity[name]]
        raise DatasetError(
            f"{file} holds rows of another run ({', '.join(others).replace('_', ' ')} differ); remove it, or name "
            "another output"
        )
    return {row["study"]: WorklistRow.from_dict(row) for row in rows}
