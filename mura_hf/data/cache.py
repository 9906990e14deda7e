"""The pixel cache: prepared views in memory-mapped Arrow files, so that later epochs and runs decode no file.

A cache consists of parts of a few hundred files in the order of their paths. The name of a part is a digest of
everything that its pixels depend on: paths, sizes and modification times of the files, settings of the processor, and
versions of the libraries that decode and resize. A part is written under a temporary name, synced to disk and renamed.
So every part with its final name is complete, whenever a build was killed, and a changed file or setting leads to new
parts. Where a part begins depends on its first path only, so that other subsets of the same files reuse most parts.
"""

import contextlib
import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset, concatenate_datasets
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from ..common import home_folder
from ..errors import DatasetError, RadiographError
from ..models.image_processing_mura import MuraImageProcessor
from .verification import common_folder, unreadable_error
from .views import PreparedView, prepare_view

_FORMAT = 2  # increase it when the stored content or the reading of files changes
_MEAN_FILES, _MAX_FILES = 256, 1024  # of a part
_DECODERS = ("pillow", "numpy", "opencv-python-headless", "pydicom", "imagecodecs")
_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"  # of a complete Arrow stream
# Settings that apply after the cache, or are not settings.
_LATER = {
    "crop_size", "do_center_crop", "do_normalize", "do_rescale", "image_mean", "image_processor_type", "image_std",
    "rescale_factor",
}  # fmt: skip
_SCHEMA = pa.schema([("plane", pa.binary()), ("shape", pa.list_(pa.int32(), 2))])


class PixelCache(Mapping[str, PreparedView]):
    """Absolute path -> prepared view, whose plane is read-only. Can be pickled; other processes map the same files.

    Args:
        files: Paths in the order of `build_pixel_cache`.
        parts: Arrow files that contain them.
        size: Height and width of the planes.
    """

    def __init__(self, files: Sequence[str], parts: Sequence[Path], size: tuple[int, int]) -> None:
        self._rows_of = {file: row for row, file in enumerate(files)}
        self._size = size
        try:
            stored = [Dataset.from_file(str(part)) for part in parts]
        except pa.ArrowInvalid as error:
            raise DatasetError(f"{parts[0].parent} is damaged ({error}); remove it, it will be built again") from error
        self._rows = concatenate_datasets(stored).with_format("arrow") if stored else None

    def __len__(self) -> int:
        return len(self._rows_of)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows_of)

    def __getitem__(self, file: str) -> PreparedView:
        row = self._rows_of[file]
        assert self._rows is not None
        plane, shape = self._rows[row].columns
        pixels = np.frombuffer(plane[0].as_buffer(), np.uint8).reshape(self._size)
        return PreparedView(pixels, tuple(shape[0].as_py()))


def build_pixel_cache(
    files: Iterable[str],
    processor: MuraImageProcessor,
    folder: str | os.PathLike[str] | None = None,
    *,
    workers: int | None = None,
    progress: bool = True,
) -> PixelCache:
    """Opens the cache of files and builds its missing parts.

    Several processes may call this at the same time: one builds, the others wait.

    Args:
        files: Paths in any order, with or without repetitions.
        processor: Image processor, whose deterministic part is applied.
        folder: Folder of caches, which may be removed at any time. Defaults to `pixels` in `home_folder()`.
        workers: Number of cores to use. Defaults to all.
        progress: Whether to show a progress bar.

    Raises:
        RadiographError: If files do not exist or cannot be read. The message lists them.
        DatasetError: If the folder is not writable.
    """
    files = sorted({os.path.abspath(file) for file in files})
    kept = {name: value for name, value in processor.to_dict().items() if name not in _LATER}
    versions = {name: version(name) for name in _DECODERS}
    settings = json.dumps([kept, versions, _FORMAT], sort_keys=True, default=str)  # what pixels depend on
    root = Path(folder) if folder is not None else home_folder() / "pixels"
    place = root / hashlib.sha256(settings.encode()).hexdigest()[:16]
    parts = {place / f"{_digest(settings, part)}.arrow": part for part in _divide(files)}
    if not all(map(_is_complete, parts)):
        try:
            place.mkdir(parents=True, exist_ok=True)
            with _lock(place, progress):
                missing = {path: part for path, part in parts.items() if not _is_complete(path)}
                problems = _build(missing, settings, processor, workers, progress, common_folder(files))
        except OSError as error:
            raise DatasetError(
                f"the pixel cache in {place} cannot be written ({error.strerror or error}); choose another folder, or "
                "run without a cache"
            ) from error
        if problems:
            raise unreadable_error(problems, len(files), common_folder(files))
    return PixelCache(files, list(parts), (processor.size.height, processor.size.width))


def _divide(files: Sequence[str]) -> Iterator[list[str]]:
    """Divides sorted files into parts, so that subsets of the files are divided at the same paths."""
    part: list[str] = []
    for file in files:
        if part and (len(part) == _MAX_FILES or zlib.crc32(file.encode()) % _MEAN_FILES == 0):
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
        except OSError:  # reading it will say why
            digest.update(f"\0{file}\0missing".encode())
            continue
        digest.update(f"\0{file}\0{found.st_size}\0{found.st_mtime_ns}".encode())
    return digest.hexdigest()[:32]


def _is_complete(part: Path) -> bool:
    """Checks that a part begins and ends as it should; a damaged disk may truncate even a complete one."""
    try:
        with part.open("rb") as file:
            file.seek(-len(_END), os.SEEK_END)
            if file.read() != _END:
                return False
        with pa.memory_map(str(part)) as stored:
            return pa.ipc.open_stream(stored).schema == _SCHEMA
    except (OSError, pa.ArrowInvalid):
        return False


@contextlib.contextmanager
def _lock(place: Path, progress: bool) -> Iterator[None]:
    """Lets one process at a time build. The lock is released when its process ends."""
    lock = FileLock(place / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if progress:
            tqdm.write("Another process builds this pixel cache; waiting for it.")
        lock.acquire()
    try:
        for unfinished in place.glob("*.unfinished"):  # of a killed build
            unfinished.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def _build(
    parts: dict[Path, list[str]],
    settings: str,
    processor: MuraImageProcessor,
    workers: int | None,
    progress: bool,
    root: str,
) -> dict[str, str]:
    """Writes parts, except those with unreadable files. Returns path below `root` -> why it cannot be read."""
    total = sum(map(len, parts.values()))
    # Decoding, resizing and writing release the GIL, and a process takes longer to import torch than a thread to read
    # a thousand radiographs. There is one thread more than cores, since one of them usually waits for the disk.
    with (
        tqdm(total=total, desc="Building the pixel cache", unit="view", disable=not progress, leave=False) as bar,
        ThreadPoolExecutor((workers or os.cpu_count() or 1) + 1) as pool,
    ):
        jobs = {
            pool.submit(_write_part, path, files, settings, processor, root): files for path, files in parts.items()
        }
        problems: dict[str, str] = {}
        try:
            for job in as_completed(jobs):
                problems |= job.result()
                bar.update(len(jobs[job]))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return problems


def _write_part(
    part: Path, files: Sequence[str], settings: str, processor: MuraImageProcessor, root: str
) -> dict[str, str]:
    """Writes a part atomically if all its files can be read. Returns why others cannot, as `_build` does."""
    views, problems = [], {}
    for file in files:
        name = os.path.relpath(file, root)
        try:
            views.append(prepare_view(file, processor, name))
        except RadiographError as error:
            problems[name] = str(error)
    if problems:
        return problems
    if _digest(settings, files) != part.stem:
        raise DatasetError(f"files in {os.path.dirname(files[0])} changed while they were read; start again")
    rows = [{"plane": view.plane.tobytes(), "shape": view.shape} for view in views]
    unfinished = part.with_suffix(".unfinished")
    with unfinished.open("wb") as opened:
        with pa.ipc.new_stream(opened, _SCHEMA) as stream:
            stream.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA))
        opened.flush()
        os.fsync(opened.fileno())
    os.replace(unfinished, part)
    return {}
