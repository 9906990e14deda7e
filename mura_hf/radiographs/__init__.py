"""One file into one `Radiograph`."""

from .radiograph import Radiograph
from .reading import MAX_PIXELS, MIN_SIDE, check_radiograph, read_radiograph

__all__ = ["MAX_PIXELS", "MIN_SIDE", "Radiograph", "check_radiograph", "read_radiograph"]
