"""Example studies of the demo: phantoms, rendered when the app starts."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

EXAMPLES_CHECKPOINT = "mura-phantom"
"""Reads the examples, unless another one was chosen: films and phantoms are different worlds."""

# Part, finding, number of views, seed. The seeds are of no tree that a bundled checkpoint was trained on.
_STUDIES = (
    ("wrist", "displaced_fracture", 3, 910_001),
    ("hand", None, 2, 910_002),
    ("forearm", "hardware", 2, 910_003),
    ("elbow", None, 2, 910_004),
    ("finger", "displaced_fracture", 2, 910_005),
    ("shoulder", None, 2, 910_006),
    ("humerus", "lytic_lesion", 2, 910_007),
    ("wrist", None, 3, 910_008),
    ("hand", "subtle_fracture", 3, 910_009),
)


@dataclass(frozen=True)
class ExampleStudy:
    """A synthetic study.

    Attributes:
        caption: What it is.
        files: Its views.
    """

    caption: str
    files: list[str]


def find_example(files: Sequence[str], examples: Sequence[ExampleStudy]) -> ExampleStudy | None:
    """The example whose files these are; None where they are no example's."""
    return next((example for example in examples if list(files) == example.files), None)


def render_examples() -> dict[str, bytes]:
    """PNG files of the example studies' views, by name."""
    return {
        _name(number, part, view): render_png(seed, part, view, finding)
        for number, (part, finding, views, seed) in enumerate(_STUDIES, 1)
        for view in range(views)
    }


def render_png(seed: int, body_part: str, view: int, finding: str | None) -> bytes:
    """A PNG file of a phantom, as `render_phantom` renders it."""
    from ..phantoms import render_phantom

    buffer = io.BytesIO()
    Image.fromarray(render_phantom(seed, body_part=body_part, view=view, finding=finding).pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_examples(folder: Path, pictures: Mapping[str, bytes]) -> list[ExampleStudy]:
    """Writes the example studies into a folder.

    Args:
        folder: Of their own.
        pictures: As `render_examples` makes them.
    """
    for name, content in pictures.items():
        (folder / name).write_bytes(content)
    examples = []
    for number, (part, finding, views, _) in enumerate(_STUDIES, 1):
        truth = f"abnormal ({finding.replace('_', ' ')})" if finding else "normal"
        files = [str(folder / _name(number, part, view)) for view in range(views)]
        examples.append(ExampleStudy(f"{part}, {truth}", files))
    return examples


def _name(number: int, part: str, view: int) -> str:
    return f"example{number}_{part}_{view + 1}.png"
