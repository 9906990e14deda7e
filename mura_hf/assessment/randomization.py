"""Whether heatmaps depend on what a model has learned."""

import copy
from typing import Any

import cv2
import numpy as np
import torch
from datasets import Dataset, Image
from scipy.stats import spearmanr
from tqdm.auto import tqdm

from ..errors import CheckpointError
from ..inference import StudyPredictor
from ..models import BODY_PARTS

N_VIEWS = 24
N_SEEDS = 5
_GRID = 24  # places a side at which two heatmaps are compared


def measure_randomization(
    predictor: StudyPredictor, rows: Dataset, *, n_views: int = N_VIEWS, n_seeds: int = N_SEEDS, progress: bool = True
) -> dict[str, Any]:
    """Compares heatmaps with those of the same model without what it has learned.

    The model parameter randomisation test of Adebayo et al., "Sanity checks for saliency maps", arXiv 1810.03292,
    section 4, all layers at once. Weights are not drawn anew: within each tensor they are shuffled, so that their
    sizes stay. Heatmaps are compared by the absolute rank correlation of the maps as drawn, in 24 x 24 places. One
    near 1 would mean that a map shows the picture's edges, whatever the model knows.

    Args:
        predictor: The checkpoint.
        rows: Views to take some from, spread evenly.
        n_views: How many.
        n_seeds: Shufflings.
        progress: Whether to show a progress bar.

    Returns:
        `n` and `seeds`; `constant`, the share of the checkpoint's own heatmaps that are the same all over;
        `constant_shuffled`, of the shuffled models'; `median_absolute_correlation` over pairs of maps that are not
        constant (None where there is none) with `low` and `high`, the lowest and the highest median of a seed. Or,
        where the checkpoint has no heatmaps, `none`: why.
    """
    places = np.unique(np.linspace(0, len(rows) - 1, min(n_views, len(rows))).astype(int))
    chosen = rows.cast_column("image", Image(decode=False)).select(places)
    try:
        learned = [_heatmap(predictor, row) for row in chosen]
    except CheckpointError as error:
        return {"none": str(error)}
    shuffled = copy.copy(predictor)
    correlations: list[list[float]] = []
    flat = 0
    for seed in tqdm(range(n_seeds), desc="Shuffling weights", disable=not progress):
        shuffled.model = _shuffle(copy.deepcopy(predictor.model), seed)
        maps = [_heatmap(shuffled, row) for row in chosen]
        flat += sum(map(_is_flat, maps))
        pairs = [(one, other) for one, other in zip(learned, maps, strict=True) if not _is_flat(one)]
        correlations.append(
            [abs(float(spearmanr(one, other).statistic)) for one, other in pairs if not _is_flat(other)]
        )
    medians = [float(np.median(found)) for found in correlations if found]
    every = [value for found in correlations for value in found]
    return {
        "n": len(chosen),
        "seeds": n_seeds,
        "constant": sum(map(_is_flat, learned)) / len(chosen),
        "constant_shuffled": flat / (len(chosen) * n_seeds),
        "median_absolute_correlation": float(np.median(every)) if every else None,
        "low": min(medians, default=None),
        "high": max(medians, default=None),
    }


def _heatmap(predictor: StudyPredictor, row: dict[str, Any]) -> np.ndarray:
    """The heatmap of a view in few places, `[places]`.

    Raises:
        CheckpointError: If there is none.
    """
    picture = row["image"]
    file = picture["path"] if picture["bytes"] is None else picture["bytes"]
    part = None if row["body_part"] is None else BODY_PARTS[row["body_part"]]
    study = predictor([file], body_part=part)
    heatmap = study.views[0].heatmap
    if heatmap is None:
        told = [warning for warning in study.warnings if warning.startswith("No heatmap")]
        raise CheckpointError(told[0] if told else f"{predictor.checkpoint} gives no heatmaps")
    return cv2.resize(heatmap, (_GRID, _GRID), interpolation=cv2.INTER_AREA).ravel()


def _is_flat(values: np.ndarray) -> bool:
    return bool(values.max() - values.min() < 1e-6)


@torch.no_grad()
def _shuffle(model: Any, seed: int) -> Any:
    """The model with the values of each weight and each statistic of a norm in another order."""
    generator = torch.Generator().manual_seed(seed)
    for values in [*model.parameters(), *model.buffers()]:
        if values.is_floating_point() and values.numel() > 1:
            order = torch.randperm(values.numel(), generator=generator).to(values.device)
            values.copy_(values.reshape(-1)[order].view(values.shape))
    return model
