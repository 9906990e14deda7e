"""Synthetic radiographs with the truth about every finding: rays through solid bones and flesh.

`render_phantom` draws one radiograph, `write_phantom_mura` a dataset in the layout of MURA.
"""
# ruff: noqa: E402 - the extra is checked before the imports

from ..common import BODY_PARTS, require_extra

require_extra("phantoms", "numba", "scipy")

from .findings import FINDINGS, MIX, UNUSUAL_FINDINGS
from .mura_tree import phantom_record, write_phantom_mura
from .rendering import EXPOSURES, Phantom, locate_finding, render_phantom

__all__ = [
    "BODY_PARTS",
    "EXPOSURES",
    "FINDINGS",
    "MIX",
    "UNUSUAL_FINDINGS",
    "Phantom",
    "locate_finding",
    "phantom_record",
    "render_phantom",
    "write_phantom_mura",
]
