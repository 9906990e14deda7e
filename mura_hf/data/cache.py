"""The pixel cache: prepared views in memory-mapped Arrow files, so that later epochs and runs decode no file.

`datasets` writes a cache into a folder that it renames when it is complete, and lets one process at a time build it.
The name of the folder is a digest of everything that the pixels depend on: paths, sizes and modification times of the
files, settings of the processor, and versions of the libraries that decode and resize. So a changed file or setting
leads to a new cache.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import (
    Dataset,
    Features,
    List,
    Value,
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)
from datasets.exceptions import DatasetGenerationError
from filelock import FileLock
from tqdm.auto import tqdm

from ..common import home_folder
from ..errors import DatasetError, MuraError, RadiographError
from ..models.image_processing_mura import MuraImageProcessor
from .verification import common_folder, unreadable_error
from .views import PreparedView, prepare_view

_FORMAT = 2  # increase it when the stored content or the reading of files changes
_ROWS = 256  # written at once
_DECODERS = ("pillow", "numpy", "opencv-python-headless", "pydicom", "imagecodecs")
# Settings that apply after the cache, or are not settings.
_LATER = {
    "crop_size", "do_center_crop", "do_normalize", "do_rescale", "image_mean", "image_processor_type", "image_std",
    "rescale_factor",
}  # fmt: skip
_FEATURES = Features({"plane": Value("binary"), "shape": List(Value("int32"), length=2)})


class PixelCache(Mapping[str, PreparedView]):
    """Absolute path -> prepared view, whose plane is read-only. Can be pickled; other processes map the same files.

    Args:
        files: Paths in the order of `build_pixel_cache`.
        rows: Their prepared views.
        size: Height and width of the planes.
    """

    def __init__(self, files: Sequence[str], rows: Dataset | None, size: tuple[int, int]) -> None:
        self._rows_of = {file: row for row, file in enumerate(files)}
        self._rows = None if rows is None else rows.with_format("arrow")
        self._size = size

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
    """Opens the cache of files, or builds it.

    Several processes may call this at the same time: one builds, the others wait. A damaged cache is built again.

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
    size = (processor.size.height, processor.size.width)
    if not files:
        return PixelCache(files, None, size)
    digest = _digest(files, processor)

    def read() -> Iterator[dict[str, Any]]:
        yield from _read(files, processor, workers, progress)
        if _digest(files, processor) != digest:
            raise DatasetError(f"files in {common_folder(files)} changed while they were read; start again")

    def build() -> Dataset:
        rows = Dataset.from_generator(
            read, features=_FEATURES, cache_dir=str(root), fingerprint=digest, writer_batch_size=_ROWS
        )
        if len(rows) != len(files):
            raise OSError(f"it holds {len(rows)} of {len(files)} views")
        return rows

    root = Path(folder) if folder is not None else home_folder() / "pixels"
    were_hidden = are_progress_bars_disabled()
    disable_progress_bars()  # of datasets, which does not know the number of files
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f"{digest}.lock"):  # else two processes might remove a damaged cache
            try:
                rows = build()
            except Exception:  # damaged files end in errors of any kind
                places = [place for place in root.glob(f"*/*{digest}/*") if place.is_dir()]
                damaged = [place for place in places if place.suffix != ".incomplete"]
                if not damaged:
                    raise
                for place in damaged:
                    shutil.rmtree(place)
                rows = build()
    except (DatasetGenerationError, OSError, pa.ArrowInvalid) as error:
        cause = error.__cause__ if isinstance(error, DatasetGenerationError) else error
        if isinstance(cause, MuraError):
            raise cause from None
        problem = getattr(cause, "strerror", None) or cause
        raise DatasetError(
            f"the pixel cache in {root} cannot be written or read ({problem}); remove it, choose another folder, or "
            "run without a cache"
        ) from error
    finally:
        if not were_hidden:
            enable_progress_bars()
    return PixelCache(files, rows, size)


def _digest(files: Sequence[str], processor: MuraImageProcessor) -> str:
    """Digest of everything that the prepared views depend on."""
    settings = {name: value for name, value in processor.to_dict().items() if name not in _LATER}
    versions = {name: version(name) for name in _DECODERS}
    digest = hashlib.sha256(json.dumps([settings, versions, _FORMAT], sort_keys=True, default=str).encode())
    for file in files:
        try:
            found = os.stat(file)
        except OSError:  # reading it will say why
            digest.update(f"\0{file}\0missing".encode())
            continue
        digest.update(f"\0{file}\0{found.st_size}\0{found.st_mtime_ns}".encode())
    return digest.hexdigest()[:32]


def _read(
    files: Sequence[str], processor: MuraImageProcessor, workers: int | None, progress: bool
) -> Iterator[dict[str, Any]]:
    """Rows of the prepared views of files; raises `RadiographError` at the end if some cannot be read."""
    root, problems = common_folder(files), {}

    def prepare(file: str) -> PreparedView | RadiographError:
        try:
            return prepare_view(file, processor, os.path.relpath(file, root))
        except RadiographError as error:
            return error

    # Decoding and resizing release the GIL, and a process takes longer to import torch than a thread to read a
    # thousand radiographs. There is one thread more than cores, since one of them usually waits for the disk.
    pool = ThreadPoolExecutor((workers or os.cpu_count() or 1) + 1)
    try:
        views = tqdm(
            pool.map(prepare, files), total=len(files), desc="Building the pixel cache", unit="view",
            disable=not progress, leave=False,
        )  # fmt: skip
        for file, view in zip(files, views, strict=True):
            if isinstance(view, RadiographError):
                problems[os.path.relpath(file, root)] = str(view)
            elif not problems:
                yield {"plane": view.plane.tobytes(), "shape": view.shape}
    finally:
        pool.shutdown(cancel_futures=True)
    if problems:
        raise unreadable_error(problems, len(files), root)
