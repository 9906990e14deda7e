"""Synthetic radiographs that carry the truth about every finding: bones as bodies in space, rays run through them."""

from .dicom_files import TRANSFER_SYNTAXES, encode_dicom
from .findings import FINDINGS, MIX, UNUSUAL_FINDINGS
from .mura_tree import phantom_record, write_phantom_mura
from .rendering import BODY_PARTS, EXPOSURES, Phantom, locate_finding, render_phantom
from .unrelated_radiographs import UNRELATED_KINDS, render_unrelated

__all__ = [
    "BODY_PARTS",
    "EXPOSURES",
    "FINDINGS",
    "MIX",
    "TRANSFER_SYNTAXES",
    "UNRELATED_KINDS",
    "UNUSUAL_FINDINGS",
    "Phantom",
    "encode_dicom",
    "locate_finding",
    "phantom_record",
    "render_phantom",
    "render_unrelated",
    "write_phantom_mura",
]
