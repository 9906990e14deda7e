"""Example studies of the demo: phantoms, rendered when the app starts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..phantoms import render_phantom

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


def make_examples(folder: Path) -> list[ExampleStudy]:
    """Writes the example studies as PNG files into a folder."""
    examples = []
    for number, (part, finding, views, seed) in enumerate(_STUDIES, 1):
        files = []
        for view in range(views):
            file = folder / f"example{number}_{part}_{view + 1}.png"
            phantom = render_phantom(seed, body_part=part, view=view, finding=finding)
            Image.fromarray(phantom.pixels).save(file)
            files.append(str(file))
        truth = f"abnormal ({finding.replace('_', ' ')})" if finding else "normal"
        examples.append(ExampleStudy(f"{part}, {truth}", files))
    return examples
