"""The checkpoints that come with the package."""

from pathlib import Path

_RESOURCES = Path(__file__).parent / "resources"

BUNDLED = {"mura-film": _RESOURCES / "film", "mura-phantom": _RESOURCES / "phantom"}
"""Name, as on its card -> folder. The name loads it wherever a checkpoint is named; a folder that is called so can be
given as "./name".
"""

DEFAULT = "mura-film"
"""The one that is meant where none is named."""
