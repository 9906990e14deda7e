"""The error that the model files raise: the package's own where it is installed, else its like.

What the configurations of every family of mura models share: labels, and how probabilities come to be.
Configuration of the mura family: one backbone and its heads.
"""

import math
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

try:
    from mura_hf.errors import CheckpointError
except ImportError:  # the model files travel with a checkpoint and are loaded without the package

    class CheckpointError(Exception):  # type: ignore[no-redef]
        """A checkpoint cannot be loaded, exported or used for what was asked."""


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
        positive_class_description (`str`, *optional*):
            What the positive class of the training data includes, as the end of a sentence that begins with "Abnormal
            means"; None if unknown. Configurations of the first release call this field `abnormal_means`; that name
            is still read and written too.
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
    positive_class_description: str | None = None
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
        former = kwargs.pop("abnormal_means", None)
        if self.positive_class_description is None:
            self.positive_class_description = former
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

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain values, with the former name `abnormal_means` too."""
        return {**super().to_dict(), "abnormal_means": self.positive_class_description}

    @property
    def default_operating_point(self) -> str:
        """Name of the threshold that is used where none is asked for: "paper" (.5), or else the first."""
        assert self.operating_points is not None  # filled in above
        return "paper" if "paper" in self.operating_points else next(iter(self.operating_points))


STUDY_POOLINGS = ("mean", "max", "noisy_or", "gated_attention")
HEAD_ACTIVATIONS = ("relu", "none")
HEAD_INITS = ("small", "he", "xavier", "random")

# A config comes from strangers: it must not point timm to files, nor undo what the models rely on.
_REFUSED_ARGUMENTS = (
    "cache_dir",
    "checkpoint_path",
    "exportable",
    "features_only",
    "in_chans",
    "num_classes",
    "scriptable",
)


@strict
class MuraConfig(MuraBaseConfig):
    r"""
    What a checkpoint is: a backbone, its heads, how views make a study; and what `MuraBaseConfig` holds.

    Args:
        backbone (`str`, *optional*, defaults to `"densenet169"`):
            Name of any timm architecture, or of one of our small networks (`SMALL_CNNS`). Never downloads weights; see
            `from_timm` of the models for that.
        backbone_kwargs (`dict`, *optional*):
            Further arguments of `timm.create_model`, such as `{"output_stride": 16}`. What would load weights from
            elsewhere, or change the network's form, is refused.
        image_size (`int`, *optional*, defaults to 320):
            Side in pixels of the square that the model is trained on. Networks of a fixed input size are built for
            it.
        num_channels (`int`, *optional*, defaults to 3):
            Input channels. A radiograph's one gray plane is repeated.
        head_layers (`list[int]`, *optional*):
            Widths of the hidden linear layers between the pooled code and the two logits; none by default.
        head_dropout (`float` or `list[float]`, *optional*, defaults to 0.0):
            Dropout in front of each linear layer of the head: one share for all, or one for each.
        head_batch_norm (`bool`, *optional*, defaults to `False`):
            Whether each hidden layer is followed by batch normalisation, before its activation.
        head_activation (`str`, *optional*, defaults to `"relu"`):
            Between the layers: `"relu"`, or `"none"`.
        head_init (`str`, *optional*, defaults to `"small"`):
            How linear layers of the heads start: `"small"` (truncated normal of deviation .02), `"he"` (arXiv
            1502.01852, normal, fan in), `"xavier"` (Glorot and Bengio 2010, uniform) or `"random"` (normal of
            deviation .05). Biases start at 0.
        body_part_head (`bool`, *optional*, defaults to `False`):
            Whether a second head tells the body part, in the order of `BODY_PARTS`.
        finding_types (`list[str]`, *optional*):
            Names for a third head, which tells the type of the finding, given that there is one.
        study_pooling (`str`, *optional*, defaults to `"mean"`):
            How views make a study: `"mean"` of their probabilities (Rajpurkar et al., arXiv 1712.06957, section 3),
            their `"max"`, `"noisy_or"` (1 - prod(1 - p)), or `"gated_attention"` over their codes (Ilse et al., arXiv
            1802.04712, equation 9).
        attention_size (`int`, *optional*, defaults to 128):
            Width of the gated attention.

    Raises:
        ValueError: If a value is out of its range.
    """

    model_type = "mura"

    backbone: str = "densenet169"
    backbone_kwargs: dict[str, Any] | None = None
    image_size: int = 320
    num_channels: int = 3
    head_layers: list[int] | None = None
    head_dropout: float | int | list[float | int] = 0.0
    head_batch_norm: bool = False
    head_activation: str = "relu"
    head_init: str = "small"
    body_part_head: bool = False
    finding_types: list[str] | None = None
    study_pooling: str = "mean"
    attention_size: int = 128

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        for name, known in (
            ("study_pooling", STUDY_POOLINGS),
            ("head_activation", HEAD_ACTIVATIONS),
            ("head_init", HEAD_INITS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}: it must be one of {', '.join(known)}")
        if any(width < 1 for width in self.head_layers or []) or self.attention_size < 1:
            raise ValueError("head_layers and attention_size are widths: they must be 1 or more")
        rates, layers = self.head_dropouts, 1 + len(self.head_layers or [])
        if len(rates) != layers or not all(0 <= rate < 1 for rate in rates):
            raise ValueError(
                f"head_dropout is {self.head_dropout}: it must be one share in [0, 1), or a list with one for each of "
                f"the head's linear layers, of which there are {layers}"
            )
        types = self.finding_types
        if types is not None and (len(types) < 2 or len(set(types)) < len(types)):
            raise ValueError(f"finding_types is {types}: it must name two different types or more")
        if self.test_time_flip and self.study_pooling == "gated_attention" and self.head_layers:
            raise ValueError(
                "test_time_flip with study_pooling gated_attention is for a head of one layer, where the mean of two "
                "codes has the mean of their logits; leave out head_layers, or one of the two"
            )
        refused = [
            name for name in self.backbone_kwargs or {} if name in _REFUSED_ARGUMENTS or name.startswith("pretrained")
        ]
        if refused:
            raise ValueError(f"backbone_kwargs may not hold {', '.join(refused)}; from_timm loads pretrained weights")
        if ":" in self.backbone:
            raise ValueError(
                f"backbone is {self.backbone!r}: give the bare name of a timm architecture, without a source"
            )

    @property
    def head_dropouts(self) -> list[float]:
        """Dropout in front of each linear layer of the head."""
        if isinstance(self.head_dropout, list):
            return [float(rate) for rate in self.head_dropout]
        return [float(self.head_dropout)] * (1 + len(self.head_layers or []))


__all__ = [
    "BODY_PARTS",
    "HEAD_ACTIVATIONS",
    "HEAD_INITS",
    "LABELS",
    "STUDY_POOLINGS",
    "CheckpointError",
    "MuraBaseConfig",
    "MuraConfig",
]
