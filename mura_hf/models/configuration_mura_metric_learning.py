"""Configuration of Siamese networks."""

from typing import Any

from huggingface_hub.dataclasses import strict

from .configuration_mura import MuraConfig


@strict
class MuraMetricLearningConfig(MuraConfig):
    r"""
    A `MuraConfig` with an embedding between the pooled code and the classifier.

    Args:
        embedding_size (`int`, *optional*, defaults to 128):
            Width of the embedding.

    Raises:
        ValueError: If a value is out of its range.
    """

    model_type = "mura_metric_learning"

    embedding_size: int = 128

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.embedding_size < 1:
            raise ValueError(f"embedding_size is {self.embedding_size}: it must be 1 or more")


__all__ = ["MuraMetricLearningConfig"]
