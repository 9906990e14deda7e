"""`Radiograph`, the pixels of one view, with the checks that every view must pass.

It also holds what little a DICOM file contributes beside pixels: the body part, mapped to the seven of MURA, and a
keyed hash of the patient that only tells whether two files belong to the same patient.
"""

import hashlib
import re
import secrets
from dataclasses import dataclass, replace
from itertools import pairwise

import cv2
import numpy as np
from PIL import Image

from ..errors import RadiographError

MAX_PIXELS = 40_000_000
"""Larger images are refused before they are decoded."""

TOO_LARGE = f"more than {MAX_PIXELS // 1_000_000} megapixels, which no radiograph needs; export it smaller."

MIN_SIDE = 16
"""Smallest height and width in pixels."""

ROUNDING = 1e-3
"""Float pixels may exceed [0, 1] by so much, a quarter of a gray level."""

MAX_ASPECT = 12
"""Largest ratio of the longer to the shorter side."""


@dataclass(frozen=True, eq=False)
class Radiograph:
    """One view, windowed for display. It holds no patient data.

    Attributes:
        pixels: float32 `[H, W]` in [0, 1], bone bright.
        bit_depth: Bits per pixel in the file: 8 or 16, or Bits Stored (1 to 16) of a DICOM file.
        source_format: "PNG", "JPEG", "TIFF", "BMP", "WebP" or "DICOM"; "array" for pixels that did not come from a
            file.
        body_part: One of the seven body parts if the file names one, else None.
        warnings: Sentences about how the file was read that should be shown beside any prediction.
        side: "left" or "right" if the file says so, else None.
        patient_hash: Equal for two files that name the same patient, if the same process has read them. See
            `hash_patient`. None if the file names no patient.
        is_coloured: Whether the file is a colour picture, such as a photograph. Only its luminance is kept.
    """

    pixels: np.ndarray
    bit_depth: int
    source_format: str
    body_part: str | None = None
    warnings: tuple[str, ...] = ()
    side: str | None = None
    patient_hash: str | None = None
    is_coloured: bool = False

    def to_uint8(self) -> np.ndarray:
        """Returns uint8 `[H, W]`: exactly the gray levels of the file if it has 8 bits and no DICOM window."""
        levels = self.pixels * np.float32(255)
        return np.rint(levels, out=levels).astype(np.uint8)

    def to_image(self) -> Image.Image:
        """Returns an 8-bit gray PIL image, for example for a plain transformers pipeline."""
        return Image.fromarray(self.to_uint8())


def reduce_radiograph(radiograph: Radiograph, max_pixels: int, name: str) -> Radiograph:
    """Returns the radiograph averaged to at most `max_pixels`, with a warning; a smaller one is returned unchanged."""
    height, width = radiograph.pixels.shape
    if height * width <= max_pixels:
        return radiograph
    scale = (max_pixels / (height * width)) ** 0.5
    size = max(1, int(width * scale)), max(1, int(height * scale))
    note = (
        f"{name} was reduced from {width:,} x {height:,} to {size[0]:,} x {size[1]:,} pixels to save memory; boxes "
        "and heatmaps refer to the smaller picture."
    )
    pixels = cv2.resize(radiograph.pixels, size, interpolation=cv2.INTER_AREA)
    return replace(radiograph, pixels=np.clip(pixels, 0, 1), warnings=(*radiograph.warnings, note))


def check_radiograph(radiograph: Radiograph, name: str) -> Radiograph:
    """Returns the radiograph if its pixels are plausible. Rounding errors beyond [0, 1] are clipped.

    Raises:
        RadiographError: If the pixels are not `[H, W]` in [0, 1], too few, much longer than wide, or all equal.
    """
    low, high = check_levels(radiograph.pixels, name)
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # also catches NaN
        raise RadiographError(
            f"{name} has pixel values from {low:g} to {high:g}, but they must lie in [0, 1]; apply a window first."
        )
    return radiograph if low >= 0 and high <= 1 else replace(radiograph, pixels=np.clip(radiograph.pixels, 0, 1))


def check_levels(pixels: np.ndarray, name: str) -> tuple[float, float]:
    """Checks the shape of an image with any range of values, and returns its minimum and maximum.

    Raises:
        RadiographError: As `check_radiograph`, except for the range.
    """
    size = " x ".join(map(str, pixels.shape[::-1]))
    if pixels.ndim != 2:
        raise RadiographError(f"{name} has {pixels.ndim} dimensions ({size}); give the gray levels of a view, [H, W].")
    if min(pixels.shape) < MIN_SIDE:
        raise RadiographError(
            f"{name} has only {size} pixels; give the radiograph itself, with at least {MIN_SIDE} pixels a side."
        )
    if max(pixels.shape) > MAX_ASPECT * min(pixels.shape):
        raise RadiographError(
            f"{name} has {size} pixels: one side is more than {MAX_ASPECT} times the other, unlike any radiograph; "
            "check the file."
        )
    low, high = float(pixels.min()), float(pixels.max())
    if low == high:
        raise RadiographError(f"{name} has the same gray level everywhere, so it shows nothing; check the export.")
    return low, high


# Words of Body Part Examined (0018,0015) and of the meanings of anatomic region codes: the defined terms of PS3.16
# annex L, and what hospitals write in practice. "ARM" alone is missing because it may mean the whole limb.
_WORDS = {
    "elbow": "ELBOW ELBOWS OLECRANON",
    "finger": "FINGER FINGERS THUMB THUMBS DIGIT DIGITS",
    "forearm": "FOREARM FOREARMS LOWERARM RADIUS ULNA RADIUSULNA ANTEBRACHIUM",
    "hand": "HAND HANDS METACARPUS METACARPAL METACARPALS",
    "humerus": "HUMERUS UPPERARM HUMERI",
    "shoulder": "SHOULDER SHOULDERS CLAVICLE CLAVICLES SCAPULA SCAPULAE ACROMIOCLAVICULAR ACJOINT GLENOHUMERAL",
    "wrist": "WRIST WRISTS CARPUS CARPAL CARPALS SCAPHOID",
}
PART_OF_WORD = {word: part for part, words in _WORDS.items() for word in words.split()}
OTHER_PARTS = (
    "ABDOMEN ANKLE CALCANEUS CHEST CSPINE FEMUR FIBULA FOOT FEET HEEL HIP HIPS JAW KNEE KNEES LEG LEGS LSPINE NECK "
    "PATELLA PELVIS RIB RIBS SKULL SPINE STERNUM THORAX TIBIA TOE TOES TSPINE WHOLEBODY"
)
_SIDES = ("LEFT", "RIGHT", "LT", "RT", "L", "R")


def find_body_part(text: str) -> str | None:
    """Finds the body part that a DICOM element names.

    Args:
        text: In any case, with sides, underscores or plurals, such as "WRIST", "Lt_Hand", "UPPER ARM", "R SCAPHOID".

    Returns:
        One of the seven body parts. None if the text names none of them, several, or another part as well.
    """
    words = re.sub("[^A-Z]+", " ", text[:64].upper()).split()
    joined = [first + second for first, second in pairwise(words)]  # "UPPER ARM" is "UPPERARM"
    found = set()
    for word in words + joined:
        bare = [cut for side in _SIDES for cut in (word.removeprefix(side), word.removesuffix(side))]  # "LHAND"
        found.update([PART_OF_WORD[form] for form in (word, *bare) if form in PART_OF_WORD][:1])
    return found.pop() if len(found) == 1 and not set(OTHER_PARTS.split()).intersection(words) else None


HASH_BYTES = 12

HASH_KEY = secrets.token_bytes(32)
"""Key of `hash_patient`, drawn when a process starts; `GuardedReader` gives it to its worker processes."""


def hash_patient(patient: str) -> str | None:
    """Returns a keyed hash of a patient id, which is the same for the same patient as long as this process lives.

    The hash is BLAKE2b (RFC 7693). Its key is drawn when the process starts and is shared with its worker processes
    only, so the hash identifies nobody in any other process.

    Args:
        patient: The id in the file.

    Returns:
        Hexadecimal digits, or None if the id is empty.
    """
    normalized = " ".join(patient.replace("\0", " ").split())
    if not normalized:
        return None
    return hashlib.blake2b(normalized.encode(), key=HASH_KEY, digest_size=HASH_BYTES).hexdigest()
