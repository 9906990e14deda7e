"""What the models of the mura family give back."""

from dataclasses import dataclass

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
    """Output of `MuraForImageClassification`.

    Attributes:
        loss: Scalar, where labels were given.
        logits: `[B, 2]` for normal and abnormal, divided by the temperature.
        body_part_logits: `[B, 7]`, where the checkpoint has that head.
        feature_map: As `MuraModelOutput.last_hidden_state`.
        pooler_output: The pooled code `[B, D']`.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor = None  # type: ignore[assignment]
    body_part_logits: torch.Tensor | None = None
    feature_map: torch.Tensor = None  # type: ignore[assignment]
    pooler_output: torch.Tensor = None  # type: ignore[assignment]


@dataclass
class StudyOutput(ModelOutput):
    """Output of `MuraForStudyClassification`; padded views hold zeros.

    Attributes:
        loss: Scalar, where labels were given.
        study_logits: `[B, 2]`, log-probabilities of normal and abnormal after study calibration.
        view_logits: `[B, V, 2]`.
        view_weights: `[B, V]`, each view's share in the study's answer; a study's shares sum to 1.
        body_part_logits: `[B, 7]`, log of the views' mean probability of each part, where the checkpoint has that
            head.
        feature_map: `[B, V, ...]`, each view's feature map.
        pooler_output: `[B, V, D']`, each view's pooled code.
    """

    loss: torch.Tensor | None = None
    study_logits: torch.Tensor = None  # type: ignore[assignment]
    view_logits: torch.Tensor = None  # type: ignore[assignment]
    view_weights: torch.Tensor = None  # type: ignore[assignment]
    body_part_logits: torch.Tensor | None = None
    feature_map: torch.Tensor = None  # type: ignore[assignment]
    pooler_output: torch.Tensor = None  # type: ignore[assignment]


__all__ = ["MuraImageClassifierOutput", "MuraModelOutput", "StudyOutput"]
