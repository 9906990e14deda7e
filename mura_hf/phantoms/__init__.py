"""Synthetic radiographs that carry the truth about every finding."""

from .contact_sheet import make_contact_sheet
from .findings import FINDINGS
from .mura_tree import RENDERERS, phantom_record, write_phantom_mura
from .phantom import BODY_PARTS, Phantom
from .rendering import render_phantom
from .solids import SOLID_FINDINGS, render_solid_phantom

__all__ = [
    "BODY_PARTS",
    "FINDINGS",
    "RENDERERS",
    "SOLID_FINDINGS",
    "Phantom",
    "make_contact_sheet",
    "phantom_record",
    "render_phantom",
    "render_solid_phantom",
    "write_phantom_mura",
]
