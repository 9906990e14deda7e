"""Rows of a split and the heatmaps of their views."""

from typing import Any

import numpy as np
from datasets import Dataset, Image

from ..errors import CheckpointError
from ..inference import StudyPredictor
from ..models import BODY_PARTS
from .picking import file_of, spread


def find_heatmap(predictor: StudyPredictor, row: dict[str, Any]) -> np.ndarray:
    """The heatmap of a row's view, float32 `[H, W]` in [0, 1].

    Args:
        predictor: The checkpoint.
        row: Of `load_mura`, its image not decoded.

    Raises:
        CheckpointError: If the checkpoint has no heatmaps; the message says why.
    """
    study = predictor([file_of(row["image"])], body_part=body_part_of(row))
    heatmap = study.views[0].heatmap
    if heatmap is None:
        told = [warning for warning in study.warnings if warning.startswith("No heatmap")]
        raise CheckpointError(told[0] if told else f"{predictor.checkpoint} gives no heatmaps")
    return heatmap


def body_part_of(row: dict[str, Any]) -> str | None:
    """The body part of a row, for models that need to be told."""
    return None if row["body_part"] is None else BODY_PARTS[row["body_part"]]


def take_abnormal(rows: Dataset, n: int) -> Dataset:
    """Some abnormal views, spread evenly, not decoded; of any kind where none is abnormal.

    A heatmap shows evidence for abnormal, and of a normal view there is rightly none to be shown.
    """
    abnormal = np.flatnonzero(np.asarray(rows["label"]) == 1)
    places = abnormal if len(abnormal) else np.arange(len(rows))
    chosen = spread(len(places), n)
    return rows.cast_column("image", Image(decode=False)).select(places[chosen])
