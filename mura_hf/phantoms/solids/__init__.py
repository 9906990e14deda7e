"""Phantoms made of solids: bones as bodies in space, rays that run through them."""

from .findings import FINDINGS as SOLID_FINDINGS
from .findings import MIX as SOLID_MIX
from .rendering import render_solid_phantom

__all__ = ["SOLID_FINDINGS", "SOLID_MIX", "render_solid_phantom"]
