"""Model and image processor of a checkpoint: one of ours, or someone else's."""

from typing import Any, NamedTuple

import torch
from transformers import AutoConfig

from ..errors import CheckpointError
from ..models import CLASSIFIERS, LABELS, MuraClassifier, MuraForStudyClassification, MuraImageProcessor
from .other_checkpoint import OTHER_WARNING, load_other
from .other_processor import OtherProcessor
from .sources import Source


class Loaded(NamedTuple):
    """A checkpoint in memory, with sentences that belong beside each of its answers for where it comes from."""

    model: MuraClassifier
    processor: MuraImageProcessor | OtherProcessor
    warnings: list[str]


def load_checkpoint(source: Source, dtype: str | torch.dtype, abnormal_label: str | None) -> Loaded:
    """Loads a checkpoint; code that came with it is never run.

    Args:
        source: From `find_source`.
        dtype: Of the weights.
        abnormal_label: The label that means abnormal, for checkpoints of others; found by its words where None.

    Raises:
        CheckpointError: If it is none that can answer.
    """
    place = source.location
    pinned = {} if source.revision is None else {"revision": source.revision}
    try:
        config = AutoConfig.from_pretrained(place, trust_remote_code=False, **pinned)
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise CheckpointError(
            f"{place} needs code of its own, which is never run here; it must be of a kind that transformers knows"
        ) from error
    if config.model_type not in CLASSIFIERS:
        model, processor = load_other(place, config, dtype, pinned, abnormal_label)
        return Loaded(model, processor, [OTHER_WARNING])
    if abnormal_label is not None and abnormal_label.strip().casefold() != LABELS[1]:
        raise CheckpointError(
            f"{place} is a checkpoint of mura_hf, whose labels are “{LABELS[0]}” and “{LABELS[1]}”; leave "
            f"abnormal_label “{abnormal_label}” out"
        )
    kind: Any = MuraForStudyClassification if config.model_type == "mura" else CLASSIFIERS[config.model_type]
    return Loaded(
        kind.from_pretrained(place, config=config, dtype=dtype, **pinned),
        MuraImageProcessor.from_pretrained(place, **pinned),
        [],
    )
