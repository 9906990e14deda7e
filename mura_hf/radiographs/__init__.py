"""Reading of radiographs: PNG, JPEG and DICOM files, in this process or in a guarded one."""

from .guarded import GuardedReader
from .radiograph import MAX_PIXELS, MIN_SIDE, Radiograph, check_radiograph
from .reading import MAX_BYTES, read_levels, read_radiograph

__all__ = [
    "MAX_BYTES",
    "MAX_PIXELS",
    "MIN_SIDE",
    "GuardedReader",
    "Radiograph",
    "check_radiograph",
    "read_levels",
    "read_radiograph",
]
