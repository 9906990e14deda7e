"""The codes of a dataset's views, made part by part, so that a killed build goes on where it was.

A part's name is a digest of all that it depends on: model and processor, its files with their sizes and times, and the
side of its thumbnails. It is written under another name, flushed and renamed; what has its name is whole.
"""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from tqdm.auto import tqdm

from ..errors import DatasetError
from ..files import replace_file
from ..models import MuraClassifier
from ..radiographs import read_levels
from .codes import view_codes
from .fingerprint import digest_coder
from .rows import make_thumbnail

if TYPE_CHECKING:
    from datasets import Dataset

_PART = 512  # views of a part
_UNKNOWN_PART = -1


def encode_planes(
    planes: Sequence[np.ndarray], model: MuraClassifier, processor: Any, body_parts: Sequence[int | None]
) -> torch.Tensor:
    """Codes of gray planes, by one forward pass.

    Args:
        planes: uint8 `[H, W]` each.
        model: In evaluation mode.
        processor: Its image processor.
        body_parts: Indices into `BODY_PARTS`, None where not known; only read by models that need to be told.

    Returns:
        float32 `[n, D]`, on the CPU.
    """
    pixel_values = processor(images=list(planes), return_tensors="pt")["pixel_values"]
    given: dict[str, Any] = {}
    if model.NEEDS_PART:
        parts = [_UNKNOWN_PART if part is None else part for part in body_parts]
        given["body_parts"] = torch.tensor(parts, device=model.device)
    with torch.no_grad():
        output = model.classify_views(pixel_values.to(model.device, model.dtype), **given)
    return view_codes(model, output).cpu()


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
    """Codes of every view of a split, and thumbnails where asked for.

    Args:
        rows: Of one of the package's loaders.
        model: In evaluation mode, on its device.
        processor: Its image processor.
        batch_size: Views a step.
        thumbnail_side: Longer side of thumbnails in pixels; none where None.
        parts_dir: Where finished parts are kept, and found by the next call; nowhere where None.
        progress: Whether to show a progress bar.

    Returns:
        Codes float32 `[N, D]`, and the thumbnails.

    Raises:
        RadiographError: If a file cannot be read; the message names it.
        DatasetError: If a file is not there, or a part cannot be written.
        CheckpointError: If the model has no pooled code.
    """
    from datasets import Image  # takes a second, and who only searches does not need it

    files = rows.cast_column("image", Image(decode=False))
    coder = digest_coder(model, processor)
    made: list[dict[str, torch.Tensor]] = []
    with (
        tqdm(total=len(rows), desc="Building the index", unit="view", disable=not progress) as bar,
        ThreadPoolExecutor(os.cpu_count() or 1) as pool,
    ):
        for start in range(0, len(rows), _PART):
            part = files.select(range(start, min(start + _PART, len(rows))))
            file = None if parts_dir is None else parts_dir / f"{_digest(coder, part, thumbnail_side)}.safetensors"
            found = None if file is None else _read(file)
            if found is None:
                found = _encode(part, model, processor, batch_size, thumbnail_side, pool)
                if file is not None:
                    _write(file, found)
            made.append(found)
            bar.update(len(part))
    codes = torch.cat([part["codes"] for part in made])
    if thumbnail_side is None:
        return codes, None
    return codes, [picture for part in made for picture in _cut(part["pictures"], part["lengths"])]


def _encode(
    part: "Dataset",
    model: MuraClassifier,
    processor: Any,
    batch_size: int,
    side: int | None,
    pool: ThreadPoolExecutor,
) -> dict[str, torch.Tensor]:
    codes: list[torch.Tensor] = []
    pictures: list[bytes] = []
    for start in range(0, len(part), batch_size):
        batch = part[start : start + batch_size]
        planes = list(pool.map(_read_plane, batch["image"]))
        codes.append(encode_planes(planes, model, processor, batch["body_part"]))
        if side is not None:
            pictures += pool.map(partial(make_thumbnail, side=side), planes)
    found = {"codes": torch.cat(codes)}
    if side is not None:
        found["pictures"] = torch.from_numpy(np.frombuffer(b"".join(pictures), np.uint8).copy())
        found["lengths"] = torch.tensor([len(picture) for picture in pictures])
    return found


def _read_plane(picture: dict[str, Any]) -> np.ndarray:
    """A view as gray levels uint8 `[H, W]`, read as `StudyPredictor` reads it."""
    path, content = picture["path"], picture["bytes"]
    return read_levels(path) if content is None else read_levels(content, name=path)


def _cut(pictures: torch.Tensor, lengths: torch.Tensor) -> list[bytes]:
    ends = np.cumsum(lengths.numpy())
    content = pictures.numpy().tobytes()
    return [content[end - length : end] for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)]


def _digest(coder: str, part: "Dataset", side: int | None) -> str:
    digest = hashlib.sha256(f"{coder}\0{side}\0{part['body_part']!r}".encode())
    for picture in part["image"]:
        path, content = picture["path"], picture["bytes"]
        if content is not None:
            digest.update(hashlib.sha256(content).digest())
            continue
        try:
            found = os.stat(path)
        except OSError as error:
            raise DatasetError(f"{path} cannot be read ({error.strerror}); load the dataset again") from error
        digest.update(f"\0{os.path.abspath(path)}\0{found.st_size}\0{found.st_mtime_ns}".encode())
    return digest.hexdigest()[:32]


def _read(file: Path) -> dict[str, torch.Tensor] | None:
    """A part that was made before; None where there is none, or the disk damaged it."""
    try:
        return load_file(file) if file.is_file() else None
    except (SafetensorError, OSError):
        return None


def _write(file: Path, part: dict[str, torch.Tensor]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, save(part))
    except OSError as error:
        raise DatasetError(
            f"the index cannot be built in {file.parent} ({error.strerror or error}); make room there, and start "
            "again: what was finished is kept"
        ) from error
