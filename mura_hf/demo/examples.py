"""Example studies: pictures of phantoms in `resources/examples`, made by `scripts/make_examples.py`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

EXAMPLES_FOLDER = Path(__file__).parents[1] / "resources" / "examples"

EXAMPLES_CHECKPOINT = "mura-phantom"
"""Reads the examples unless the visitor chooses a checkpoint: `mura-film` has never seen phantoms."""


@dataclass(frozen=True)
class ExampleStudy:
    """A synthetic study with the paths of its views. The label is "normal" or "abnormal"."""

    body_part: str
    label: str
    finding: str | None
    files: tuple[str, ...]

    @property
    def caption(self) -> str:
        """Body part, label and finding in words."""
        finding = f" ({self.finding.replace('_', ' ')})" if self.finding else ""
        return f"{self.body_part}, {self.label}{finding}"


def load_examples(name: str, folder: Path = EXAMPLES_FOLDER) -> list[ExampleStudy]:
    """Lists the examples of one set.

    Args:
        name: "study" for those of the first tab, "worklist" for those of the worklist.
        folder: Folder with the pictures and `examples.json`.
    """
    return [
        ExampleStudy(
            one["body_part"], one["label"], one["finding"], tuple(str(folder / file) for file in one["files"])
        )
        for one in json.loads((folder / "examples.json").read_text())
        if one["set"] == name
    ]


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
    examples = [*load_examples("study"), *load_examples("worklist")]
    return {tuple(Path(file).name for file in example.files): example for example in examples}
