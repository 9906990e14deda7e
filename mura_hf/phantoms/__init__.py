"""Synthetic radiographs that carry the truth about every finding: bones as bodies in space, rays run through them."""

from .dicom_files import TRANSFER_SYNTAXES, encode_dicom
from .findings import FINDINGS, MIX, UNUSUAL_FINDINGS
from .mura_tree import phantom_record, write_phantom_mura
from .rendering import BODY_PARTS, EXPOSURES, Phantom, locate_finding, render_phantom
from .unrelated_radiographs import FOREIGN_KINDS, render_foreign

__all__ = [
    "BODY_PARTS",
    "EXPOSURES",
    "FINDINGS",
    "FOREIGN_KINDS",
    "MIX",
    "TRANSFER_SYNTAXES",
    "UNUSUAL_FINDINGS",
    "Phantom",
    "encode_dicom",
    "locate_finding",
    "phantom_record",
    "render_foreign",
    "render_phantom",
    "write_phantom_mura",
]
