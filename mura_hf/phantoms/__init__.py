"""Synthetic radiographs that carry the truth about every finding."""

from .anatomy import BODY_PARTS
from .findings import FINDINGS
from .mura_tree import phantom_record, write_phantom_mura
from .rendering import Phantom, render_phantom

__all__ = ["BODY_PARTS", "FINDINGS", "Phantom", "phantom_record", "render_phantom", "write_phantom_mura"]
