"""Configuration of FuseNet."""

from typing import Any

from huggingface_hub.dataclasses import strict

from .configuration_mura import MuraConfig

CROP_MAPS = ("gradcam", "channel_max")
BRANCH_FIELDS = (
    "backbone",
    "backbone_kwargs",
    "num_channels",
    "head_layers",
    "head_dropout",
    "head_batch_norm",
    "head_activation",
    "head_init",
    "body_part_head",
    "finding_types",
)


@strict
class MuraFuseNetConfig(MuraConfig):
    r"""
    A `MuraConfig` of two branches with the same backbone, of which the second sees what the first points at.

    Args:
        crop_map (`str`, *optional*, defaults to `"gradcam"`):
            What points: the class activation map of the global branch for z_abnormal - z_normal, whose mean gradient
            weights the channels (`"gradcam"`), or the maximum over the channels (`"channel_max"`).
        crop_threshold (`float`, *optional*, defaults to 0.7):
            Share of the way from the coldest to the hottest place, above which a place is hot. The largest connected
            hot region is framed.
        crop_min_share (`float`, *optional*, defaults to 0.25):
            Shortest side of the crop, as a share of the picture's.
        crop_square (`bool`, *optional*, defaults to `False`):
            Whether the crop is grown to a square, so that resizing does not distort it.
        full_resolution (`bool`, *optional*, defaults to `False`):
            Whether the crop is cut from the picture as given. The picture may then be larger than `image_size`, which
            is what the global branch sees of it. Otherwise the crop is cut from what the global branch sees.
        local_size (`int`, *optional*):
            Side in pixels that the crop is resized to; `image_size` by default.

    Raises:
        ValueError: If a value is out of its range.
    """

    model_type = "mura_fusenet"

    crop_map: str = "gradcam"
    crop_threshold: float = 0.7
    crop_min_share: float = 0.25
    crop_square: bool = False
    full_resolution: bool = False
    local_size: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.crop_map not in CROP_MAPS:
            raise ValueError(f"crop_map is {self.crop_map!r}: it must be one of {', '.join(CROP_MAPS)}")
        if not 0 < self.crop_threshold < 1 or not 0 < self.crop_min_share <= 1:
            raise ValueError("crop_threshold must lie between 0 and 1, and crop_min_share above 0 and at most at 1")
        if self.test_time_flip:
            raise ValueError(
                "test_time_flip is not for FuseNet, which would crop the view and its mirror image at places of their "
                "own; leave it out, or use a model of one branch"
            )
        if self.local_size is not None and self.local_size < 1:
            raise ValueError(f"local_size is {self.local_size}: it must be 1 or more")

    def branch(self, image_size: int) -> MuraConfig:
        """Configuration of a branch: this backbone and head, uncalibrated."""
        return MuraConfig(image_size=image_size, **{name: getattr(self, name) for name in BRANCH_FIELDS})


__all__ = ["BRANCH_FIELDS", "CROP_MAPS", "MuraFuseNetConfig"]
