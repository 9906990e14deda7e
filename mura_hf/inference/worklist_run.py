"""A worklist that is written as it grows, goes on after a kill, and may be made by several processes."""

import glob
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from tqdm.auto import tqdm

from ..errors import DatasetError
from ..files import replace_file
from .predictor import StudyPredictor
from .study_files import StudyFiles
from .worklist import WorklistRow, predict_rows, sort_rows, write_worklist


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
