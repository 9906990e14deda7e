"""Someone else's two-class classifier as one of ours: it answers for views and studies, and can be explained."""

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn

from ..errors import CheckpointError
from ..models import Explained, MuraBaseConfig, MuraClassifier, MuraImageClassifierOutput
from ..models.map_layer_mura import MapLayer, find_map_layer

_NOT_LAID_OUT = {"hiera", "perceiver", "perceiver_learned", "imagegpt"}
"""Model types whose tokens do not lie row by row, though their number may look so."""


@strict
class OtherConfig(MuraBaseConfig):
    r"""
    What answers need to know about someone else's checkpoint: nothing is calibrated, and views are averaged.

    Args:
        backbone (`str`, *optional*, defaults to `""`):
            The kind of network.
        study_pooling (`str`, *optional*, defaults to `"mean"`):
            Always `"mean"` of the views' probabilities.
    """

    model_type = "other"

    backbone: str = ""
    study_pooling: str = "mean"


class OtherClassifier(MuraClassifier):
    """A two-class image classifier of transformers.

    Args:
        model: It.
        config: Ours.
        abnormal: Which of its outputs means abnormal.
    """

    config: OtherConfig
    config_class = OtherConfig

    def __init__(self, model: nn.Module, config: OtherConfig, abnormal: int) -> None:
        super().__init__(config)
        self.model: Any = model
        self.order = [1 - abnormal, abnormal]
        self._layer: MapLayer | None = None
        self._why_none = f"a network of type {config.backbone} has not been looked into"

    def find_layer(self, shape: tuple[int, int, int]) -> None:
        """Finds the layer that heatmaps are read from, with pictures of noise.

        Args:
            shape: Channels, height and width of what the model is fed.
        """
        self._layer = None
        self._why_none = (
            f"a network of type {self.config.backbone} has no layer whose places are those of the picture and decide "
            "the answer"
        )
        if self.model.config.model_type not in _NOT_LAID_OUT:
            self._layer = find_map_layer(self.model, lambda pixels: _difference(self._logits(pixels)), shape)

    def classify_views(
        self, pixel_values: torch.Tensor, explainable: bool = False, **given: Any
    ) -> MuraImageClassifierOutput:
        """Logits of views `[B, C, H, W]`, without a loss; with the graph from the explained layer on, where asked."""
        if self._layer is None:
            return MuraImageClassifierOutput(logits=self._logits(pixel_values))
        with self._layer.cut() if explainable else self._layer.watch() as held:
            logits = self._logits(pixel_values)
        seen = self._layer.grid.to_map(held[-1].detach())
        return MuraImageClassifierOutput(
            logits=logits,
            feature_map=seen,
            pooler_output=seen.mean((2, 3)),
            layer_outputs=(held[-1],) if explainable else None,
        )

    def explain(self, output: MuraImageClassifierOutput) -> list[Explained]:
        """The one layer.

        Raises:
            CheckpointError: If there is no such layer, or the output was not asked for with `explainable`.
        """
        if self._layer is None:
            raise CheckpointError(f"{self._why_none}; the method occlusion needs none")
        if output.layer_outputs is None:
            raise CheckpointError("this output was not asked for with explainable=True, so nothing explains it")
        return [self._layer.explain(output.logits, output.layer_outputs)]

    def _logits(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Logits `[B, 2]` for normal and abnormal."""
        return self.model(pixel_values=pixel_values).logits[:, self.order]


def _difference(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, 1] - logits[:, 0]
