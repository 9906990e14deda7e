"""Synthetic radiographs that carry the truth about every finding: bones as bodies in space, rays run through them."""

from .contact_sheet import make_contact_sheet
from .dicom_files import TRANSFER_SYNTAXES, encode_dicom
from .exposure import EXPOSURES
from .findings import FINDINGS, MIX, UNUSUAL_FINDINGS
from .foreign import FOREIGN_KINDS, render_foreign
from .mura_tree import phantom_record, write_phantom_mura
from .phantom import BODY_PARTS, Phantom
from .rendering import locate_finding, render_phantom

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
    "make_contact_sheet",
    "phantom_record",
    "render_foreign",
    "render_phantom",
    "write_phantom_mura",
]
