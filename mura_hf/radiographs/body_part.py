"""What DICOM files call the parts of the body, mapped to MURA's seven."""

import re
from itertools import pairwise

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
