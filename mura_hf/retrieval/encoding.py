"""Codes and thumbnails of a whole dataset. They are computed in parts, so that a killed build can be resumed.

The file name of a part is a digest of everything it depends on: the encoder, the image files with their sizes and
modification times, and the thumbnail size. Parts are written atomically.
"""

import hashlib
import io
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from tqdm.auto import tqdm

from ..common import replace_file, require_extra
from ..errors import DatasetError
from ..models import MuraClassifier
from ..radiographs import read_levels
from .codes import digest_encoder, encode_planes

if TYPE_CHECKING:
    from datasets import Dataset

_PART_SIZE = 512  # views
_THUMBNAIL_QUALITY = 60


def encode_rows(
    rows: "Dataset",
    model: MuraClassifier,
    processor: Any,
    *,
    batch_size: int = 32,
    thumbnail_side: int | None = None,
    parts_dir: Path | None = None,
    progress: bool = True,
) -> tuple[torch.Tensor, list[bytes] | None]:
    """Encodes every view of a dataset split, see `RetrievalIndex.build`.

    Returns:
        Codes, float32 `[N, D]`, and the thumbnails as WebP files if `thumbnail_side` is given.

    Raises:
        RadiographError: If a file cannot be read. The message names it.
        DatasetError: If a file is missing, or a part cannot be written.
        CheckpointError: If the model has no pooled features.
    """
    require_extra("train", "datasets")
    from datasets import Image as ImageFeature

    files = rows.cast_column("image", ImageFeature(decode=False))
    encoder = digest_encoder(model, processor)
    codes: list[torch.Tensor] = []
    thumbnails: list[bytes] = []
    with (
        tqdm(total=len(rows), desc="Building the index", unit="view", disable=not progress) as bar,
        ThreadPoolExecutor(os.cpu_count() or 1) as pool,
    ):
        for start in range(0, len(rows), _PART_SIZE):
            part = files.select(range(start, min(start + _PART_SIZE, len(rows))))
            file = None
            if parts_dir is not None:
                file = parts_dir / f"{_digest_part(encoder, part, thumbnail_side)}.safetensors"
            tensors = None
            with suppress(SafetensorError, OSError):  # a missing or damaged part is computed again
                tensors = None if file is None else load_file(file)
            if tensors is None:
                tensors = _encode_part(part, model, processor, batch_size, thumbnail_side, pool)
                if file is not None:
                    _write_part(file, tensors)
            codes.append(tensors["codes"])
            if thumbnail_side is not None:
                stream = io.BytesIO(tensors["pictures"].numpy().tobytes())
                thumbnails += [stream.read(length) for length in tensors["lengths"].tolist()]
            bar.update(len(part))
    return torch.cat(codes), None if thumbnail_side is None else thumbnails


def make_thumbnail(plane: np.ndarray, side: int) -> bytes:
    """Returns a WebP file of a grayscale image uint8 `[H, W]`, scaled so that its longer side is at most `side`."""
    picture = Image.fromarray(plane)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=_THUMBNAIL_QUALITY, method=6)
    return stream.getvalue()


def _encode_part(
    part: "Dataset",
    model: MuraClassifier,
    processor: Any,
    batch_size: int,
    thumbnail_side: int | None,
    pool: ThreadPoolExecutor,
) -> dict[str, torch.Tensor]:
    codes: list[torch.Tensor] = []
    pictures: list[bytes] = []
    for start in range(0, len(part), batch_size):
        batch = part[start : start + batch_size]
        planes = list(pool.map(_read_plane, batch["image"]))
        codes.append(encode_planes(planes, model, processor, batch["body_part"]))
        if thumbnail_side is not None:
            pictures += pool.map(partial(make_thumbnail, side=thumbnail_side), planes)
    tensors = {"codes": torch.cat(codes)}
    if thumbnail_side is not None:
        tensors["pictures"] = torch.from_numpy(np.frombuffer(b"".join(pictures), np.uint8).copy())
        tensors["lengths"] = torch.tensor([len(picture) for picture in pictures])
    return tensors


def _read_plane(image: dict[str, Any]) -> np.ndarray:
    """Reads a view as `StudyPredictor` does: gray levels, uint8 `[H, W]`."""
    path, content = image["path"], image["bytes"]
    return read_levels(path) if content is None else read_levels(content, name=path)


def _digest_part(encoder: str, part: "Dataset", thumbnail_side: int | None) -> str:
    digest = hashlib.sha256(f"{encoder}\0{thumbnail_side}\0{part['body_part']!r}".encode())
    for image in part["image"]:
        path, content = image["path"], image["bytes"]
        if content is not None:
            digest.update(hashlib.sha256(content).digest())
            continue
        try:
            status = os.stat(path)
        except OSError as error:
            raise DatasetError(f"{path} cannot be read ({error.strerror}); load the dataset again") from error
        digest.update(f"\0{os.path.abspath(path)}\0{status.st_size}\0{status.st_mtime_ns}".encode())
    return digest.hexdigest()[:32]


def _write_part(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, save(tensors))
    except OSError as error:
        raise DatasetError(
            f"the index cannot be built in {file.parent} ({error.strerror or error}); free some space and start "
            "again: finished parts are kept"
        ) from error
