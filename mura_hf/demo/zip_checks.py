"""Whether a ZIP file from a stranger may be opened."""

import struct
import zipfile
from pathlib import Path

from ..errors import DatasetError

MAX_DIRECTORY = 24 << 20
"""Bytes of a ZIP file's list of its members; of 200,000 members with names as MURA has them it takes as much."""

_END, _END_64 = b"PK\5\6", b"PK\6\6"
_TAIL = (1 << 16) + 22 + 20 + 56  # the longest comment, and the records that may end the list


def is_zip(file: Path) -> bool:
    """Whether a file is meant as a ZIP file: by its name, or by how it begins."""
    try:
        with file.open("rb") as opened:
            return file.suffix.lower() == ".zip" or opened.read(4) == b"PK\3\4"
    except OSError:
        return False


def check_zip(file: Path) -> None:
    """Looks at a ZIP file before its list of members is read, all of which Python takes into memory.

    Raises:
        DatasetError: If it is no ZIP file, or its list is larger than that of any worklist.
    """
    try:
        if not zipfile.is_zipfile(file):
            raise DatasetError(f"{file.name} is no ZIP file, or a damaged one; pack it again")
        with file.open("rb") as opened:
            opened.seek(0, 2)
            opened.seek(max(0, opened.tell() - _TAIL))
            tail = opened.read()
    except OSError:
        raise DatasetError(
            f"{file.name} was uploaded too long ago and is gone from the server; upload it again"
        ) from None
    sizes = [struct.unpack_from("<L", tail, place + 12)[0] for place in _places(tail, _END, 22)]
    large = [struct.unpack_from("<Q", tail, place + 40)[0] for place in _places(tail, _END_64, 56)]
    if any(size > MAX_DIRECTORY for size in [*large, *(size for size in sizes if size != 0xFFFFFFFF or not large)]):
        raise DatasetError(f"{file.name} lists far more files than a worklist has; give it in parts")


def _places(tail: bytes, mark: bytes, length: int) -> list[int]:
    """Where a record may begin: a reader takes one of these, and it does not matter which."""
    places, place = [], tail.find(mark)
    while place >= 0:
        if place + length <= len(tail):
            places.append(place)
        place = tail.find(mark, place + 1)
    return places
