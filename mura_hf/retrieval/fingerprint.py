"""Which model an index belongs to: codes of other weights, or of pictures prepared otherwise, do not compare."""

import hashlib
import json
from typing import Any

import torch

from ..models import MuraClassifier

_NO_CODE = {
    "_name_or_path", "abnormal_means", "architectures", "auto_map", "custom_pipelines", "dtype", "finding_types",
    "id2label", "label2id", "operating_points", "study_intercept", "study_pooling", "study_slope", "temperature",
    "trained_on_phantoms", "transformers_version",
}  # fmt: skip
"""Of configuration and processor: what acts on answers, or says nothing."""
_NO_SETTING = {"auto_map", "image_processor_type", "processor_class", "_processor_class"}


def digest_coder(model: MuraClassifier, processor: Any) -> str:
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
