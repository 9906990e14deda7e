"""Convolutional networks that are trained from scratch, with the interface of a timm backbone.

Backbones by name, timm's and ours, as the models of the mura family use them.
Training a backbone in part: all of it, none, or its last stages.
"""

import contextlib
import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from .configuration_mura import CheckpointError, MuraConfig


@dataclass(frozen=True)
class SmallCnnPlan:
    """What one of the networks is made of.

    Args:
        stages: Filters of the 3 x 3 convolutions of each stage; a stage ends in 2 x 2 max pooling.
        code_size: Width of the fully connected layer behind the flattened map; that layer's output is the pooled code.
        batch_norm: Whether each convolution is followed by batch norm.
        stage_dropout: Dropout rate after each pooling; None for no such layers.
        code_dropout: Dropout rate on the pooled code; None for no such layer.
    """

    stages: tuple[tuple[int, ...], ...]
    code_size: int
    batch_norm: bool = False
    stage_dropout: float | None = None
    code_dropout: float | None = None


SMALL_CNNS: dict[str, SmallCnnPlan] = {
    "cnn2": SmallCnnPlan(((16,), (32,)), code_size=128),
    "cnn4": SmallCnnPlan(((16,), (32,), (64,), (128,)), code_size=128, code_dropout=0.5),
    "cnn15": SmallCnnPlan(
        ((16, 16), (32, 32), (64, 64, 64), (128, 128, 128), (128, 128, 128)),
        code_size=128,
        batch_norm=True,
        code_dropout=0.5,
    ),
    "wrist_cnn": SmallCnnPlan(((16,), (32,), (64,), (128,)), code_size=128, batch_norm=True, stage_dropout=0.1),
}


class SmallCnn(nn.Module):
    """Stages of convolutions with ReLU and max pooling, then flatten and one fully connected layer with ReLU.

    - `cnn2`, `cnn4`, `cnn15`: "Abnormality detection based on musculoskeletal radiographs" (2024), networks from
      scratch: two convolutions with pooling and two fully connected layers; four, with dropout between the two; and 15
      layers with weights in all, thirteen convolutions and two fully connected layers. The last fully connected layer
      is the classifier that the model puts on top.
    - `wrist_cnn`: "Anomaly Detection in Radiographs", whose settings are those of `SMALL_CNNS`: 3,309,441 trainable
      parameters with one output at 224 px, and 480 batch-norm statistics.

    The first study does not give filters, kernel sizes, padding, widths or dropout rates, nor which layers pool or
    have batch norm: 3 x 3 with padding, 128 units, dropout .5, VGG-16's convolutions at a quarter of their width for
    `cnn15`, and batch norm there alone are our choice. Of the second one's, the rate of its dropout (.1) and its
    place behind each pooling are ours. Weights start after He et al. (arXiv 1502.01852), biases at zero.

    Args:
        plan: What it is made of.
        num_channels: Input channels.
        image_size: Side of the square input in pixels. The fully connected layer fits this side alone.
        name: Its name in error messages.

    Attributes:
        num_features: Channels of the feature map.
        head_hidden_size: Width of the pooled code.
        feature_info: Channels, reduction and module of each stage, as timm lists them.

    Raises:
        CheckpointError: If the side is too small for the poolings.
    """

    output_fmt = "NCHW"

    def __init__(self, plan: SmallCnnPlan, *, num_channels: int = 3, image_size: int = 224, name: str = "this CNN"):
        super().__init__()
        smallest = 2 ** len(plan.stages)
        if image_size < smallest:
            raise CheckpointError(
                f"image_size is {image_size}: {name} halves it {len(plan.stages)} times and needs at least {smallest} "
                "px; set a larger image_size"
            )
        self.name, self.image_size = name, image_size
        self.map_size = image_size // smallest
        self.num_features = plan.stages[-1][-1]
        self.head_hidden_size = plan.code_size
        self.feature_info = [
            {"num_chs": widths[-1], "reduction": 2 ** (index + 1), "module": f"stages.{index}"}
            for index, widths in enumerate(plan.stages)
        ]
        inputs = [num_channels, *(widths[-1] for widths in plan.stages[:-1])]
        self.stages = nn.Sequential(
            *(_stage(channels, widths, plan) for channels, widths in zip(inputs, plan.stages, strict=True))
        )
        self.fc = nn.Linear(self.num_features * self.map_size**2, plan.code_size)
        self.relu = nn.ReLU()
        self.dropout = nn.Identity() if plan.code_dropout is None else nn.Dropout(plan.code_dropout)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """The last feature map `[B, D, h, w]` of pixels `[B, C, image_size, image_size]`.

        Raises:
            CheckpointError: If the pixels have another size.
        """
        height, width = pixel_values.shape[-2:]
        if (height, width) != (self.image_size, self.image_size):
            raise CheckpointError(
                f"{self.name} was built for {self.image_size} x {self.image_size} px, but got {height} x {width}: its "
                "fully connected layer fits one size alone. Resize the picture, or build it with another image_size "
                "and train that"
            )
        return self.stages(pixel_values)

    def forward_head(self, feature_map: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """The pooled code `[B, head_hidden_size]` of a feature map from `forward_features`.

        `pre_logits` makes no difference: there is no classifier of its own, as in timm with `num_classes=0`.

        Raises:
            CheckpointError: If the map is of another size.
        """
        height, width = feature_map.shape[-2:]
        if (height, width) != (self.map_size, self.map_size):
            raise CheckpointError(
                f"the head of {self.name} takes feature maps of {self.map_size} x {self.map_size}, but got "
                f"{height} x {width}: its fully connected layer weighs each place by itself, so give it the whole map"
            )
        return self.dropout(self.relu(self.fc(feature_map.flatten(1))))

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """The pooled code `[B, head_hidden_size]` of pixels."""
        return self.forward_head(self.forward_features(pixel_values))

    def group_matcher(self, coarse: bool = False) -> dict[str, str | None]:
        """Patterns of parameter names, as timm's backbones give them: every stage is a block, and there is no stem."""
        return {"stem": None, "blocks": r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"}


def create_small_cnn(
    name: str, *, num_channels: int = 3, image_size: int = 224, options: dict[str, Any] | None = None
) -> SmallCnn:
    """Builds one of `SMALL_CNNS`.

    Args:
        name: Its name there.
        num_channels: Input channels.
        image_size: Side of the square input in pixels.
        options: What a config holds as `backbone_kwargs`: `dropout` replaces the rate of its dropout layers.

    Raises:
        CheckpointError: If there is no such network, it has no such option, a rate is not in [0, 1), or the side is
            too small for its poolings.
    """
    if name not in SMALL_CNNS:
        raise CheckpointError(f"there is no small CNN {name!r}; there are {', '.join(SMALL_CNNS)}")
    plan = SMALL_CNNS[name]
    known = [] if plan.stage_dropout is None and plan.code_dropout is None else ["dropout"]
    unknown = [option for option in options or {} if option not in known]
    if unknown:
        raise CheckpointError(
            f"{name} does not know {', '.join(unknown)} in backbone_kwargs; it takes "
            f"{', '.join(known) or 'nothing'} there"
        )
    if options:
        rate = options["dropout"]
        if not isinstance(rate, float | int) or isinstance(rate, bool) or not 0 <= rate < 1:
            raise CheckpointError(f"dropout of {name} in backbone_kwargs is {rate!r}; it must be a rate in [0, 1)")
        plan = replace(
            plan,
            stage_dropout=None if plan.stage_dropout is None else float(rate),
            code_dropout=None if plan.code_dropout is None else float(rate),
        )
    return SmallCnn(plan, num_channels=num_channels, image_size=image_size, name=name)


def _stage(channels: int, widths: tuple[int, ...], plan: SmallCnnPlan) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in widths:
        layers.append(nn.Conv2d(channels, width, kernel_size=3, padding=1))
        if plan.batch_norm:
            layers.append(nn.BatchNorm2d(width))
        layers.append(nn.ReLU())
        channels = width
    layers.append(nn.MaxPool2d(2))
    if plan.stage_dropout is not None:
        layers.append(nn.Dropout(plan.stage_dropout))
    return nn.Sequential(*layers)


def create_backbone(config: MuraConfig, **options: Any) -> Any:
    """Builds the backbone that a config names, without timm's own classifier.

    Args:
        config: Names the architecture: one of timm's, or of `SMALL_CNNS`.
        **options: Further arguments of `timm.create_model`, for its architectures.

    Raises:
        CheckpointError: If there is no such architecture, or no such weight tag of it, or one of ours cannot be built
            as the config says.
    """
    if config.backbone in SMALL_CNNS:
        return create_small_cnn(
            config.backbone,
            num_channels=config.num_channels,
            image_size=config.image_size,
            options=config.backbone_kwargs,
        )
    import timm

    if not timm.is_model(config.backbone):
        raise CheckpointError(
            f"this timm ({timm.__version__}) has no architecture {config.backbone!r}; "
            "timm.list_models() lists the names, and a newer timm may know it; our own, to be trained from scratch, "
            f"are {', '.join(SMALL_CNNS)}"
        )
    arguments = {"num_classes": 0, "in_chans": config.num_channels, **(config.backbone_kwargs or {})}
    try:
        known = timm.models.get_pretrained_cfg(config.backbone)
    except RuntimeError as error:
        raise CheckpointError(
            f"{config.backbone!r} is no architecture of timm with a weight tag that it has: {error}"
        ) from error
    if known is not None and known.fixed_input_size:
        arguments.setdefault("img_size", config.image_size)
    return timm.create_model(config.backbone, **arguments, **options)


def feature_shape(backbone: nn.Module, config: MuraConfig) -> torch.Size | None:
    """Shape of a backbone's features for two pictures of the config's size, for which nothing is computed; None where
    it gives several streams, or cannot take that size.
    """
    # A copy: whatever is done to the backbone itself, other threads may be asking it meanwhile.
    probe: Any = copy.deepcopy(backbone).to("meta")
    picture = torch.empty(2, config.num_channels, config.image_size, config.image_size, device="meta")
    features: Any = None
    with torch.no_grad(), contextlib.suppress(RuntimeError, AssertionError):  # of a size that it cannot take
        features = probe.forward_features(picture)
    return features.shape if isinstance(features, torch.Tensor) else None


def check_feature_map(backbone: nn.Module, config: MuraConfig, part: str) -> None:
    """Makes sure that a backbone has a feature map, by the shapes alone.

    Args:
        backbone: Of this config.
        config: Tells the input's size.
        part: What needs the map, for the message.

    Raises:
        CheckpointError: If it works on tokens, or gives several streams.
    """
    shape = feature_shape(backbone, config)
    if shape is None or len(shape) != 4:
        raise CheckpointError(
            f"backbone {config.backbone} has no feature map (of pictures of {config.image_size} px) for {part}; "
            "choose one that has, such as resnet50, densenet169, convnext_tiny or swin_tiny_patch4_window7_224"
        )


def load_timm_weights(backbone: nn.Module, config: MuraConfig, overlay: dict[str, Any] | None) -> None:
    """Fills a backbone from `create_backbone` with timm's pretrained weights.

    Args:
        backbone: Of this config.
        config: Names architecture and, after a dot, the weights.
        overlay: As `pretrained_cfg_overlay` of `timm.create_model`.

    Raises:
        CheckpointError: If timm has no weights for it, they cannot be had, or they do not fit; the message says which.
    """
    name = config.backbone
    if name in SMALL_CNNS:
        raise CheckpointError(
            f"there are no pretrained weights for {name}: it is trained from scratch; build the model from a "
            "MuraConfig, or name one of timm's backbones"
        )
    try:
        backbone.load_state_dict(create_backbone(config, pretrained=True, pretrained_cfg_overlay=overlay).state_dict())
    except RuntimeError as error:
        if "No pretrained weights" in str(error):
            raise CheckpointError(
                f"timm has no pretrained weights for {name}; timm.list_pretrained() lists the names that have some"
            ) from error
        raise CheckpointError(
            f"timm's pretrained weights for {name} do not fit the backbone built here: {error}"
        ) from error
    except CheckpointError:
        raise
    except Exception as error:  # a file may hold anything, and a network fail in any way
        where = (overlay or {}).get("file")
        told = (
            f"from {where}; it must be a file of timm's weights"
            if where
            else f"from the Hub ({type(error).__name__}); check the network, or name a local file with "
            'pretrained_cfg_overlay={"file": path}'
        )
        raise CheckpointError(f"timm's pretrained weights for {name} could not be read {told}") from error


_WAYS_OUT = (
    "use train_last 0 (all frozen) or None (everything trains), or a backbone with stages, such as densenet169, "
    "resnet50 or convnext_tiny"
)


def backbone_stages(backbone: nn.Module) -> list[list[str]]:
    """Names of a backbone's parameters, stage by stage, as timm's `group_matcher(coarse=True)` tells them apart.

    A stage is what timm holds to be one: a dense block with the transition behind it, a layer of a ResNet, a block of
    a vision transformer.

    Args:
        backbone: From `create_backbone`.

    Returns:
        Stem first (empty where there is none), then the stages. What no pattern matches belongs to the stem if it is
        registered before the stages (a position code that all blocks share), else to the last stage (the last norm of
        a DenseNet or Swin). Each parameter is there once.

    Raises:
        CheckpointError: If the backbone does not tell its stages apart.
    """
    from timm.models._manipulate import group_with_matcher

    unmatched = ""  # no parameter has this name, and no pattern matches it
    names = [name for name, _ in backbone.named_parameters()]
    try:
        matcher: Any = backbone.group_matcher(coarse=True)  # type: ignore[operator]
        groups = list(group_with_matcher(((name, None) for name in [*names, unmatched]), matcher).values())
    except (AttributeError, AssertionError, NotImplementedError) as error:
        raise CheckpointError(f"{_name(backbone)} does not tell its stages apart; {_WAYS_OUT}") from error
    rest = [name for group in groups if unmatched in group for name in group if name != unmatched]
    stages = [group for group in groups if unmatched not in group]
    if isinstance(matcher, dict) and matcher.get("stem", "") is None:
        stages.insert(0, [])
    if len(stages) < 2:
        raise CheckpointError(f"{_name(backbone)} is one piece, without stages; {_WAYS_OUT}")
    place = {name: index for index, name in enumerate(names)}
    start = min(place[name] for name in stages[1])
    stages[0] = stages[0] + [name for name in rest if place[name] < start]
    stages[-1] = stages[-1] + [name for name in rest if place[name] > start]
    return stages


def freeze_backbone(backbone: nn.Module, train_last: int | None) -> None:
    """Chooses which parameters of a backbone are trained, by their `requires_grad`.

    Dropout of frozen stages stays as it is; for batch norms see `keep_frozen_norms_still`.

    Args:
        backbone: From `create_backbone`.
        train_last: None trains everything, 0 nothing, k the last k stages with what follows them.

    Raises:
        CheckpointError: If the backbone has fewer stages or does not tell them apart, or the number is negative. Then
            nothing is changed.
    """
    if train_last is not None and train_last < 0:
        raise CheckpointError(
            f"train_last is {train_last}: give None (everything trains), 0 (all frozen) or a number of stages"
        )
    if not train_last:
        backbone.requires_grad_(train_last is None)
        return
    _, *stages = backbone_stages(backbone)
    if train_last > len(stages):
        raise CheckpointError(
            f"train_last is {train_last}, but {_name(backbone)} has {len(stages)} stages; give at most that many, 0 "
            "(all frozen) or None (everything trains, the stem too)"
        )
    trained = {name for stage in stages[-train_last:] for name in stage}
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(name in trained)


def keep_frozen_norms_still(module: nn.Module) -> None:
    """Puts each norm with running statistics whose parameters are all frozen into evaluation mode.

    `module.train()` undoes it, so call it after each. Norms without parameters stay as they are.
    """
    for norm in module.modules():
        if isinstance(getattr(norm, "running_var", None), torch.Tensor):
            frozen = [not parameter.requires_grad for parameter in norm.parameters()]
            if frozen and all(frozen):
                norm.eval()


def _name(backbone: nn.Module) -> str:
    told: Any = getattr(backbone, "pretrained_cfg", None) or {}
    return told.get("architecture") or type(backbone).__name__


__all__ = [
    "SMALL_CNNS",
    "SmallCnn",
    "SmallCnnPlan",
    "backbone_stages",
    "create_small_cnn",
    "freeze_backbone",
    "keep_frozen_norms_still",
]
