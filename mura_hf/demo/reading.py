"""From uploaded files to what the page shows."""

from collections.abc import Sequence
from pathlib import Path

from ..errors import RadiographError
from ..inference import StudyPrediction, StudyPredictor
from ..radiographs import GuardedReader, Radiograph

MAX_VIEWS = 12


def read_files(reader: GuardedReader, files: Sequence[str]) -> tuple[list[str], list[Radiograph], list[str]]:
    """Reads what can be read.

    Args:
        reader: Decodes them, away from this process.
        files: Paths of the views of one study.

    Returns:
        Names and radiographs of the good files, and a sentence about each bad one.
    """
    names, radiographs, problems = [], [], []
    for file in files[:MAX_VIEWS]:
        if not Path(file).is_file():
            problems.append(
                f"{Path(file).name} was uploaded too long ago and is gone from the server; upload it again."
            )
            continue
        try:
            radiographs.append(reader.read(file))
            names.append(Path(file).name)
        except RadiographError as error:
            problems.append(str(error))
    if len(files) > MAX_VIEWS:
        problems.append(f"A study may have {MAX_VIEWS} views here; {len(files) - MAX_VIEWS} more were not read.")
    return names, radiographs, problems


def read_study(
    predictor: StudyPredictor, reader: GuardedReader, files: Sequence[str], body_part: str | None
) -> tuple[StudyPrediction | None, list[Radiograph], list[str]]:
    """Reads the files of one study and answers for the good views."""
    names, radiographs, problems = read_files(reader, files)
    if not radiographs:
        return None, [], problems
    return predictor(radiographs, body_part=body_part, names=names), radiographs, problems
