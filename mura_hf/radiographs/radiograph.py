"""`Radiograph`: the pixels of one view, and nothing about the patient.

What every radiograph must be, wherever it came from.
What DICOM files call the parts of the body, mapped to MURA's seven.
Marks by which two files of one patient are known as such, and which tell nothing else.
"""

import hashlib
import re
import secrets
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image

from ..errors import RadiographError


@dataclass(frozen=True, eq=False)
class Radiograph:
    """One view, windowed for display.

    Attributes:
        pixels: float32 `[H, W]` in [0, 1], bone bright.
        bit_depth: Bits a pixel in the file: 8 or 16, or what a DICOM file calls Bits Stored, 1 to 16.
        source_format: "PNG", "JPEG", "DICOM", or "array" where it did not come from a file.
        body_part: One of the seven where the file says so, else None.
        warnings: Sentences about how it was read that belong beside any answer, for instance that the file held
            several pictures.
        side: "left" or "right" where the file says so, else None.
        patient_hash: Equal for two files that name the same patient, read by this process; tells nothing else, see
            `hash_patient`. None where the file names none.
    """

    pixels: np.ndarray
    bit_depth: int
    source_format: str
    body_part: str | None = None
    warnings: tuple[str, ...] = ()
    side: str | None = None
    patient_hash: str | None = None

    def to_uint8(self) -> np.ndarray:
        """The pixels as uint8 `[H, W]`; exactly those of the file where it has 8 bits and no window of its own."""
        levels = self.pixels * np.float32(255)
        return np.rint(levels, out=levels).astype(np.uint8)

    def to_image(self) -> Image.Image:
        """The pixels as a gray 8-bit PIL image, for instance for a plain transformers pipeline."""
        return Image.fromarray(self.to_uint8())


MAX_PIXELS = 40_000_000
"""Larger pictures are refused before they are decoded."""

MIN_SIDE = 16
"""Pixels on the short side; below, nothing can be seen."""

MAX_ASPECT = 12
"""Longer side over shorter; MURA's and hospitals' films stay far below."""


def check_size(name: str, width: int, height: int) -> None:
    """Refuses a picture by the size that its header gives.

    Raises:
        RadiographError: If it has more than `MAX_PIXELS` pixels.
    """
    if width * height > MAX_PIXELS:
        raise RadiographError(too_large(name, width, height))


def too_large(name: str, width: int | None = None, height: int | None = None) -> str:
    """The sentence about a picture of more than `MAX_PIXELS` pixels."""
    size = f" ({width} x {height})" if width else ""
    most = MAX_PIXELS // 1_000_000
    return f"{name} has more than {most} megapixels{size}, which no radiograph needs; export it smaller."


def check_radiograph(radiograph: Radiograph, name: str) -> Radiograph:
    """Gives a radiograph back if it can be one.

    Raises:
        RadiographError: If the pixels are not `[H, W]` in [0, 1], too few, much longer than wide, or all of one tone.
    """
    low, high = _check_shape_and_tones(radiograph.pixels, name)
    if not (low >= 0 and high <= 1):  # also catches NaN
        raise RadiographError(
            f"{name} has pixels from {low:g} to {high:g}; they must lie in [0, 1], so window them first."
        )
    return radiograph


def check_film(levels: np.ndarray, name: str) -> None:
    """As `check_radiograph`, of gray levels, uint8 `[H, W]`."""
    _check_shape_and_tones(levels, name)


def _check_shape_and_tones(pixels: np.ndarray, name: str) -> tuple[float, float]:
    """Refuses what no radiograph is; returns the least and the greatest value."""
    size = " x ".join(map(str, pixels.shape[::-1]))
    if pixels.ndim != 2 or min(pixels.shape) < MIN_SIDE:
        raise RadiographError(
            f"{name} has only {size} pixels; give the radiograph itself, at least {MIN_SIDE} a side."
        )
    if max(pixels.shape) > MAX_ASPECT * min(pixels.shape):
        raise RadiographError(
            f"{name} has {size} pixels, one side more than {MAX_ASPECT} times the other, as in no radiograph; "
            "check it."
        )
    low, high = float(pixels.min()), float(pixels.max())
    if low == high:
        raise RadiographError(
            f"{name} is one even tone from edge to edge, so there is nothing to read; check the export."
        )
    return low, high


# Words as they stand in Body Part Examined (0018,0015) and in the meaning of an anatomic region's code: the defined
# terms of PS3.16 annex L, and what hospitals write beside them. "ARM" alone may be the whole limb and says nothing.
_WORDS = {
    "elbow": "ELBOW ELBOWS OLECRANON",
    "finger": "FINGER FINGERS THUMB THUMBS DIGIT DIGITS",
    "forearm": "FOREARM FOREARMS LOWERARM RADIUS ULNA RADIUSULNA ANTEBRACHIUM",
    "hand": "HAND HANDS METACARPUS METACARPAL METACARPALS",
    "humerus": "HUMERUS UPPERARM HUMERI",
    "shoulder": "SHOULDER SHOULDERS CLAVICLE CLAVICLES SCAPULA SCAPULAE ACROMIOCLAVICULAR ACJOINT GLENOHUMERAL",
    "wrist": "WRIST WRISTS CARPUS CARPAL CARPALS SCAPHOID",
}
BODY_PARTS = tuple(_WORDS)
"""MURA's seven, alphabetical."""

_PART_OF = {word: part for part, words in _WORDS.items() for word in words.split()}
_ELSEWHERE = (
    "ABDOMEN ANKLE CALCANEUS CHEST CSPINE FEMUR FIBULA FOOT FEET HEEL HIP HIPS JAW KNEE KNEES LEG LEGS LSPINE NECK "
    "PATELLA PELVIS RIB RIBS SKULL SPINE STERNUM THORAX TIBIA TOE TOES TSPINE WHOLEBODY"
)
_SIDES = ("LEFT", "RIGHT", "LT", "RT", "L", "R")


def find_body_part(text: str) -> str | None:
    """The part of the body that a DICOM file names.

    Args:
        text: In any case, with sides, underscores or plurals: "WRIST", "Lt_Hand", "UPPER ARM", "R SCAPHOID".

    Returns:
        One of MURA's seven; None where the text names none of them, more than one, or one beside another part.
    """
    words = re.sub("[^A-Z]+", " ", text[:64].upper()).split()
    # "UPPER ARM" and "UPPERARM" are one word; so are "FORE ARM" and "AC JOINT"
    joined = [first + second for first, second in pairwise(words)]
    found = {part for word in words + joined if (part := _part_of_word(word))}
    return found.pop() if len(found) == 1 and not set(_ELSEWHERE.split()).intersection(words) else None


def _part_of_word(word: str) -> str | None:
    bare = [cut for side in _SIDES for cut in (word.removeprefix(side), word.removesuffix(side))]  # "LHAND", "HANDL"
    return next((_PART_OF[form] for form in (word, *bare) if form in _PART_OF), None)


_BYTES = 12
HASH_LENGTH = 2 * _BYTES
"""Characters of a mark."""

_key = secrets.token_bytes(32)


def hash_patient(patient: str) -> str | None:
    """A mark of what a file calls its patient: the same for the same patient, as long as this process lives.

    A keyed hash (BLAKE2b, RFC 7693) under a key that is drawn when the process starts and never leaves it but to its
    own workers, so that a mark says nothing about who the patient is, here or anywhere else, then or later.

    Args:
        patient: As it stands in the file.

    Returns:
        Hexadecimal digits; None where the file names no patient.
    """
    told = " ".join(patient.replace("\0", " ").split())
    return hashlib.blake2b(told.encode(), key=_key, digest_size=_BYTES).hexdigest() if told else None


def hash_key() -> str:
    """The key, for a worker of this process."""
    return _key.hex()


def use_hash_key(key: str) -> None:
    """Makes this process's marks those of the process whose worker it is."""
    global _key
    _key = bytes.fromhex(key)
