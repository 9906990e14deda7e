"""What the configurations of every family of mura models share: labels, and how probabilities come to be."""

import math
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

BODY_PARTS = ("elbow", "finger", "forearm", "hand", "humerus", "shoulder", "wrist")
LABELS = ("normal", "abnormal")


@strict
class MuraBaseConfig(PreTrainedConfig):
    r"""
    Labels and calibration; base of the families' configurations.

    Args:
        temperature (`float`, *optional*, defaults to 1.0):
            Divides the logits of a view (Guo et al., arXiv 1706.04599). 1 while training.
        study_slope (`float`, *optional*, defaults to 1.0):
            Slope on the logit of the study's pooled probability.
        study_intercept (`float`, *optional*, defaults to 0.0):
            Intercept beside it.
        operating_points (`dict[str, float]`, *optional*):
            Named thresholds on the study's probability, abnormal strictly above; `{"paper": 0.5}` by default.
        trained_on_phantoms (`bool`, *optional*, defaults to `False`):
            Whether the weights have seen synthetic phantoms only, so that their word about a real radiograph means
            nothing.
        abnormal_means (`str`, *optional*):
            What the labels of training called abnormal, in words that go on from "abnormal means"; None where it is
            not known.
        test_time_flip (`bool`, *optional*, defaults to `False`):
            Whether, in evaluation mode, a view's logits are the mean of those of the view and of its mirror image, and
            its heatmap that of both, which doubles the cost. Families that are made of other models leave it to them.

    Raises:
        ValueError: If the labels are not the two of the field, or a value is out of its range.
    """

    keys_to_ignore_at_inference: ClassVar[list[str]] = ["feature_map", "mirrored_feature_map", "pooler_output"]

    temperature: float | int = 1.0
    study_slope: float | int = 1.0
    study_intercept: float | int = 0.0
    operating_points: dict[str, float | int] | None = None
    trained_on_phantoms: bool = False
    abnormal_means: str | None = None
    test_time_flip: bool = False

    id2label: dict[int, str] | dict[str, str] | None = None
    label2id: dict[str, int] | dict[str, str] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if kwargs.get("num_labels", len(LABELS)) != len(LABELS):
            raise ValueError(
                f"num_labels is {kwargs['num_labels']}: a mura model has two labels, {LABELS[0]} and {LABELS[1]}"
            )
        if self.id2label is None:
            self.id2label = dict(enumerate(LABELS))
        if self.label2id is None:
            self.label2id = {label: int(index) for index, label in self.id2label.items()}
        if self.operating_points is None:
            self.operating_points = {"paper": 0.5}
        super().__post_init__(**kwargs)
        if dict(self.id2label) != dict(enumerate(LABELS)):
            raise ValueError(f"id2label is {self.id2label}: label 0 must be {LABELS[0]!r} and label 1 {LABELS[1]!r}")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature}: it must be above 0 and finite")
        if not math.isfinite(self.study_intercept):
            raise ValueError(f"study_intercept is {self.study_intercept}: it must be finite")
        if not 0 < self.study_slope < math.inf:
            raise ValueError(
                f"study_slope is {self.study_slope}: it must be above 0, or calibration would turn answers round"
            )
        if not self.operating_points or not all(0 <= value <= 1 for value in self.operating_points.values()):
            raise ValueError(
                f"operating_points is {self.operating_points}: it needs at least one threshold, all in [0, 1]"
            )

    @property
    def default_operating_point(self) -> str:
        """Name of the threshold that is used where none is asked for: "paper" (.5), or else the first."""
        assert self.operating_points is not None  # filled in above
        return "paper" if "paper" in self.operating_points else next(iter(self.operating_points))


__all__ = ["BODY_PARTS", "LABELS", "MuraBaseConfig"]
