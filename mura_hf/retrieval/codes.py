"""One code for each view, whatever the family of the model: what retrieval compares."""

from typing import Any

import torch

from ..errors import CheckpointError
from ..models import (
    MuraClassifier,
    MuraEnsembleForImageClassification,
    MuraForMetricLearning,
    MuraFuseNetForImageClassification,
    MuraImageClassifierOutput,
    MuraSpecializedForImageClassification,
)


def view_codes(model: MuraClassifier, output: MuraImageClassifierOutput) -> torch.Tensor:
    """The codes of views, from the forward pass that answered for them.

    A model with one backbone gives its pooled code, FuseNet both branches' one behind the other, and a metric-learning
    model its embedding, which is what its loss compared. An ensemble's code holds its members', each scaled by the
    root of its weight: the squared distance of two views is then the weighted mean of the members'. Of a specialised
    model every part has places of its own, with zeros in those of the others, since two members' codes do not compare:
    any two views of different parts are as far apart as their codes are long together.

    Args:
        model: The model.
        output: Of its `classify_views`; of a study, `StudyOutput.views`.

    Returns:
        float32 `[B, D]`, on the model's device, without a graph.

    Raises:
        CheckpointError: If the model has no pooled code.
    """
    return _codes(model, output).detach().float()


def _codes(model: Any, output: Any) -> torch.Tensor:
    if isinstance(model, MuraEnsembleForImageClassification):
        shares = {name: share for name, share in model.config.weights.items() if share > 0}
        members = [share**0.5 * _codes(model.members[name], output.members[name]) for name, share in shares.items()]
        return torch.cat(members, dim=1)
    if isinstance(model, MuraSpecializedForImageClassification):
        return _codes_by_part(model, output)
    embeddings = getattr(output, "embeddings", None)
    code = output.pooler_output if embeddings is None else embeddings
    if code is None:
        raise CheckpointError(
            f"a model of type {model.config.model_type!r} with {model.config.backbone or 'an unknown backbone'} gives "
            "no pooled code, so that its views cannot be compared; use a checkpoint of mura_hf, or one whose network "
            "has a feature map"
        )
    return code


def _codes_by_part(model: Any, output: Any) -> torch.Tensor:
    """Each part's codes at places of its own, `[B, sum of the members' widths]`."""
    widths = {part: _width(member) for part, member in model.members.items()}
    found = {part: _codes(model.members[part], one) for part, one in output.members.items()}
    rows = {part: output.rows[part] for part in found}
    codes = next(iter(found.values())).new_zeros(sum(map(len, rows.values())), sum(widths.values()))
    start = 0
    for part, width in widths.items():
        if part in found:
            codes[rows[part], start : start + width] = found[part]
        start += width
    return codes


def _width(member: Any) -> int:
    """How many numbers the code of a member has."""
    if isinstance(member, MuraForMetricLearning):
        return member.config.embedding_size
    if isinstance(member, MuraFuseNetForImageClassification):
        return 2 * member.global_branch.mura.hidden_size
    return member.mura.hidden_size
