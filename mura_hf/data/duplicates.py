"""Near-duplicates: images that a dataset contains more than once, found by their thumbnails.

Without patient ids, nothing else says that two files show the same radiograph, and a copy of a training image in
`valid` makes figures too good. Two images are near-duplicates if the correlation of their 32 x 32 thumbnails exceeds
.995, as they are or with one of them mirrored. A marker or a circle that someone drew may differ.
"""

import hashlib
import io
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset, Image
from filelock import FileLock
from PIL import Image as PillowImage
from PIL import ImageOps
from tqdm.auto import tqdm

from ..common import HOME_VARIABLE, home_folder, replace_file
from ..errors import RadiographError
from ..radiographs import read_levels
from .splits import Row, list_files, report
from .verification import common_folder

MIN_CORRELATION = 0.995
"""Thumbnails of near-duplicates correlate more. In FracAtlas no pair lies between .989 and .996, and all above
show the same radiograph.
"""

_SIDE = 32  # pixels
_COARSE = 8  # pixels
_FORMAT = 1  # increase it when thumbnails change
_BLOCK = 2048  # thumbnails that are compared at once
_MIN_PROGRESS = 500  # images


class DuplicatePair(NamedTuple):
    """Two near-duplicates."""

    first: int  # index of an image
    second: int  # index of the other one
    correlation: float  # of their thumbnails, above `MIN_CORRELATION` and at most 1
    mirrored: bool  # whether one of them is the mirror image of the other


def read_thumbnails(images: Sequence[str | bytes], *, progress: bool = True) -> np.ndarray:
    """Reads thumbnails of images, or takes them from the cache in `home_folder()`.

    The cache is one file for each folder of images. It identifies an image by its path, size and modification time.

    Args:
        images: Paths or contents of files.
        progress: Whether to show a progress bar if there are many.

    Returns:
        uint8 `[n, 32, 32]`, stretched to a square. Zeros for an image that cannot be read.
    """
    keys = [_identify(image) for image in images]
    known: dict[str, np.ndarray] = {}
    try:
        place = home_folder() / "thumbnails"
        place.mkdir(exist_ok=True)
        folder = common_folder([image for image in images if isinstance(image, str)])
        name = hashlib.sha256(f"{_FORMAT}\0{folder}".encode()).hexdigest()[:16]
        cache = place / f"{name}.npz"
        with FileLock(f"{cache}.lock"):  # other processes of a training wait, instead of reading the same images
            known = _open_cache(cache)
            if _read_missing(known, dict(zip(keys, images, strict=True)), progress):
                content = io.BytesIO()
                np.savez(content, keys=np.array(list(known)), thumbnails=np.stack(list(known.values())))
                replace_file(cache, content.getvalue())
    except OSError as error:
        report([f"Thumbnails cannot be kept in {HOME_VARIABLE} ({error}); they will be read again next time."])
        _read_missing(known, dict(zip(keys, images, strict=True)), progress)
    return np.stack([known[key] for key in keys]) if keys else np.zeros((0, _SIDE, _SIDE), np.uint8)


def _open_cache(cache: Path) -> dict[str, np.ndarray]:
    """Returns identity -> thumbnail; empty if there is no cache, or it is damaged."""
    try:
        with np.load(cache) as stored:
            return dict(zip(stored["keys"].tolist(), stored["thumbnails"], strict=True))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return {}


def _read_missing(known: dict[str, np.ndarray], images: Mapping[str, str | bytes], progress: bool) -> bool:
    """Adds the thumbnails of images (by identity) that are not known. Returns whether there are any."""
    missing = {key: image for key, image in images.items() if key not in known}
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:  # threads, since decoders release the GIL
        read = tqdm(
            pool.map(_read_thumbnail, missing.values()), total=len(missing), desc="Looking for near-duplicates",
            unit="image", disable=not progress or len(missing) < _MIN_PROGRESS, leave=False,
        )  # fmt: skip
        known.update(zip(missing, read, strict=True))
    return bool(missing)


def find_duplicates(thumbnails: np.ndarray, others: np.ndarray | None = None) -> list[DuplicatePair]:
    """Finds all pairs of near-duplicates.

    Args:
        thumbnails: uint8 `[n, 32, 32]`.
        others: uint8 `[m, 32, 32]`: compares each thumbnail with each of these instead of with one another.

    Returns:
        Pairs in order. `second` is an index of `others` if given, else larger than `first`. Images of one gray level
        are no duplicates of any.
    """
    ours, our_rows = _standardize(thumbnails)
    theirs, their_rows = (ours, our_rows) if others is None else _standardize(others)
    found: dict[tuple[int, int], DuplicatePair] = {}
    for mirrored in (False, True):
        turned = theirs[:, :, ::-1] if mirrored else theirs
        for a, b in _candidates(_shrink(ours), _shrink(turned)):
            first, second = int(our_rows[a]), int(their_rows[b])
            correlation = float((ours[a] * turned[b]).sum())
            known = found.get((first, second))
            if correlation > MIN_CORRELATION and (others is not None or first < second) and known is None:
                found[first, second] = DuplicatePair(first, second, min(correlation, 1.0), mirrored)
    return sorted(found.values())


def group_duplicates(rows: Sequence[Row], source: object) -> list[Row]:
    """Makes one patient of all patients that share near-duplicates, and reports it on stderr.

    This is for datasets whose `patient_id` is not that of a patient, but the study or a block of images.

    Args:
        rows: Rows with the path `image`, `patient_id`, `study_id` and `label`.
        source: Name of the dataset in messages.

    Returns:
        The rows, with `unit`, the former `patient_id`; with the smallest `unit` of the group as `patient_id`; and with
        `contradictory`: whether the study has a near-duplicate with another label.
    """
    pairs = find_duplicates(read_thumbnails([row["image"] for row in rows]))
    parents: dict[str, str] = {}

    def find_group(unit: str) -> str:
        while unit in parents:
            unit = parents[unit]
        return unit

    contradictory: set[str] = set()
    n_contradictory = 0
    for first, second, _, _ in pairs:
        one, other = rows[first], rows[second]
        group, joined = sorted((find_group(one["patient_id"]), find_group(other["patient_id"])))
        if group != joined:
            parents[joined] = group
        if one["label"] != other["label"]:
            n_contradictory += 1
            contradictory |= {one["study_id"], other["study_id"]}
    messages = []
    if pairs:
        messages.append(f"{source}: near-duplicates stay in one split. Pairs of images: {len(pairs)}.")
    if contradictory:
        messages.append(
            f"{source}: the labels of {n_contradictory} of these pairs contradict each other, so {len(contradictory)} "
            f"studies are left out of dev, calib and valid: {list_files(sorted(contradictory))}."
        )
    report(messages)
    return [
        {
            **row,
            "unit": row["patient_id"],
            "patient_id": find_group(row["patient_id"]),
            "contradictory": row["study_id"] in contradictory,
        }
        for row in rows
    ]


def find_leaks(splits: Mapping[str, Dataset], others: Mapping[str, Dataset] | None = None) -> list[dict[str, Any]]:
    """Finds near-duplicates in different splits.

    Args:
        splits: Splits with the columns `image`, `study_id` and `label`; labels may be None.
        others: Splits of another dataset: compares each of `splits` with each of these instead of with one another.

    Returns:
        For each pair: `splits`, `studies` and `images` (of both; None for an image without a path), `correlation`,
        `mirrored`, and `contradictory`, whether the labels differ.
    """
    ours = [(split, row) for split, rows in splits.items() for row in _read_rows(rows)]
    theirs = [(split, row) for split, rows in (others or {}).items() for row in _read_rows(rows)]
    thumbnails = [
        read_thumbnails([row["image"]["bytes"] or row["image"]["path"] for _, row in side])
        for side in ((ours, theirs) if others is not None else (ours,))
    ]
    leaks = []
    for first, second, correlation, mirrored in find_duplicates(*thumbnails):
        sides = ours[first], (ours if others is None else theirs)[second]
        if others is not None or sides[0][0] != sides[1][0]:
            labels = {row["label"] for _, row in sides} - {None}
            leaks.append(
                {
                    "splits": [split for split, _ in sides],
                    "studies": [row["study_id"] for _, row in sides],
                    "images": [row["image"]["path"] for _, row in sides],
                    "correlation": correlation,
                    "mirrored": mirrored,
                    "contradictory": len(labels) > 1,
                }
            )
    return leaks


def leave_out_duplicates(rows: Dataset, others: Mapping[str, Dataset]) -> Dataset:
    """Leaves out the studies that are in other splits too, or have near-duplicates there."""
    known = {study for other in others.values() for study in other["study_id"]}
    known |= {leak["studies"][0] for leak in find_leaks({"": rows}, others)}
    return rows.select([number for number, study in enumerate(rows["study_id"]) if study not in known])


def _read_rows(rows: Dataset) -> list[Row]:
    columns = rows.select_columns(["image", "study_id", "label"])
    return columns.cast_column("image", Image(decode=False)).to_list()


def _identify(image: str | bytes) -> str:
    if isinstance(image, bytes):
        return hashlib.sha256(image).hexdigest()[:32]
    path = os.path.abspath(image)
    try:
        found = os.stat(path)
    except OSError:
        return hashlib.sha256(f"{path}\0missing".encode()).hexdigest()[:32]
    return hashlib.sha256(f"{path}\0{found.st_size}\0{found.st_mtime_ns}".encode()).hexdigest()[:32]


def _read_thumbnail(image: str | bytes) -> np.ndarray:
    try:
        with PillowImage.open(io.BytesIO(image) if isinstance(image, bytes) else image, formats=("JPEG",)) as opened:
            opened.draft("L", (4 * _SIDE, 4 * _SIDE))  # decodes a reduced image, which is several times as fast
            picture = ImageOps.exif_transpose(opened).convert("L")
    except (OSError, ValueError, SyntaxError, PillowImage.DecompressionBombError):  # another format, or damaged
        try:
            picture = PillowImage.fromarray(read_levels(image))
        except RadiographError:  # `check_images` reports it
            return np.zeros((_SIDE, _SIDE), np.uint8)
    return np.asarray(picture.resize((_SIDE, _SIDE), PillowImage.Resampling.BILINEAR))


def _standardize(thumbnails: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns thumbnails with mean 0 and norm 1, float32 `[k, 32, 32]`, and their rows, without those of one gray
    level.
    """
    rows = np.flatnonzero(thumbnails.reshape(-1, _SIDE**2).std(1) > 0)
    chosen = thumbnails[rows].astype(np.float32)
    chosen -= chosen.mean((1, 2), keepdims=True)
    return chosen / np.sqrt(np.square(chosen).sum((1, 2), keepdims=True)), rows


def _shrink(thumbnails: np.ndarray) -> np.ndarray:
    """Projects thumbnails orthonormally onto `_COARSE` by `_COARSE` squares, float32 `[k, 64]`."""
    step = _SIDE // _COARSE
    return thumbnails.reshape(-1, _COARSE, step, _COARSE, step).sum((2, 4)).reshape(-1, _COARSE**2) / step


def _candidates(ours: np.ndarray, theirs: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yields the pairs of projections that are near enough for near-duplicates.

    For unit vectors with a correlation of r, the squared distance is 2 - 2 r, and a projection never increases it. So
    no near-duplicate is missed, and few other pairs remain.
    """
    largest = 2 - 2 * MIN_CORRELATION + 1e-5  # rounding
    their_norms = np.square(theirs).sum(1)
    for start in range(0, len(ours), _BLOCK):
        block = ours[start : start + _BLOCK]
        distances = np.square(block).sum(1)[:, None] + their_norms - 2 * block @ theirs.T
        for a, b in zip(*np.nonzero(distances < largest), strict=True):
            yield start + int(a), int(b)
