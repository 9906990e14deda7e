"""The `mura_fusenet` family: a global branch, a local branch on a crop that the first selects, and their fusion."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn

from .backbone_mura import SMALL_CNNS, check_feature_map
from .class_activation_mura import (
    crop_and_resize,
    expand_boxes,
    gradient_map,
    is_mean,
    largest_region,
    resize,
    spread_labels,
)
from .configuration_mura import CheckpointError, MuraConfig
from .heads_mura import MuraHead, make_attention, pool_views
from .modeling_mura import MuraForImageClassification, MuraTimmModel
from .modeling_mura_base import ExplainedMap, MuraClassifier, MuraImageClassifierOutput

CROP_MAPS = ("gradcam", "channel_max")
_OWN_FIELDS = ("image_size", "study_pooling", "attention_size", "regions")
BRANCH_FIELDS = tuple(name for name in MuraConfig.__annotations__ if name not in _OWN_FIELDS)
"""Fields that FuseNet and its branches have in common."""
_MAP_SIDE = 56  # pixels; the map is enlarged to this side before its hottest region is found


@strict
class MuraFuseNetConfig(MuraConfig):
    r"""
    A `MuraConfig` for two branches with the same backbone. The local branch sees what the global one highlights.

    Args:
        crop_map (`str`, *optional*, defaults to `"gradcam"`):
            Map of the global branch that selects the crop: `"gradcam"`, the class activation map of z_abnormal -
            z_normal, or `"channel_max"`, the maximum over the channels.
        crop_threshold (`float`, *optional*, defaults to 0.7):
            Threshold of the map, as a fraction of the way from its minimum to its maximum. The crop is the bounding
            box of the largest connected region above it.
        crop_min_share (`float`, *optional*, defaults to 0.25):
            Smallest side of the crop, as a fraction of the image side.
        crop_square (`bool`, *optional*, defaults to `False`):
            Whether to expand the crop to a square, so that resizing does not distort it.
        full_resolution (`bool`, *optional*, defaults to `False`):
            Whether to crop from the input image, which may then be larger than `image_size`, the size that the global
            branch sees. Otherwise the crop is taken from what the global branch sees.
        local_size (`int`, *optional*, defaults to `image_size`):
            Side of the resized crop in pixels.
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
        self._check("crop_map", self.crop_map in CROP_MAPS, f"it must be one of {', '.join(CROP_MAPS)}")
        self._check("crop_threshold", 0 < self.crop_threshold < 1, "it must lie between 0 and 1")
        self._check("crop_min_share", 0 < self.crop_min_share <= 1, "it must be above 0 and at most 1")
        self._check("local_size", self.local_size is None or self.local_size >= 1, "it must be 1 or more")
        if self.test_time_flip:
            raise ValueError(
                "test_time_flip is not for FuseNet, which would crop a view and its mirror image at different places; "
                "leave it out, or use a model with one branch"
            )

    def branch(self, image_size: int) -> MuraConfig:
        """Returns the configuration of a branch: the same backbone and head, without calibration."""
        return MuraConfig(image_size=image_size, **{name: getattr(self, name) for name in BRANCH_FIELDS})


@dataclass
class MuraFuseNetOutput(MuraImageClassifierOutput):
    """A `MuraImageClassifierOutput` of FuseNet; `pooler_output` holds the codes of both branches.

    Attributes:
        global_logits: `[B, 2]` of the global branch. All others are None in the stage `global`.
        local_logits: `[B, 2]` of the local branch.
        local_feature_map: `[B, D, h, w]` of the local branch.
        boxes: `[B, 4]`, left, top, right and bottom of the crop as fractions of the image sides.
    """

    global_logits: torch.Tensor | None = None
    local_logits: torch.Tensor | None = None
    local_feature_map: torch.Tensor | None = None
    boxes: torch.Tensor | None = None


class MuraFuseNetForImageClassification(MuraTimmModel, MuraClassifier):
    """Two branches: the local one sees a crop around the largest hot region in the map of the global one.

    The pooled codes of both are classified by one linear layer. This is the network of the FuseNet study of
    musculoskeletal abnormality, which follows Guan et al., arXiv 1801.09927.

    Stages: `global` trains the global branch; `local` trains the local branch, which starts from the weights of the
    fixed global one; `fusion` trains the last layer only, and the attention over views if there is one. `logits` are
    those of the current stage.
    """

    config: MuraFuseNetConfig
    config_class = MuraFuseNetConfig
    STAGES = ("global", "local", "fusion")
    stage = "fusion"
    # Depend on values, so an exported graph has others in their place.
    _spread_labels = staticmethod(spread_labels)
    _crop = staticmethod(crop_and_resize)

    def __init__(self, config: MuraFuseNetConfig):
        super().__init__(config)
        if config.backbone in SMALL_CNNS and config.local_size not in (None, config.image_size):
            raise CheckpointError(
                f"{config.backbone} takes one input size, so local_size ({config.local_size}) must be image_size "
                f"({config.image_size}); leave it out, or choose a backbone such as resnet50 or densenet169"
            )
        self.global_branch = MuraForImageClassification(config.branch(config.image_size))
        self.local_branch = MuraForImageClassification(config.branch(config.local_size or config.image_size))
        check_feature_map(self.global_branch.mura.backbone, config, "FuseNet")
        size = 2 * self.global_branch.mura.hidden_size
        self.classifier = MuraHead(size, config.num_labels, config.head_init)
        self.attention = make_attention(size, config)
        self.post_init()

    @classmethod
    def from_timm(cls, backbone: str, **options: Any) -> "MuraFuseNetForImageClassification":
        """As `MuraTimmModel.from_timm`; the heads of both branches start equal, too."""
        model = super().from_timm(backbone, **options)
        model.local_branch.load_state_dict(model.global_branch.state_dict())
        return model

    def find_boxes(self, output: MuraImageClassifierOutput) -> torch.Tensor:
        """Returns the crop for an output of the global branch, `[B, 4]` as fractions of the image sides."""
        feature_map: Any = output.feature_map
        by_channel = self.config.crop_map == "channel_max"
        maps = feature_map.detach().amax(1) if by_channel else self._global_map(feature_map)
        maps = nn.functional.interpolate(maps.float()[:, None], (_MAP_SIDE, _MAP_SIDE), mode="bilinear")[:, 0]
        boxes = largest_region(maps, self.config.crop_threshold, self._spread_labels)
        return expand_boxes(boxes, self.config.crop_min_share, square=self.config.crop_square)

    def _global_map(self, feature_map: torch.Tensor) -> torch.Tensor:
        # Without the ReLU of Grad-CAM, so that there is a hottest region even if all evidence is for normal.
        return gradient_map(self.global_branch.score, feature_map)

    def classify_views(self, pixel_values: torch.Tensor, explainable: bool = False, **given: Any) -> MuraFuseNetOutput:
        """Computes logits of views `[B, C, H, W]`, without a loss. Every output can be explained."""
        config = self.config
        resized = resize(pixel_values, config.image_size)
        whole = self.global_branch.classify_views(resized, **given)
        values: dict[str, Any] = {
            "logits": whole.logits / config.temperature,
            "body_part_logits": whole.body_part_logits,
            "finding_logits": whole.finding_logits,
            "feature_map": whole.feature_map,
            "global_logits": whole.logits,
        }
        if self.stage == "global":
            return MuraFuseNetOutput(**values)
        boxes = self.find_boxes(whole)
        source = pixel_values if config.full_resolution else resized
        crops = self._crop(source, boxes, config.local_size or config.image_size)
        part = self.local_branch.classify_views(crops, **given)
        code = torch.cat([whole.pooler_output, part.pooler_output], dim=1)  # type: ignore[list-item]
        values |= {
            "logits": part.logits / config.temperature if self.stage == "local" else self.code_logits(code),
            "pooler_output": code,
            "local_logits": part.logits,
            "local_feature_map": part.feature_map,
            "boxes": boxes,
        }
        return MuraFuseNetOutput(**values)

    def code_logits(self, code: torch.Tensor) -> torch.Tensor:
        """Returns logits `[B, 2]` of the codes of both branches `[B, 2 D']`."""
        return self.classifier(code) / self.config.temperature

    def pool(
        self, view_logits: torch.Tensor, codes: torch.Tensor | None, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `MuraClassifier.pool`; gated attention is for the codes of both branches, which `fusion` alone has."""
        if self.attention is not None and self.stage != "fusion":
            return pool_views(view_logits, mask, "mean")
        return super().pool(view_logits, codes, mask)

    def explain(self, output: MuraImageClassifierOutput) -> list[ExplainedMap]:
        """Returns the maps of both branches; that of the local branch covers its crop."""
        assert isinstance(output, MuraFuseNetOutput)
        if output.local_feature_map is None:
            return self.global_branch.explain(output)
        branches = (self.global_branch.mura, self.local_branch.mura)
        maps: Any = (output.feature_map, output.local_feature_map)

        def score(feature_map: torch.Tensor, branch: int) -> torch.Tensor:
            both = [values.detach().clone() for values in maps]
            both[branch] = feature_map
            codes = [model.pool(values) for model, values in zip(branches, both, strict=True)]
            logits = self.code_logits(torch.cat(codes, dim=1))
            return logits[:, 1] - logits[:, 0]

        code: Any = output.pooler_output
        weight = self.classifier.weight.detach()
        directions = ((weight[1] - weight[0]) / self.config.temperature).chunk(2)
        return [
            ExplainedMap(
                maps[branch],
                partial(score, branch=branch),
                boxes=output.boxes if branch else None,
                weight=0.5,
                channel_weights=directions[branch] if is_mean(code.chunk(2, dim=1)[branch], maps[branch]) else None,
            )
            for branch in (0, 1)
        ]

    def start_stage(self, name: str) -> None:
        """As `MuraClassifier.start_stage`; from `global` to `local`, the local branch takes the global weights."""
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
        """Sets training mode. A branch that is not trained in this stage stays in evaluation mode."""
        super().train(mode)
        if self.stage != "global":
            self.global_branch.eval()
        if self.stage != "local":
            self.local_branch.eval()
        return self
