"""What an index knows of each of its views, beside the code.

Which model an index belongs to: codes of other weights, or of pictures prepared otherwise, do not compare.
One code for each view, whatever the family of the model: what retrieval compares.
The codes of a dataset's views, made part by part, so that a killed build goes on where it was.

A part's name is a digest of all that it depends on: model and processor, its files with their sizes and times, and the
side of its thumbnails. It is written under another name, flushed and renamed; what has its name is whole.
"""

import hashlib
import io
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from tqdm.auto import tqdm

from ..common import replace_file
from ..errors import CheckpointError, DatasetError
from ..models import (
    BODY_PARTS,
    LABELS,
    MuraClassifier,
    MuraEnsembleForImageClassification,
    MuraForMetricLearning,
    MuraFuseNetForImageClassification,
    MuraImageClassifierOutput,
    MuraSpecializedForImageClassification,
)
from ..radiographs import read_levels

if TYPE_CHECKING:
    from datasets import Dataset

SCHEMA = pa.schema(
    [
        ("study_id", pa.string()),
        ("patient_id", pa.string()),
        ("view", pa.int32()),
        ("label", pa.string()),
        ("body_part", pa.string()),
        ("finding", pa.string()),
        ("thumbnail", pa.binary()),
    ]
)
"""Columns of an index: the dataset's own words; `thumbnail` is a WebP picture. What is not known is null."""

_QUALITY = 60  # of thumbnails


@dataclass(frozen=True)
class Neighbour:
    """A study of an index that looks like another.

    Attributes:
        study_id: Its name in the dataset.
        patient_id: Its patient's.
        view: Number of its view that comes nearest.
        label: "normal" or "abnormal", as the dataset has it.
        body_part: One of the seven, or None.
        finding: Kind of finding where the dataset tells; None where there is none, or it is not known.
        distance: Euclidean, or 1 - cosine, of that view's code from the nearest one of what was searched for.
        nearest_to: Place of that one among the views that were searched for.
        row: Of the view in the index.
        thumbnail: A small WebP picture of the view, where the index has one.
    """

    study_id: str
    patient_id: str
    view: int
    label: str
    body_part: str | None
    finding: str | None
    distance: float
    nearest_to: int
    row: int
    thumbnail: bytes | None = None


def describe_rows(rows: "Dataset") -> pa.Table:
    """The columns of `SCHEMA` but thumbnails, of rows that one of the package's loaders gave."""
    findings = rows["finding"] if "finding" in rows.column_names else [None] * len(rows)
    columns: dict[str, Sequence[Any]] = {
        "study_id": rows["study_id"],
        "patient_id": rows["patient_id"],
        "view": rows["view"],
        "label": [LABELS[label] for label in rows["label"]],
        "body_part": [None if part is None else BODY_PARTS[part] for part in rows["body_part"]],
        "finding": [finding or None for finding in findings],
        "thumbnail": [None] * len(rows),
    }
    return pa.Table.from_pydict({name: list(values) for name, values in columns.items()}, schema=SCHEMA)


def make_thumbnail(plane: np.ndarray, side: int) -> bytes:
    """A small WebP picture of a gray plane uint8 `[H, W]`, its longer side `side` pixels at most."""
    picture = Image.fromarray(plane)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=_QUALITY, method=6)
    return stream.getvalue()


_NO_CODE = {
    "_name_or_path", "abnormal_means", "architectures", "auto_map", "custom_pipelines", "dtype", "finding_types",
    "id2label", "label2id", "operating_points", "positive_class_description", "study_intercept", "study_pooling",
    "study_slope", "temperature", "trained_on_phantoms", "transformers_version",
}  # fmt: skip
"""Of configuration and processor: what acts on answers, or says nothing."""
_NO_SETTING = {"auto_map", "image_processor_type", "processor_class", "_processor_class"}


def digest_encoder(model: MuraClassifier, processor: Any) -> str:
    """SHA-256 of all that shapes a view's code: weights, configuration and the processor's settings.

    Weights are rounded to bfloat16 first, so that a model that was loaded so is known too; calibration and operating
    points do not count. Takes about a tenth of a second for 15 million weights.

    Args:
        model: The model.
        processor: Its image processor, one of ours or someone else's.
    """
    settings = getattr(processor, "processor", processor).to_dict()
    known = {
        "config": {name: value for name, value in model.config.to_diff_dict().items() if name not in _NO_CODE},
        "processor": {name: value for name, value in settings.items() if name not in _NO_SETTING},
    }
    digest = hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode())
    for name, values in sorted(model.state_dict().items()):
        digest.update(f"\0{name}\0{list(values.shape)}\0".encode())
        kept = values.detach().cpu().to(torch.bfloat16) if values.is_floating_point() else values.detach().cpu()
        digest.update(kept.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def view_codes(model: MuraClassifier, output: MuraImageClassifierOutput) -> torch.Tensor:
    """The codes of views, from the forward pass that answered for them.

    A model with one backbone gives its pooled code, FuseNet both branches' one behind the other, and a metric-learning
    model its embedding, which is what its loss compared. An ensemble's code holds its members', each scaled by the
    root of its weight: the squared distance of two views is then the weighted mean of the members'. Of a specialised
    model every part has places of its own, with zeros in those of the others, since two members' codes do not compare:
    any two views of different parts are as far apart as their codes are long together.

    Args:
        model: The model.
        output: Of its `classify_views`; of a study, `StudyOutput.views`.

    Returns:
        float32 `[B, D]`, on the model's device, without a graph.

    Raises:
        CheckpointError: If the model has no pooled code.
    """
    return _codes(model, output).detach().float()


def _codes(model: Any, output: Any) -> torch.Tensor:
    if isinstance(model, MuraEnsembleForImageClassification):
        shares = {name: share for name, share in model.config.weights.items() if share > 0}
        members = [share**0.5 * _codes(model.members[name], output.members[name]) for name, share in shares.items()]
        return torch.cat(members, dim=1)
    if isinstance(model, MuraSpecializedForImageClassification):
        return _codes_by_part(model, output)
    embeddings = getattr(output, "embeddings", None)
    code = output.pooler_output if embeddings is None else embeddings
    if code is None:
        raise CheckpointError(
            f"a model of type {model.config.model_type!r} with {model.config.backbone or 'an unknown backbone'} gives "
            "no pooled code, so that its views cannot be compared; use a checkpoint of mura_hf, or one whose network "
            "has a feature map"
        )
    return code


def _codes_by_part(model: Any, output: Any) -> torch.Tensor:
    """Each part's codes at places of its own, `[B, sum of the members' widths]`."""
    widths = {part: _width(member) for part, member in model.members.items()}
    found = {part: _codes(model.members[part], one) for part, one in output.members.items()}
    rows = {part: output.rows[part] for part in found}
    codes = next(iter(found.values())).new_zeros(sum(map(len, rows.values())), sum(widths.values()))
    start = 0
    for part, width in widths.items():
        if part in found:
            codes[rows[part], start : start + width] = found[part]
        start += width
    return codes


def _width(member: Any) -> int:
    """How many numbers the code of a member has."""
    if isinstance(member, MuraForMetricLearning):
        return member.config.embedding_size
    if isinstance(member, MuraFuseNetForImageClassification):
        return 2 * member.global_branch.mura.hidden_size
    return member.mura.hidden_size


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
    coder = digest_encoder(model, processor)
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
