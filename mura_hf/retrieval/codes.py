"""Codes of views: the vectors that retrieval and out-of-distribution detection compare."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..errors import CheckpointError
from ..models import (
    MuraClassifier,
    MuraEnsembleForImageClassification,
    MuraForMetricLearning,
    MuraFuseNetForImageClassification,
    MuraImageClassifierOutput,
    MuraSpecializedForImageClassification,
)

_NOT_IN_CODES = {
    "_name_or_path", "abnormal_means", "architectures", "auto_map", "custom_pipelines", "dtype", "finding_types",
    "has_ood_detector", "id2label", "label2id", "operating_points", "positive_class_description", "study_intercept",
    "study_pooling", "study_slope", "temperature", "trained_on_phantoms", "transformers_version",
}  # fmt: skip
"""Configuration fields that change predictions or nothing at all, but never a code."""
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

    Weights are rounded to bfloat16 first, so that a model loaded in bfloat16 has the same digest. Calibration and
    operating points are ignored. Takes about 0.1 s for 15 million weights.
    """
    settings = getattr(processor, "processor", processor).to_dict()
    known = {
        "config": {name: value for name, value in model.config.to_diff_dict().items() if name not in _NOT_IN_CODES},
        "processor": {name: value for name, value in settings.items() if name not in _NOT_SETTINGS},
    }
    digest = hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode())
    for name, values in sorted(model.state_dict().items()):
        digest.update(f"\0{name}\0{list(values.shape)}\0".encode())
        kept = values.detach().cpu().to(torch.bfloat16) if values.is_floating_point() else values.detach().cpu()
        digest.update(kept.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
