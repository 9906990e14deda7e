"""The `mura_metric_learning` family: an embedding that is trained by comparing images, and a classifier on it."""

from typing import Any

import torch
from huggingface_hub.dataclasses import strict

from .configuration_mura import MuraConfig
from .heads_mura import MuraHead
from .modeling_mura import MuraForImageClassification


@strict
class MuraMetricLearningConfig(MuraConfig):
    r"""
    A `MuraConfig` with an embedding between the pooled code and the classifier.

    Args:
        embedding_size (`int`, *optional*, defaults to 128):
            Width of the embedding.
    """

    model_type = "mura_metric_learning"

    embedding_size: int = 128

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self._check("embedding_size", self.embedding_size >= 1, "it must be 1 or more")


class MuraForMetricLearning(MuraForImageClassification):
    """A Siamese network: backbone, linear embedding, and a classifier on the embedding.

    Twins with shared weights are one network that runs on several images (Bromley et al. 1993). The loss compares the
    embeddings of a batch. Stages: `joint` trains everything, `embedding` everything but the classifier, `classifier`
    only the classifier, on fixed embeddings.
    """

    config: MuraMetricLearningConfig
    config_class = MuraMetricLearningConfig
    STAGES = ("joint", "embedding", "classifier")
    stage = "joint"

    def __init__(self, config: MuraMetricLearningConfig):
        super().__init__(config)
        self.embedding = MuraHead(self.mura.hidden_size, config.embedding_size, config.head_init)
        self.post_init()

    def _classifier_input(self, code: torch.Tensor) -> torch.Tensor:
        return self.embedding(code)

    def code_direction(self) -> torch.Tensor | None:
        """As `MuraForImageClassification.code_direction`, through the embedding."""
        direction = super().code_direction()
        return None if direction is None else direction @ self.embedding.weight.detach()

    def start_stage(self, name: str) -> None:
        """As `MuraClassifier.start_stage`."""
        super().start_stage(name)
        for parameter_name, parameter in self.named_parameters():
            classifies = parameter_name.startswith("classifier.")
            parameter.requires_grad_({"joint": True, "embedding": not classifies, "classifier": classifies}[name])
        self.train(self.training)
