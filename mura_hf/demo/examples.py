"""Example studies: films and pictures of phantoms in `resources/examples`, made by `scripts/make_examples.py`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..inference.prediction import REGION_WORDS
from . import templates

EXAMPLES_FOLDER = Path(__file__).parents[1] / "resources" / "examples"

EXAMPLES_CHECKPOINT = "mura-phantom"
"""Reads the phantoms unless the visitor chooses a checkpoint: `mura-film` has never seen phantoms."""


@dataclass(frozen=True)
class ExampleStudy:
    """A study with the paths of its views, and what is known about it.

    Attributes:
        body_part: One of the seven body parts; for a film, its region in the words of the dataset.
        label: "normal" or "abnormal".
        finding: What an abnormal study shows, such as "subtle_fracture".
        files: Paths of its views.
        source: Name of the dataset of a real film; None for a phantom.
        credit: Whom to credit for a real film.
        thumbnail: Its first view, small, as a data URL; empty for studies of the worklist.
    """

    body_part: str
    label: str
    finding: str | None
    files: tuple[str, ...]
    source: str | None = None
    credit: str | None = None
    thumbnail: str = ""

    @property
    def caption(self) -> str:
        """Body part and finding in words."""
        if self.source is None:
            part, nothing = self.body_part, templates.NO_FINDING
        else:
            part, nothing = REGION_WORDS.get(self.body_part, self.body_part), templates.NO_FRACTURE
        finding = (self.finding or nothing).replace("_", " ")
        return templates.EXAMPLE.format(subject=part.capitalize(), finding=finding)


def load_examples(name: str, folder: Path = EXAMPLES_FOLDER) -> list[ExampleStudy]:
    """Lists the examples of one set.

    Args:
        name: "film" for real films, "study" for phantoms to read, "worklist" for those of the worklist.
        folder: Folder with the pictures and `examples.json`.
    """
    return [
        ExampleStudy(
            one["body_part"], one["label"], one["finding"], tuple(str(folder / file) for file in one["files"]),
            one.get("source"), one.get("credit"), one.get("thumbnail", ""),
        )
        for one in json.loads((folder / "examples.json").read_text())
        if one["set"] == name
    ]  # fmt: skip


def choose_examples(folder: Path = EXAMPLES_FOLDER) -> list[ExampleStudy]:
    """Lists the examples of the first tab: films, then phantoms of the body parts that no film is called by."""
    films, phantoms = load_examples("film", folder), load_examples("study", folder)
    shown = {film.body_part for film in films}
    return [*films, *(phantom for phantom in phantoms if phantom.body_part not in shown)]


def find_example(files: Sequence[str]) -> ExampleStudy | None:
    """Finds the example whose views have the names and contents of these files; None if there is none."""
    example = _examples_by_names().get(tuple(Path(file).name for file in files))
    if example is None:
        return None
    pairs = zip(map(Path, files), map(Path, example.files), strict=True)
    same = all(file.is_file() and file.read_bytes() == known.read_bytes() for file, known in pairs)
    return example if same else None


@cache
def _examples_by_names() -> dict[tuple[str, ...], ExampleStudy]:
    examples = [example for name in ("film", "study", "worklist") for example in load_examples(name)]
    return {tuple(Path(file).name for file in example.files): example for example in examples}
