"""Heatmaps of a study's views, at their own size."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from ..explain import Heatmaps, explain
from ..models import BODY_PARTS, MuraClassifier, MuraImageProcessor, StudyOutput
from ..radiographs import Radiograph
from .other_processor import OtherProcessor


def find_heatmaps(
    model: MuraClassifier, output: StudyOutput, pixel_values: torch.Tensor, body_part: str | None, method: str
) -> Heatmaps:
    """Heatmaps of what a model was fed, as fine as that: the grid of a feature map would blur what FuseNet saw in its
    crop.

    Args:
        model: That answered.
        output: For the one study, asked for with `explainable`.
        pixel_values: float `[V, C, H, W]`, its views.
        body_part: Where it was given.
        method: One of `METHODS`, or "auto".

    Raises:
        CheckpointError: If the model has nothing that the method could read.
    """
    parts = None
    if model.NEEDS_PART:
        routed = output.body_part_logits
        part = BODY_PARTS.index(body_part) if body_part is not None or routed is None else int(routed[0].argmax())
        parts = torch.full((len(pixel_values),), part, device=model.device)
    fed = pixel_values.to(model.device, model.dtype)
    return explain(model, fed, output=output.views, method=method, body_parts=parts)


def restore_heatmaps(
    maps: torch.Tensor, radiographs: Sequence[Radiograph], processor: MuraImageProcessor | OtherProcessor
) -> Iterator[np.ndarray]:
    """Heatmaps of what a model was fed, laid over the views: float32 `[H, W]` in [0, 1] at each view's own size.

    Args:
        maps: float32 `[V, h, w]` in [0, 1].
        radiographs: The views.
        processor: What prepared them.

    Raises:
        CheckpointError: If it cannot be told which part of a picture the model was fed.
    """
    for small, radiograph in zip(maps.cpu().numpy(), radiographs, strict=True):
        field = processor.find_field(radiograph.to_uint8())
        height, width = radiograph.pixels.shape
        restored = np.clip(processor.restore_map(small, height, width, field), 0.0, 1.0)
        # Hottest where the view itself is; what fell on the letterbox's bars does not count.
        peak = float(restored.max())
        yield restored / peak if peak > 0 else restored
