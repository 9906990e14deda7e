"""Which parameters are decayed, and at what share of the rate each is trained."""

from collections.abc import Iterable, Iterator
from typing import Any

from timm.optim import param_groups_layer_decay
from torch import nn

from ..errors import ConfigError
from ..models import MuraModel
from ..models.backbone_mura import SmallCnn

_HEAD = ""  # no pattern of timm's matches it, as none matches its own classifiers


class _WithHead:
    """A backbone as timm's grouping sees it: with a head behind it, which counts as one more layer."""

    def __init__(self, backbone: nn.Module) -> None:
        self.backbone: Any = backbone
        self.head = nn.Parameter(requires_grad=False)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Of the backbone, and one that stands for the head."""
        yield from self.backbone.named_parameters()
        yield _HEAD, self.head

    def group_matcher(self, coarse: bool = False) -> Any:
        """The backbone's; our small networks are told apart by their stages."""
        return self.backbone.group_matcher(coarse=coarse or isinstance(self.backbone, SmallCnn))


def parameter_groups(
    model: nn.Module, *, learning_rate: float, weight_decay: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Groups for an optimiser over what is trained: matrices and kernels are decayed, biases and norms are not.

    With a `layer_decay` below 1, the rate of a layer is `learning_rate * layer_decay ** d`, where d is how many layers
    lie between it and the end: the heads (and what timm holds to be part of one, such as ConvNeXt's last norm) have
    0, the backbone's last block 1, its stem the most. What a layer is says timm's `group_matcher`, as for
    `timm.optim.param_groups_layer_decay`: a block of ConvNeXt (with the downsampling before it), ResNet or a vision
    transformer, a dense layer of DenseNet; of our small networks a stage. Each backbone of a model with several is
    counted by itself.

    Args:
        model: With `MuraModel`s in it, where `layer_decay` is below 1.
        learning_rate: Of the heads.
        weight_decay: Of matrices and kernels.
        layer_decay: In (0, 1]; 1 is one rate for all.

    Returns:
        Dicts with `params`, `lr` and `weight_decay`. Without decay by layers two of them, in this order: what is
        decayed and what is not.

    Raises:
        ValueError: If nothing is trained.
        ConfigError: If a backbone does not tell its layers apart.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise ValueError("nothing of the model is trained; raise train_last, or choose another stage")
    if layer_decay == 1:
        return _plain_groups(trained, learning_rate, weight_decay)
    groups = [
        {"params": group["params"], "lr": learning_rate * group["lr_scale"], "weight_decay": group["weight_decay"]}
        for inner in model.modules()
        if isinstance(inner, MuraModel)
        for group in _layers(inner, weight_decay, layer_decay)
    ]
    placed = {id(parameter) for group in groups for parameter in group["params"]}
    rest = [parameter for parameter in trained if id(parameter) not in placed]
    return [*groups, *(group for group in _plain_groups(rest, learning_rate, weight_decay) if group["params"])]


def _plain_groups(parameters: Iterable[nn.Parameter], rate: float, weight_decay: float) -> list[dict[str, Any]]:
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in parameters:
        (decayed if parameter.ndim > 1 else others).append(parameter)
    return [
        {"params": decayed, "lr": rate, "weight_decay": weight_decay},
        {"params": others, "lr": rate, "weight_decay": 0.0},
    ]


def _layers(inner: MuraModel, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """timm's groups of a backbone."""
    whole: Any = _WithHead(inner.backbone)
    try:
        return param_groups_layer_decay(whole, weight_decay=weight_decay, layer_decay=layer_decay)
    except (AttributeError, AssertionError, KeyError, NotImplementedError) as error:
        raise ConfigError(
            f"layer_decay: backbone {inner.config.backbone} does not tell its layers apart; set it to 1, or choose a "
            "backbone such as convnext_tiny, resnet50, densenet169 or vit_small_patch16_224"
        ) from error
