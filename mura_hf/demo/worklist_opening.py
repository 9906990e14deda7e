"""A study of a worklist as files of its own, for the tab that shows one study."""

import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import RadiographError
from ..inference import StudyFile

_LENGTH = 100  # characters of a name
_UNSAFE = re.compile(r'[\x00-\x1f\x7f/\\<>:"|?*\ud800-\udfff]')


def write_views(files: Sequence[StudyFile], folder: Path) -> tuple[list[str], list[str]]:
    """Copies views into a folder.

    Args:
        files: Of one study.
        folder: An empty one.

    Returns:
        Paths of the copies, in order, and a sentence about each view that could not be had.
    """
    paths, problems = [], []
    taken: set[str] = set()
    for number, file in enumerate(files, 1):
        try:
            content = file.content()
            content = content.read_bytes() if isinstance(content, Path) else content
        except RadiographError as error:
            problems.append(str(error))
            continue
        except OSError:
            problems.append(f"{file.name} is no longer there, so it was left out.")
            continue
        name = safe_name(file.name)
        if name.casefold() in taken:
            name = f"{number}_{name}"
        taken.add(name.casefold())
        place = folder / name
        place.write_bytes(content)
        paths.append(str(place))
    return paths, problems


def safe_name(name: str) -> str:
    """A file name that any system takes, with the ending kept."""
    plain = _UNSAFE.sub("_", name).strip(". ") or "view"
    if len(plain) <= _LENGTH:
        return plain
    stem, dot, ending = plain.rpartition(".")
    return plain[:_LENGTH] if not dot or len(ending) > 8 else f"{stem[: _LENGTH - len(ending) - 1]}.{ending}"
