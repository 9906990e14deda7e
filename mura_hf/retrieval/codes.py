"""Codes of views and of whole datasets: the vectors that retrieval and out-of-distribution detection compare."""

import hashlib
import io
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from ..common import require_extra
from ..errors import CheckpointError
from ..models import (
    MuraClassifier,
    MuraEnsembleForImageClassification,
    MuraForMetricLearning,
    MuraFuseNetForImageClassification,
    MuraImageClassifierOutput,
    MuraImageProcessor,
    MuraSpecializedForImageClassification,
)
from ..radiographs import read_levels

if TYPE_CHECKING:
    from datasets import Dataset

_THUMBNAIL_QUALITY = 60
_FIELDS_WITHOUT_EFFECT_ON_CODES = {
    "_name_or_path", "abnormal_means", "architectures", "auto_map", "bands", "custom_pipelines",
    "default_operating_point", "dtype", "finding_types", "has_ood_detector", "id2label", "label2id",
    "operating_points", "positive_class_description", "regions", "study_intercept", "study_pooling", "study_slope",
    "temperature", "trained_on_phantoms", "transformers_version",
}  # fmt: skip
"""Configuration fields that change predictions or nothing at all, but never a code."""
_LATER_FIELDS = {"map_pooling": "backbone"}
"""Fields that older indexes do not know. With this value, their codes are as before."""
_NOT_SETTINGS = {"auto_map", "image_processor_type", "processor_class", "_processor_class"}


def view_codes(model: MuraClassifier, output: MuraImageClassifierOutput) -> torch.Tensor:
    """Returns the code of each view from a forward pass that was already run.

    - One backbone: the pooled features.
    - FuseNet: the features of both branches, concatenated.
    - Metric learning: the embedding, which is what the loss compares.
    - Ensemble: the members' codes, each scaled by the square root of its weight and concatenated. The squared distance
      of two views is then the weighted mean of the members' squared distances. Members are sorted by name, as in a
      loaded checkpoint.
    - Specialised models: each body part has its own dimensions, and the others are zero, because codes of different
      members are not comparable.

    Args:
        model: The model.
        output: Output of `model.classify_views`, or `StudyOutput.views`.

    Returns:
        float32 `[B, D]` on the model's device, detached.

    Raises:
        CheckpointError: If the model has no pooled features.
    """
    return _codes(model, output).detach().float()


def _codes(model: Any, output: Any) -> torch.Tensor:
    if isinstance(model, MuraEnsembleForImageClassification):
        weights = {name: weight for name, weight in sorted(model.config.weights.items()) if weight > 0}
        members = [weight**0.5 * _codes(model.members[name], output.members[name]) for name, weight in weights.items()]
        return torch.cat(members, dim=1)
    if isinstance(model, MuraSpecializedForImageClassification):
        return _specialized_codes(model, output)
    embeddings = getattr(output, "embeddings", None)
    code = output.pooler_output if embeddings is None else embeddings
    if code is None:
        raise CheckpointError(
            f"a model of type {model.config.model_type!r} with {model.config.backbone or 'an unknown backbone'} has "
            "no pooled code, so its views cannot be compared; use a checkpoint of mura_hf, or one whose network has a "
            "feature map"
        )
    return code


def _specialized_codes(model: Any, output: Any) -> torch.Tensor:
    widths = {part: _code_width(member) for part, member in sorted(model.members.items())}
    found = {part: _codes(model.members[part], views) for part, views in output.members.items()}
    rows = {part: output.rows[part] for part in found}
    codes = next(iter(found.values())).new_zeros(sum(map(len, rows.values())), sum(widths.values()))
    start = 0
    for part, width in widths.items():
        if part in found:
            codes[rows[part], start : start + width] = found[part]
        start += width
    return codes


def _code_width(member: Any) -> int:
    if isinstance(member, MuraForMetricLearning):
        return member.config.embedding_size
    if isinstance(member, MuraFuseNetForImageClassification):
        return 2 * member.global_branch.mura.hidden_size
    return member.mura.hidden_size


def feature_means(output: MuraImageClassifierOutput) -> torch.Tensor:
    """Returns the spatial mean of the last feature maps, float32 `[B, D]`, whatever pooling the prediction uses.

    Max pooling keeps only the strongest positions of an image; the mean describes all of it. The branches of FuseNet
    and the members of an ensemble are concatenated. With `test_time_flip`, the means of both mirror images are
    averaged.

    Args:
        output: Output of `model.classify_views`, or `StudyOutput.views`.

    Raises:
        CheckpointError: If the model has no feature map, or routes views to models whose maps are not comparable.
    """
    if getattr(output, "rows", None) is not None:
        raise CheckpointError(
            "this checkpoint has one model per body part, whose feature maps are not comparable, so it cannot detect "
            "studies out of distribution"
        )
    members = getattr(output, "members", None)
    if members is not None:
        return torch.cat([feature_means(member) for _, member in sorted(members.items())], dim=1)
    if output.feature_map is None:
        raise CheckpointError("this checkpoint has no feature map, so it cannot detect studies out of distribution")

    def mean(maps: torch.Tensor) -> torch.Tensor:
        return maps.detach().float().mean((2, 3) if maps.ndim == 4 else 1)

    means = [mean(output.feature_map)]
    if output.mirrored_feature_map is not None:
        means[0] = torch.stack([means[0], mean(output.mirrored_feature_map)]).mean(0)
    local = getattr(output, "local_feature_map", None)
    return torch.cat(means if local is None else [*means, mean(local)], dim=1)


def encode_planes(
    planes: Sequence[np.ndarray], model: MuraClassifier, processor: Any, body_parts: Sequence[int | None]
) -> torch.Tensor:
    """Encodes gray images, uint8 `[H, W]` each, with one forward pass: float32 `[n, D]` on the CPU.

    Only models with one member per body part read `body_parts`, the index into `BODY_PARTS` of each image.
    """
    pixel_values = processor(images=list(planes), return_tensors="pt")["pixel_values"]
    options: dict[str, Any] = {}
    if model.NEEDS_PART:
        parts = [-1 if part is None else part for part in body_parts]
        options["body_parts"] = torch.tensor(parts, device=model.device)
    with torch.no_grad():
        output = model.classify_views(pixel_values.to(model.device, model.dtype), **options)
    return view_codes(model, output).cpu()


def digest_encoder(model: MuraClassifier, processor: Any) -> str:
    """Returns the SHA-256 of everything that determines a code: weights, configuration and processor settings.

    Weights are rounded to bfloat16 first, so that a model loaded in bfloat16 has the same digest. Calibration,
    operating points and the region head are ignored. Takes about 0.1 s for 15 million weights.
    """
    settings = getattr(processor, "processor", processor).to_dict()
    if isinstance(processor, MuraImageProcessor):
        settings["crop_border"] = False  # a setting of former versions, which digests of indexes contain
    fields = model.config.to_diff_dict().items()
    known = {
        "config": {
            name: value
            for name, value in fields
            if name not in _FIELDS_WITHOUT_EFFECT_ON_CODES and (name, value) not in _LATER_FIELDS.items()
        },
        "processor": {name: value for name, value in settings.items() if name not in _NOT_SETTINGS},
    }
    digest = hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode())
    for name, values in sorted(model.state_dict().items()):
        if "region_classifier." in name:  # may be fitted later, and no code depends on it
            continue
        digest.update(f"\0{name}\0{list(values.shape)}\0".encode())
        kept = values.detach().cpu().to(torch.bfloat16) if values.is_floating_point() else values.detach().cpu()
        digest.update(kept.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def encode_rows(
    rows: "Dataset",
    model: MuraClassifier,
    processor: Any,
    *,
    batch_size: int = 32,
    thumbnail_side: int | None = None,
    progress: bool = True,
) -> tuple[torch.Tensor, list[bytes] | None]:
    """Encodes every view of a dataset split, see `RetrievalIndex.build`.

    Returns:
        Codes, float32 `[N, D]`, and the thumbnails as WebP files if `thumbnail_side` is given.

    Raises:
        RadiographError: If a file cannot be read. The message names it.
        CheckpointError: If the model has no pooled features.
    """
    require_extra("train", "datasets")
    from datasets import Image as ImageFeature

    files = rows.cast_column("image", ImageFeature(decode=False))
    codes: list[torch.Tensor] = []
    thumbnails: list[bytes] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        starts = range(0, len(files), batch_size)
        for start in tqdm(starts, desc="Encoding views", unit="batch", disable=not progress):
            batch = files[start : start + batch_size]
            planes = list(pool.map(read_plane, batch["image"]))
            codes.append(encode_planes(planes, model, processor, batch["body_part"]))
            if thumbnail_side is not None:
                thumbnails += pool.map(partial(make_thumbnail, side=thumbnail_side), planes)
    return torch.cat(codes), None if thumbnail_side is None else thumbnails


def read_plane(image: dict[str, Any]) -> np.ndarray:
    """Reads an image of a dataset, a dict of `path` and `bytes`, as `StudyPredictor` does: uint8 `[H, W]`."""
    path, content = image["path"], image["bytes"]
    return read_levels(path) if content is None else read_levels(content, name=path)


def make_thumbnail(plane: np.ndarray, side: int) -> bytes:
    """Returns a WebP file of a grayscale image uint8 `[H, W]`, scaled so that its longer side is at most `side`."""
    picture = Image.fromarray(plane)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=_THUMBNAIL_QUALITY, method=6)
    return stream.getvalue()
