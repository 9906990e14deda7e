"""Backbones by name, timm's and ours, as the models of the mura family use them."""

import contextlib
import copy
from typing import Any

import torch
from torch import nn

from .configuration_mura import MuraConfig
from .errors_mura import CheckpointError
from .small_cnns_mura import SMALL_CNNS, create_small_cnn


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
