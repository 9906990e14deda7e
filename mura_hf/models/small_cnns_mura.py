"""Convolutional networks that are trained from scratch, with the interface of a timm backbone."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from .errors_mura import CheckpointError


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


__all__ = ["SMALL_CNNS", "SmallCnn", "SmallCnnPlan", "create_small_cnn"]
