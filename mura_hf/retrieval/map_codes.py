"""The mean of each channel of the last feature maps: what tells whether a picture is like those of training."""

from typing import Any

import torch

from ..errors import CheckpointError
from ..models import MuraImageClassifierOutput


def map_codes(output: MuraImageClassifierOutput) -> torch.Tensor:
    """Means over the places of the last feature map, whatever pooling the answer itself rests on.

    A maximum, which some checkpoints pool by, forgets all of a picture but its strongest places; the mean keeps what
    the whole of it looks like. Of FuseNet's branches and of an ensemble's members, one code stands behind the other;
    with `test_time_flip`, it is the mean of both mirror images' codes.

    Args:
        output: Of a model's `classify_views`; of a study, `StudyOutput.views`.

    Returns:
        float32 `[B, D]`, on the model's device, without a graph.

    Raises:
        CheckpointError: If the model has no such map, or views went to models of their own, whose maps do not compare.
    """
    return torch.cat([_mean(one) for one in _maps(output)], dim=1)


def _maps(output: Any) -> list[tuple[torch.Tensor, ...]]:
    """The maps, each with that of the mirror image where there is one."""
    if getattr(output, "rows", None) is not None:
        raise CheckpointError(
            "views are answered by a model for each body part, whose feature maps do not compare, so this checkpoint "
            "cannot tell whether a study is like those of training"
        )
    members = getattr(output, "members", None)
    if members is not None:
        return [one for member in members.values() for one in _maps(member)]
    if output.feature_map is None:
        raise CheckpointError(
            "this checkpoint gives no feature map, so it cannot tell whether a study is like those of training"
        )
    mirrored, local = output.mirrored_feature_map, getattr(output, "local_feature_map", None)
    maps: list[tuple[torch.Tensor, ...]] = [
        (output.feature_map,) if mirrored is None else (output.feature_map, mirrored)
    ]
    return maps if local is None else [*maps, (local,)]


def _mean(maps: tuple[torch.Tensor, ...]) -> torch.Tensor:
    means = [one.detach().float().mean((2, 3) if one.ndim == 4 else 1) for one in maps]
    return torch.stack(means).mean(0)
