"""From uploaded files to what the page shows."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path

from ..errors import DatasetError, RadiographError
from ..inference import StudyFile, StudyPrediction, StudyPredictor, find_studies
from ..radiographs import GuardedReader, Radiograph
from .uploads import check_zip, is_zip

MAX_VIEWS = 16
"""Of one study, all of which go through the model at once; MURA has 13 at most."""

Progress = Callable[[int, int, str], None]

_AT_ONCE = 2  # decoders of a guarded reader


def read_files(
    reader: GuardedReader, files: Sequence[str], *, progress: Progress | None = None
) -> tuple[list[str], list[Radiograph], list[str]]:
    """Reads what can be read, two files at a time; a ZIP file of one study is taken apart.

    Args:
        reader: Decodes them, away from this process.
        files: Paths of the views of one study, or of ZIP files.
        progress: Told how many files are read, of how many, and which one was read last; called by this thread.

    Returns:
        Names and radiographs of the good files, in the order given, and a sentence about each bad one.
    """
    views, problems = _find_views(files)
    if len(views) > MAX_VIEWS:
        more = ", ".join(view.name for view in views[MAX_VIEWS:])
        problems.append(f"A study may have {MAX_VIEWS} views here; not read: {more}.")
        del views[MAX_VIEWS:]
    if progress is not None and views:
        progress(0, len(views), views[0].name)
    names, radiographs, bad = [], [], []
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="views") as pool:
        reading: dict[Future[Radiograph], StudyFile] = {pool.submit(read_view, reader, view): view for view in views}
        for done, future in enumerate(as_completed(reading), 1):
            if progress is not None:
                progress(done, len(views), reading[future].name)
        for future, view in reading.items():
            try:
                radiographs.append(future.result())
                names.append(view.name)
            except RadiographError as error:
                bad.append(str(error))
    return names, radiographs, [*bad, *problems]


def read_view(reader: GuardedReader, view: StudyFile) -> Radiograph:
    """Reads one view of a study, away from this process.

    Raises:
        RadiographError: If it cannot be read; the message says why.
    """
    content = view.content()
    if isinstance(content, Path) and not content.is_file():
        raise RadiographError(f"{view.name} was uploaded too long ago and is gone from the server; upload it again.")
    return reader.read(content, name=view.name)


def read_study(
    predictor: StudyPredictor,
    reader: GuardedReader,
    files: Sequence[str],
    body_part: str | None,
    *,
    operating_point: str | None = None,
    method: str | None = None,
    heatmaps: bool = True,
    progress: Progress | None = None,
) -> tuple[StudyPrediction | None, list[Radiograph], list[str]]:
    """Reads the files of one study and answers for the good views.

    Args:
        predictor: Answers.
        reader: As in `read_files`.
        files: As in `read_files`.
        body_part: As for a call of the predictor, like the three that follow.
        operating_point: Likewise.
        method: Likewise.
        heatmaps: Likewise.
        progress: As in `read_files`.

    Returns:
        The answer, None where no file could be read; the radiographs; and a sentence about each bad file.

    Raises:
        CheckpointError: As a call of the predictor.
        ValueError: Likewise.
    """
    names, radiographs, problems = read_files(reader, files, progress=progress)
    if not radiographs:
        return None, [], problems
    study = predictor(
        radiographs,
        body_part=body_part,
        names=names,
        operating_point=operating_point,
        method=method,
        heatmaps=heatmaps,
    )
    return study, radiographs, problems


def _find_views(files: Sequence[str]) -> tuple[list[StudyFile], list[str]]:
    """Views, those inside ZIP files among them, and a sentence about each ZIP file that is not one study."""
    views, problems = [], []
    for file in map(Path, files):
        if not is_zip(file):
            views.append(StudyFile(file.name, file))
            continue
        try:
            check_zip(file)
            studies = find_studies(file)
        except DatasetError as error:
            problems.append(f"{str(error).replace(str(file), file.name).rstrip('.')}.")
            continue
        if len(studies) == 1:
            views.extend(studies[0].files)
        else:
            problems.append(
                f"{file.name} holds {len(studies)} studies, and one is read here; open it in the worklist, or drop "
                "the views of one study."
            )
    return views, problems
