"""One file through the deterministic half of its road, which can be kept.

The pixel cache: prepared planes in memory-mapped Arrow files, so that later epochs and runs decode nothing.

A cache is a heap of parts, each a few hundred files in the order of their paths. A part's name is a digest of all that
its pixels depend on: paths, sizes and times of its files, the processor's settings, and the versions of the libraries
that decode and resize. A part is written under another name, flushed to the disk and then renamed. So a part that has
its name was written whole, whatever was killed when, and nothing else needs to be recorded; a file that changes, or a
new setting, asks for parts of other names. Where a part begins depends on its first path alone, so that other subsets
of the same files find most of their parts made.
"""

import contextlib
import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset, concatenate_datasets
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from ..common import home_folder
from ..errors import DatasetError
from ..models.image_processing_mura import MuraImageProcessor
from .views import PreparedView, prepare_view

_FORMAT = 1  # to be raised when what is stored, or how files are read, changes
_MEAN_FILES, _MOST_FILES = 256, 1024  # of a part
_DECODERS = ("pillow", "numpy", "opencv-python-headless", "pydicom", "imagecodecs")
_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"  # of an Arrow stream that was written to its end
# Settings that act on what comes out of the cache, or are no settings.
_LATER = {
    "crop_size", "do_center_crop", "do_normalize", "do_rescale", "image_mean", "image_processor_type", "image_std",
    "rescale_factor",
}  # fmt: skip
_SCHEMA = pa.schema([("plane", pa.binary()), ("shape", pa.list_(pa.int32(), 2)), ("field", pa.list_(pa.int32(), 4))])


class PixelCache(Mapping[str, PreparedView]):
    """Prepared views by path. May be sent to other processes, which map the same files.

    Args:
        files: Paths, as `build_pixel_cache` orders them.
        parts: The Arrow files that hold them.
        size: Height and width of the planes.
    """

    def __init__(self, files: Sequence[str], parts: Sequence[Path], size: tuple[int, int]) -> None:
        self._places = {file: place for place, file in enumerate(files)}
        self._size = size
        try:
            stored = [Dataset.from_file(str(part)) for part in parts]
        except pa.ArrowInvalid as error:
            raise DatasetError(f"{parts[0].parent} is damaged ({error}); remove it, it is built again") from error
        self._rows = concatenate_datasets(stored).with_format("arrow") if stored else None

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __contains__(self, file: object) -> bool:
        return file in self._places

    def __getitem__(self, file: str) -> PreparedView:
        """The view of a path; its plane may not be written to.

        Raises:
            KeyError: If the cache was not built for it.
        """
        assert self._rows is not None or file not in self._places
        plane, shape, field = self._rows[self._places[file]].columns  # type: ignore[index]
        pixels = np.frombuffer(plane[0].as_buffer(), np.uint8).reshape(self._size)
        return PreparedView(pixels, tuple(shape[0].as_py()), tuple(field[0].as_py()))


@dataclass(frozen=True)
class _Part:
    path: Path
    files: tuple[str, ...]


def build_pixel_cache(
    files: Iterable[str],
    processor: MuraImageProcessor,
    folder: str | os.PathLike[str] | None = None,
    *,
    workers: int | None = None,
    progress: bool = True,
) -> PixelCache:
    """Opens the cache of some files, and makes what is missing of it. Several processes may ask at once: one builds,
    the others wait for it.

    Args:
        files: Paths, in any order, repeats allowed.
        processor: Its deterministic half is applied.
        folder: Where caches lie; `pixels` in `home_folder()` where None. Old ones may be removed at any time.
        workers: Cores to use; all where None.
        progress: Whether to show a progress bar.

    Raises:
        RadiographError: If a file cannot be read; the message names it.
        DatasetError: If a file is not there, or the folder cannot be written.
    """
    files = sorted({os.path.abspath(file) for file in files})
    settings = _settings(processor)
    root = Path(folder) if folder is not None else home_folder() / "pixels"
    place = root / hashlib.sha256(settings.encode()).hexdigest()[:16]
    parts = [_Part(place / f"{_digest(settings, part)}.arrow", tuple(part)) for part in _cut_into_parts(files)]
    if not all(map(_is_whole, parts)):
        try:
            place.mkdir(parents=True, exist_ok=True)
            with _only_builder(place, progress):
                _build([part for part in parts if not _is_whole(part)], settings, processor, workers, progress)
        except OSError as error:
            raise DatasetError(
                f"the pixel cache in {place} cannot be written ({error.strerror or error}); name another folder, or "
                "run without a cache"
            ) from error
    return PixelCache(files, [part.path for part in parts], (processor.size.height, processor.size.width))


def _is_whole(part: _Part) -> bool:
    """Whether a part begins and ends as it should. One that was not written whole never had its name; a damaged disk
    may still cut it.
    """
    try:
        with part.path.open("rb") as file:
            file.seek(-len(_END), os.SEEK_END)
            if file.read() != _END:
                return False
        with pa.memory_map(str(part.path)) as stored:
            return pa.ipc.open_stream(stored).schema == _SCHEMA
    except (OSError, pa.ArrowInvalid):
        return False


def _settings(processor: MuraImageProcessor) -> str:
    kept = {name: value for name, value in processor.to_dict().items() if name not in _LATER}
    versions = {name: version(name) for name in _DECODERS}
    return json.dumps([kept, versions, _FORMAT], sort_keys=True, default=str)


def _cut_into_parts(files: Sequence[str]) -> Iterator[list[str]]:
    part: list[str] = []
    for file in files:
        if part and (len(part) == _MOST_FILES or zlib.crc32(file.encode()) % _MEAN_FILES == 0):
            yield part
            part = []
        part.append(file)
    if part:
        yield part


def _digest(settings: str, files: Sequence[str]) -> str:
    digest = hashlib.sha256(settings.encode())
    for file in files:
        try:
            found = os.stat(file)
        except OSError as error:
            raise DatasetError(f"{file} cannot be read ({error.strerror}); load the dataset again") from error
        digest.update(f"\0{file}\0{found.st_size}\0{found.st_mtime_ns}".encode())
    return digest.hexdigest()[:32]


@contextlib.contextmanager
def _only_builder(place: Path, progress: bool) -> Iterator[None]:
    """Lets one process at a time build; the lock falls with the process that holds it."""
    lock = FileLock(place / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if progress:
            tqdm.write("Another process builds this pixel cache; waiting for it.")
        lock.acquire()
    try:
        for left in place.glob("*.unfinished"):  # of a build that was killed
            left.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def _build(
    parts: Sequence[_Part], settings: str, processor: MuraImageProcessor, workers: int | None, progress: bool
) -> None:
    write = partial(_write_part, settings, processor)
    total = sum(len(part.files) for part in parts)
    # Threads, for decoders, resizing and disk let go of the interpreter, and a process takes longer to import torch
    # than a thread to read a thousand films. One more than cores, since one is always at the disk.
    with (
        tqdm(total=total, desc="Building the pixel cache", unit="view", disable=not progress) as bar,
        ThreadPoolExecutor((workers or os.cpu_count() or 1) + 1) as pool,
    ):
        jobs = [pool.submit(write, part) for part in parts]
        try:
            for job in as_completed(jobs):
                bar.update(job.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _write_part(settings: str, processor: MuraImageProcessor, part: _Part) -> int:
    """Makes a part, whole or not at all; returns how many views it holds."""
    views = [prepare_view(file, processor) for file in part.files]
    if _digest(settings, part.files) != part.path.stem:
        raise DatasetError(f"files in {os.path.dirname(part.files[0])} changed while they were read; start again")
    table = pa.Table.from_pydict(
        {
            "plane": [view.plane.tobytes() for view in views],
            "shape": [view.shape for view in views],
            "field": [view.field for view in views],
        },
        schema=_SCHEMA,
    )
    fresh = part.path.with_suffix(".unfinished")
    with fresh.open("wb") as file:
        with pa.ipc.new_stream(file, _SCHEMA) as stream:
            stream.write_table(table)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, part.path)
    return len(views)
