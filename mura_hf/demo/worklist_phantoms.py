"""Twelve phantom studies to try the worklist with, rendered when somebody asks for them."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from ..inference import StudyFiles, find_studies
from .examples import render_png

# Part, finding, number of views. Patients of no tree that a bundled checkpoint was trained on.
_STUDIES = (
    ("elbow", "displaced_fracture", 2),
    ("elbow", None, 2),
    ("finger", "subtle_fracture", 3),
    ("finger", None, 2),
    ("forearm", "hardware", 2),
    ("forearm", None, 2),
    ("hand", "degeneration", 3),
    ("hand", None, 3),
    ("humerus", "lytic_lesion", 2),
    ("shoulder", None, 3),
    ("wrist", "displaced_fracture", 3),
    ("wrist", None, 3),
)
_FIRST_SEED = 920_001
_PLACES = {
    f"phantom{number + 1}_{part}_{view + 1}.png": (number, view)
    for number, (part, _, views) in enumerate(_STUDIES)
    for view in range(views)
}


def write_phantoms(folder: Path) -> list[StudyFiles]:
    """Writes the studies, each into a folder of its own.

    Args:
        folder: An empty one.

    Returns:
        They, as `find_studies` finds them.
    """
    for name, (number, view) in _PLACES.items():
        study = folder / f"phantom {number + 1}"
        study.mkdir(exist_ok=True)
        (study / name).write_bytes(_render(number, view))
    return find_studies(folder)


def are_worklist_phantoms(files: Sequence[str]) -> bool:
    """Whether all files are views of these studies, known by name and content."""
    return bool(files) and all(map(_is_ours, map(Path, files)))


def _is_ours(file: Path) -> bool:
    place = _PLACES.get(file.name)
    return place is not None and file.is_file() and file.read_bytes() == _render(*place)


@cache  # all of them together take a few MB
def _render(number: int, view: int) -> bytes:
    part, finding, _ = _STUDIES[number]
    return render_png(_FIRST_SEED + number, part, view, finding)
