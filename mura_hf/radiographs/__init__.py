"""One file into one `Radiograph`."""

from .checks import MAX_PIXELS, MIN_SIDE, check_radiograph
from .guarded import GuardedReader
from .radiograph import Radiograph
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
