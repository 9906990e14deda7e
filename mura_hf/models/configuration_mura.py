"""Configuration of the mura family: one backbone and its heads."""

from typing import Any

from huggingface_hub.dataclasses import strict

from .configuration_mura_base import BODY_PARTS, LABELS, MuraBaseConfig

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


__all__ = ["BODY_PARTS", "HEAD_ACTIVATIONS", "HEAD_INITS", "LABELS", "STUDY_POOLINGS", "MuraConfig"]
