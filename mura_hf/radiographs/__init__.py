"""Reading of radiographs: pictures and DICOM files, in this process or in a guarded one."""

from .guarded import GuardedReader
from .radiograph import MAX_PIXELS, MIN_SIDE, Radiograph, check_radiograph
from .reading import (
    HEAD_BYTES,
    MAX_BYTES,
    READABLE_FORMATS,
    detect_format,
    find_kind,
    is_hidden,
    read_levels,
    read_radiograph,
)

__all__ = [
    "HEAD_BYTES",
    "MAX_BYTES",
    "MAX_PIXELS",
    "MIN_SIDE",
    "READABLE_FORMATS",
    "GuardedReader",
    "Radiograph",
    "check_radiograph",
    "detect_format",
    "find_kind",
    "is_hidden",
    "read_levels",
    "read_radiograph",
]
