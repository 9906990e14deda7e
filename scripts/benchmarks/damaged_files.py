"""Damages PNG, JPEG and DICOM files, by chance and on purpose, and reads them as uploads of strangers are read.

Topics (5 minutes):
  untrusted  5,000 damaged files: each must end as a radiograph or as a `RadiographError`, and the reader must survive
"""

import io
import struct
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from dicom_files import TRANSFER_SYNTAXES, encode_dicom
from harness import run_benchmark
from PIL import Image
from pydicom.tag import Tag
from tqdm.auto import tqdm

from mura_hf.errors import RadiographError
from mura_hf.phantoms import render_phantom
from mura_hf.radiographs import GuardedReader

SIDES = (96, 512, 1600)
"""Longer sides of the undamaged images in pixels."""

_SHORT_NUMBERS = (
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "SamplesPerPixel",
)
_ATTACKED = (
    *_SHORT_NUMBERS, "PhotometricInterpretation", "NumberOfFrames", "Modality", "SOPClassUID", "TransferSyntaxUID",
    "WindowCenter", "WindowWidth", "RescaleSlope", "PixelData", "FileMetaInformationGroupLength",
)  # fmt: skip
_EDGES = (0, 1, 2, 7, 8, 15, 16, 31, 255, 256, 32767, 32768, 40000, 65535)


def undamaged_files(sides: tuple[int, ...] = SIDES) -> dict[str, bytes]:
    """The files that are damaged: name such as "DICOM RLE 512" -> content. All of them can be read."""
    files = {}
    for number, side in enumerate(sides):
        pixels = render_phantom(640_000 + number, body_part="hand", finding=None).pixels
        scale = side / max(pixels.shape)
        gray = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        deep = gray.astype(np.uint16) * 16 + np.random.default_rng(number).integers(0, 16, gray.shape, dtype=np.uint16)
        for name, picture in (
            ("PNG 8", gray), ("PNG 16", deep), ("PNG colour", np.dstack([gray] * 3)), ("JPEG", gray),
        ):  # fmt: skip
            buffer = io.BytesIO()
            Image.fromarray(picture).save(buffer, name.split()[0], compress_level=1)
            files[f"{name} {side}"] = buffer.getvalue()
        for syntax in TRANSFER_SYNTAXES:
            stored, bits = (gray, 8) if syntax == "JPEG baseline" else (deep, 12)
            window = {
                "WindowCenter": 2 ** (bits - 1),
                "WindowWidth": 2**bits,
                "RescaleSlope": 1,
                "RescaleIntercept": 0,
            }
            files[f"DICOM {syntax} {side}"] = encode_dicom(stored, syntax=syntax, bits_stored=bits, **window)
        files[f"DICOM two frames {side}"] = encode_dicom(np.stack([deep, deep]), syntax="RLE", bits_stored=12)
    return files


def damaged_files(count: int, seed: int = 0, sides: tuple[int, ...] = SIDES) -> Iterator[tuple[str, bytes]]:
    """Damages files; the same seed gives the same files.

    Each file gets one to three damages: bytes flipped, cut off, duplicated, removed, zeroed or replaced, anywhere or
    near the head; chunks of PNG, segments of JPEG and elements of DICOM swapped, duplicated, or given another length
    or value.

    Args:
        count: Number of files.
        seed: Of the damages.
        sides: Longer sides of the images; the largest is drawn a third as often as the others.

    Yields:
        Name of the undamaged file, and the damaged content.
    """
    files = undamaged_files(sides)
    names = [name for name in files for _ in range(1 if name.endswith(f" {max(sides)}") else 3)]
    rng = np.random.default_rng(seed)
    for _ in range(count):
        name = names[rng.integers(len(names))]
        data = bytearray(files[name])
        for _ in range(int(rng.integers(1, 4))):
            ways = (*_ANYWHERE, *[_BY_FORMAT[name.split()[0]]] * len(_ANYWHERE))
            if len(data) > 200:
                ways[rng.integers(len(ways))](data, rng)
        yield name, bytes(data)


def _place(data: bytearray, rng: np.random.Generator) -> int:
    """A random position, in half of the cases near the head, where the metadata are."""
    return int(rng.integers(min(len(data), 1500) if rng.random() < 0.5 else len(data)))


def _flip(data: bytearray, rng: np.random.Generator) -> None:
    for _ in range(int(rng.integers(1, 9))):
        data[_place(data, rng)] ^= int(rng.integers(1, 256))


def _cut(data: bytearray, rng: np.random.Generator) -> None:
    del data[max(140, _place(data, rng)) :]


def _double(data: bytearray, rng: np.random.Generator) -> None:
    start = _place(data, rng)
    data[start:start] = data[start : start + int(rng.integers(1, 600))]


def _take_out(data: bytearray, rng: np.random.Generator) -> None:
    start = _place(data, rng)
    del data[start : start + int(rng.integers(1, 60))]


def _overwrite(data: bytearray, rng: np.random.Generator) -> None:
    start, length = _place(data, rng), int(rng.integers(1, 40))
    data[start : start + length] = bytes(length) if rng.random() < 0.5 else rng.bytes(length)


_ANYWHERE: tuple[Callable[[bytearray, np.random.Generator], None], ...] = (_flip, _cut, _double, _take_out, _overwrite)


def _damage_pieces(data: bytearray, pieces: list[tuple[int, int]], rng: np.random.Generator) -> None:
    """Swaps, duplicates or removes pieces, each given by start and end."""
    if len(pieces) < 2:
        return
    first, second = sorted(rng.choice(len(pieces), 2, replace=False))
    (a, b), (c, d) = pieces[first], pieces[second]
    way = rng.integers(3)
    if way == 0:
        data[a:d] = data[c:d] + data[b:c] + data[a:b]
    elif way == 1:
        data[d:d] = data[a:b]
    else:
        del data[a:b]


def _damage_png(data: bytearray, rng: np.random.Generator) -> None:
    pieces, start = [], 8
    while start + 12 <= len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        pieces.append((start, end))
        start = end
    way = rng.integers(3)
    if way == 0 and pieces:
        place = pieces[rng.integers(len(pieces))][0]
        data[place : place + 4] = int(rng.choice([0, 1, 65535, 2**31 - 1, 2**32 - 1])).to_bytes(4, "big")
    elif way == 1 and len(data) > 40:  # a wrong header with a correct checksum
        place = int(rng.integers(16, 29))
        data[place] = int(rng.choice([0, 1, 2, 3, 4, 6, 8, 16, 127, 255]))
        data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    else:
        _damage_pieces(data, pieces, rng)


def _damage_jpeg(data: bytearray, rng: np.random.Generator) -> None:
    pieces, start = [], 2
    while start + 4 <= len(data) and data[start] == 0xFF:
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        pieces.append((start, end))
        if data[start + 1] == 0xDA:
            break
        start = end
    if rng.random() < 0.5 and pieces:  # a field of a segment, such as its length or the image size
        place = pieces[rng.integers(len(pieces))][0] + int(rng.integers(1, 10))
        data[place % len(data)] = int(rng.choice([0, 1, 2, 255, int(rng.integers(256))]))
    else:
        _damage_pieces(data, pieces, rng)


def _damage_dicom(data: bytearray, rng: np.random.Generator) -> None:
    """Damages elements, found by their tags; for explicit little endian, as in most transfer syntaxes."""
    places = {}
    for keyword in _ATTACKED:
        tag = Tag(keyword)
        place = data.find(struct.pack("<HH", tag.group, tag.element), 132)
        if place > 0 and place + 12 < len(data):
            places[keyword] = place
    if not places:
        return
    keyword = sorted(places)[rng.integers(len(places))]
    place, way = places[keyword], rng.integers(4)
    if way == 0:  # length
        data[place + 6 : place + 8] = struct.pack("<H", int(rng.choice(_EDGES)))
    elif way == 1:  # representation
        data[place + 4 : place + 6] = [b"SQ", b"UN", b"OB", b"US", b"DS", b"\0\0"][rng.integers(6)]
    elif way == 2 or keyword == "PixelData":  # value
        data[place + 8 : place + 10] = struct.pack("<H", int(rng.choice(_EDGES)))
    else:
        starts = sorted(places.values())
        _damage_pieces(data, list(pairwise(starts)), rng)


_BY_FORMAT = {"PNG": _damage_png, "JPEG": _damage_jpeg, "DICOM": _damage_dicom}


def measure_untrusted(count: int = 5000, seed: int = 0, sides: tuple[int, ...] = SIDES) -> dict[str, Any]:
    """Reads damaged files with a `GuardedReader` of one worker. Any error but `RadiographError` is raised.

    Returns:
        `files`, `read`, `refused`; `workers_lost`, workers that crashed or ran out of time (these files count as
        refused); `slowest_seconds` and `slowest_file`; `worker_peak_megabytes`, resident (0 where the system does not
        report it); `alive`, whether good files were read at the end.
    """
    ends: Counter[str] = Counter()
    slowest, slowest_file, peak = 0.0, "", 0
    with GuardedReader(workers=1) as reader:
        good = undamaged_files(sides[:1])
        reader.read(next(iter(good.values())))
        for name, data in tqdm(damaged_files(count, seed, sides), total=count, desc="Damaged files"):
            start = time.perf_counter()
            try:
                reader.read(data, name=name)
                ends["read"] += 1
            except RadiographError:
                ends["refused"] += 1
            seconds = time.perf_counter() - start
            peak = max(peak, *map(_peak_bytes, reader.worker_pids()), 0)
            if seconds > slowest:
                slowest, slowest_file = seconds, name
        alive = all(reader.read(data).pixels.size for data in good.values())
        return {
            "files": count,
            "read": ends["read"],
            "refused": ends["refused"],
            "workers_lost": reader.ended,
            "slowest_seconds": round(slowest, 2),
            "slowest_file": slowest_file,
            "worker_peak_megabytes": round(peak / 1e6),
            "alive": alive,
        }


def _peak_bytes(pid: int) -> int:
    """Maximum resident memory of a process so far, or 0 if the system does not report it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return max([1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")] or [0])


TOPICS = {"untrusted": (measure_untrusted, {"count": 120, "seed": 5, "sides": (96, 320)})}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    return run_benchmark(__doc__, TOPICS, argv)


if __name__ == "__main__":
    main()
