"""Configuration of FuseNet.

FuseNet: a global branch, a local one on what the first points at, and a classifier on both.
"""

from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn

from .backbone_mura import SMALL_CNNS, check_feature_map, load_timm_weights
from .class_activation_mura import crop_and_resize, gradient_map, is_mean, largest_region, resize, widen
from .configuration_mura import CheckpointError, MuraConfig
from .heads_mura import GatedAttention, MuraHead, attend, pool_views
from .modeling_mura import MuraForImageClassification
from .modeling_mura_base import Explained, MuraClassifier, MuraImageClassifierOutput

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


_ALSO = ("image_size", "trained_on_phantoms")  # which a FuseNet takes over from the model that it starts from
_MAP_SIDE = 56  # pixels that a map is enlarged to before its hot region is framed


@dataclass
class MuraFuseNetOutput(MuraImageClassifierOutput):
    """A `MuraImageClassifierOutput` of FuseNet; `pooler_output` holds both codes.

    Attributes:
        global_logits: `[B, 2]` of the global branch.
        local_logits: `[B, 2]` of the local branch; None in the stage `global`.
        local_feature_map: `[B, D, h, w]` of the local branch.
        boxes: `[B, 4]`, left, top, right and bottom of the crop in shares of the picture's sides.
    """

    global_logits: torch.Tensor | None = None
    local_logits: torch.Tensor | None = None
    local_feature_map: torch.Tensor | None = None
    boxes: torch.Tensor | None = None


class MuraFuseNetForImageClassification(MuraClassifier):
    """Two branches: the class activation map of the global one is cut at a threshold, its largest region is cropped
    from the picture and fed to the local one; the pooled codes of both make the answer, through one linear layer.

    After the abnormality study with FuseNet (study D in the README), which follows Guan et al., arXiv 1801.09927.
    Stages: `global` trains the global branch; `local` the local branch, which starts from the weights of the global
    one, which no longer moves; `fusion` the last layer alone, with the attention over views where there is one.
    `logits` are those of the stage.
    """

    config: MuraFuseNetConfig
    config_class = MuraFuseNetConfig
    STAGES = ("global", "local", "fusion")
    stage = "fusion"

    def __init__(self, config: MuraFuseNetConfig):
        super().__init__(config)
        if config.backbone in SMALL_CNNS and config.local_size not in (None, config.image_size):
            raise CheckpointError(
                f"{config.backbone} takes one input size, so local_size ({config.local_size}) must be image_size "
                f"({config.image_size}); leave it out, or choose a backbone such as resnet50 or densenet169"
            )
        self.global_branch = MuraForImageClassification(config.branch(config.image_size))
        self.local_branch = MuraForImageClassification(config.branch(config.local_size or config.image_size))
        check_feature_map(
            self.global_branch.mura.backbone, config, "FuseNet, which crops what a feature map points at"
        )
        size = 2 * self.global_branch.mura.hidden_size
        self.classifier = MuraHead(size, config.num_labels, config.head_init)
        attentive = config.study_pooling == "gated_attention"
        self.attention = GatedAttention(size, config.attention_size) if attentive else None
        self.post_init()

    @classmethod
    def from_timm(
        cls, backbone: str, *, pretrained_cfg_overlay: dict[str, Any] | None = None, **config: Any
    ) -> "MuraFuseNetForImageClassification":
        """Builds a FuseNet whose branches start from timm's pretrained weights; arguments of `MuraModel.from_timm`."""
        model = cls(MuraFuseNetConfig(backbone=backbone, **config))
        load_timm_weights(model.global_branch.mura.backbone, model.config, pretrained_cfg_overlay)
        model.local_branch.load_state_dict(model.global_branch.state_dict())
        return model

    @classmethod
    def from_global(cls, model: MuraForImageClassification, **config: Any) -> "MuraFuseNetForImageClassification":
        """Builds a FuseNet whose branches start from a trained model of one view.

        Args:
            model: The global branch to be.
            **config: Further fields of `MuraFuseNetConfig`.

        Raises:
            CheckpointError: If the model is of another family.
        """
        if model.config.model_type != "mura":
            raise CheckpointError(
                f"FuseNet's branches cannot start from a checkpoint of type {model.config.model_type!r}; give one of "
                "type 'mura'"
            )
        fields = {name: getattr(model.config, name) for name in (*BRANCH_FIELDS, *_ALSO)}
        fused = cls(MuraFuseNetConfig(**{**fields, **config}))
        own = {key: value for key, value in model.state_dict().items() if not key.startswith("attention.")}
        fused.global_branch.load_state_dict(own)
        fused.local_branch.load_state_dict(own)
        return fused

    def find_boxes(self, output: MuraImageClassifierOutput) -> torch.Tensor:
        """Where the global branch points, `[B, 4]` in shares of the picture's sides."""
        feature_map: Any = output.feature_map
        if self.config.crop_map == "channel_max":
            maps = feature_map.detach().amax(1)
        else:
            # Not cut at 0: the place that speaks least for normal is looked at too, if nothing speaks for abnormal.
            maps = gradient_map(self.global_branch.score, feature_map)
        maps = nn.functional.interpolate(maps.float()[:, None], (_MAP_SIDE, _MAP_SIDE), mode="bilinear")[:, 0]
        boxes = largest_region(maps, self.config.crop_threshold)
        return widen(boxes, self.config.crop_min_share, square=self.config.crop_square)

    def classify_views(self, pixel_values: torch.Tensor, explainable: bool = False, **given: Any) -> MuraFuseNetOutput:
        """Logits of views `[B, C, H, W]`, without a loss; its backbones have feature maps, so every output can be
        explained.
        """
        config = self.config
        seen = resize(pixel_values, config.image_size)
        whole = self.global_branch.classify_views(seen)
        found: dict[str, Any] = {
            "logits": whole.logits / config.temperature,
            "body_part_logits": whole.body_part_logits,
            "finding_logits": whole.finding_logits,
            "feature_map": whole.feature_map,
            "global_logits": whole.logits,
        }
        if self.stage == "global":
            return MuraFuseNetOutput(**found)
        boxes = self.find_boxes(whole)
        crops = crop_and_resize(
            pixel_values if config.full_resolution else seen, boxes, config.local_size or config.image_size
        )
        part = self.local_branch.classify_views(crops)
        code = torch.cat([whole.pooler_output, part.pooler_output], dim=1)  # type: ignore[list-item]
        found |= {
            "logits": part.logits / config.temperature if self.stage == "local" else self.code_logits(code),
            "pooler_output": code,
            "local_logits": part.logits,
            "local_feature_map": part.feature_map,
            "boxes": boxes,
        }
        return MuraFuseNetOutput(**found)

    def code_logits(self, code: torch.Tensor) -> torch.Tensor:
        """Logits `[B, 2]` of both branches' codes `[B, 2 D']`."""
        return self.classifier(code) / self.config.temperature

    def pool(
        self, view_logits: torch.Tensor, codes: torch.Tensor | None, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `MuraForImageClassification.pool`, over the codes of both branches."""
        if self.attention is None:
            return super().pool(view_logits, codes, mask)
        if codes is None or self.stage != "fusion":
            return pool_views(view_logits, mask, "mean")
        code, weights = attend(self.attention(codes), codes, mask)
        logits = self.code_logits(code)
        return logits[:, 1] - logits[:, 0], weights

    def explain(self, output: MuraImageClassifierOutput) -> list[Explained]:
        """Both branches' maps, the local one at the place of its crop."""
        assert isinstance(output, MuraFuseNetOutput)
        if output.local_feature_map is None:
            return self.global_branch.explain(output)
        branches = (self.global_branch.mura, self.local_branch.mura)
        maps: Any = (output.feature_map, output.local_feature_map)

        def score(feature_map: torch.Tensor, place: int) -> torch.Tensor:
            both = [values.detach().clone() for values in maps]
            both[place] = feature_map
            codes = [branch.pool(values) for branch, values in zip(branches, both, strict=True)]
            logits = self.code_logits(torch.cat(codes, dim=1))
            return logits[:, 1] - logits[:, 0]

        code: Any = output.pooler_output
        direction = self.classifier.weight.detach()[1] - self.classifier.weight.detach()[0]
        weights = [
            of_branch / self.config.temperature if is_mean(part, values) else None
            for of_branch, part, values in zip(direction.chunk(2), code.chunk(2, dim=1), maps, strict=True)
        ]
        return [
            Explained(maps[0], lambda values: score(values, 0), weight=0.5, channel_weights=weights[0]),
            Explained(
                maps[1], lambda values: score(values, 1), boxes=output.boxes, weight=0.5, channel_weights=weights[1]
            ),
        ]

    def start_stage(self, name: str) -> None:
        """Chooses what is trained from now on: `global`, `local` or `fusion`.

        Going from `global` to `local`, the local branch takes over the weights of the global one.

        Raises:
            ValueError: If there is no such stage.
        """
        if name == "local" and self.stage == "global":
            self.local_branch.load_state_dict(self.global_branch.state_dict())
        super().start_stage(name)
        self.global_branch.requires_grad_(name == "global")
        self.local_branch.requires_grad_(name == "local")
        self.classifier.requires_grad_(name == "fusion")
        if self.attention is not None:
            self.attention.requires_grad_(name == "fusion")
        self.train(self.training)

    def train(self, mode: bool = True) -> "MuraFuseNetForImageClassification":
        """Sets training mode; a branch that is not trained in this stage stays in evaluation mode."""
        super().train(mode)
        if self.stage != "global":
            self.global_branch.eval()
        if self.stage != "local":
            self.local_branch.eval()
        return self


__all__ = ["BRANCH_FIELDS", "CROP_MAPS", "MuraFuseNetConfig", "MuraFuseNetForImageClassification", "MuraFuseNetOutput"]
