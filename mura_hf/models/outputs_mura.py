"""What the models give back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from transformers.modeling_outputs import ModelOutput


@dataclass
class MuraModelOutput(ModelOutput):
    """Output of `MuraModel`.

    Attributes:
        last_hidden_state: The feature map `[B, D, h, w]` that is pooled (`[B, N, D]` tokens for networks without one).
        pooler_output: The pooled code `[B, D']`.
    """

    last_hidden_state: torch.Tensor = None  # type: ignore[assignment]
    pooler_output: torch.Tensor = None  # type: ignore[assignment]


@dataclass
class MuraImageClassifierOutput(ModelOutput):
    """Output of every model that classifies, for views.

    Attributes:
        loss: Scalar, where labels were given.
        logits: `[B, 2]` for normal and abnormal, divided by the temperature.
        body_part_logits: `[B, 7]`, where the checkpoint has that head.
        finding_logits: `[B, F]`, types of finding given that there is one, where the checkpoint has that head.
        feature_map: As `MuraModelOutput.last_hidden_state`; None where several backbones are at work.
        pooler_output: The pooled code `[B, D']`; None likewise.
        mirrored_feature_map: Of the views' mirror images, mirrored back, where the config has `test_time_flip`. Then
            the other fields but `feature_map` are means over both.
        layer_outputs: Of networks on tokens, where the answer is to be explained: what the layer gave that heatmaps
            are read from, and for mirror images after that; leaves of the graph of `logits`.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor = None  # type: ignore[assignment]
    body_part_logits: torch.Tensor | None = None
    finding_logits: torch.Tensor | None = None
    feature_map: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    mirrored_feature_map: torch.Tensor | None = None
    layer_outputs: tuple[torch.Tensor, ...] | None = None

    def mean_with(self, mirrored: Any) -> Any:
        """The mean of this output and of that for the views' mirror images; what has places stays apart."""
        apart = ("feature_map", "mirrored_feature_map", "layer_outputs")
        graph = self.layer_outputs is not None  # which must not end here
        with (
            torch.inference_mode(torch.is_inference_mode_enabled() and not graph),
            torch.set_grad_enabled(torch.is_grad_enabled() or graph),
        ):
            means = {name: (value + mirrored[name]) / 2 for name, value in self.items() if name not in apart}
        other = mirrored.feature_map
        back = other.flip(-1) if other is not None and other.ndim == 4 else None  # tokens have no left and right
        return type(self)(
            **means,
            feature_map=self.feature_map,
            mirrored_feature_map=back,
            layer_outputs=self.layer_outputs and self.layer_outputs + mirrored.layer_outputs,
        )


@dataclass
class StudyOutput(ModelOutput):
    """Output of every model that classifies, for studies; padded views hold zeros.

    Attributes:
        loss: Scalar, where labels were given.
        study_logits: `[B, 2]`, log-probabilities of normal and abnormal after study calibration.
        pooled_logit: `[B]`, log-odds of abnormal before study calibration.
        view_logits: `[B, V, 2]`.
        alone_logit: `[B, V]`, log-odds of abnormal, calibrated, of a study that has this view alone.
        view_weights: `[B, V]`, each view's share in the study's answer; a study's shares sum to 1.
        body_part_logits: `[B, 7]`, log of the views' mean probability of each part, where the checkpoint has that
            head.
        finding_logits: `[B, F]`, log of the views' mean probability of each type of finding, weighted as the views
            are, where the checkpoint has that head.
        feature_map: `[B, V, ...]`, each view's feature map; None where several backbones are at work.
        pooler_output: `[B, V, D']`, each view's pooled code; None likewise.
        views: What was found for the true views, one after the other.
    """

    loss: torch.Tensor | None = None
    study_logits: torch.Tensor = None  # type: ignore[assignment]
    pooled_logit: torch.Tensor = None  # type: ignore[assignment]
    view_logits: torch.Tensor = None  # type: ignore[assignment]
    alone_logit: torch.Tensor = None  # type: ignore[assignment]
    view_weights: torch.Tensor = None  # type: ignore[assignment]
    body_part_logits: torch.Tensor | None = None
    finding_logits: torch.Tensor | None = None
    feature_map: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    views: MuraImageClassifierOutput | None = None


class Explained(NamedTuple):
    """A feature map that an answer rests on, for heatmaps.

    Attributes:
        feature_map: `[n, D, h, w]`.
        score: From such a map to what is explained, z_abnormal - z_normal `[n]`, all else held.
        rows: int64 `[n]`, the views that it is about, as places in the batch; all of them where None.
        boxes: float `[n, 4]`, left, top, right and bottom of what the map shows, in shares of the picture's sides; the
            whole picture where None.
        weight: Share of this map in the heatmap.
        channel_weights: `[D]`, where the score is the map's mean over its places, weighted with them, and a constant;
            None where it is not so simple.
    """

    feature_map: torch.Tensor
    score: Callable[[torch.Tensor], torch.Tensor]
    rows: torch.Tensor | None = None
    boxes: torch.Tensor | None = None
    weight: float = 1.0
    channel_weights: torch.Tensor | None = None


__all__ = ["Explained", "MuraImageClassifierOutput", "MuraModelOutput", "StudyOutput"]
