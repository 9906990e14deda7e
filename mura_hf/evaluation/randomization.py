"""Whether heatmaps depend on what a model has learned."""

import copy
from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
import torch
from datasets import Dataset
from scipy.stats import spearmanr
from torch import nn
from tqdm.auto import tqdm

from ..errors import CheckpointError
from ..inference import StudyPredictor
from ..models import MuraForImageClassification
from .pointing_game import find_heatmap, take_abnormal

N_VIEWS = 24
N_SEEDS = 5
STEPS = 8
_GRID = 24  # places a side at which two heatmaps are compared


def measure_randomization(
    predictor: StudyPredictor,
    rows: Dataset,
    *,
    n_views: int = N_VIEWS,
    n_seeds: int = N_SEEDS,
    steps: int = STEPS,
    progress: bool = True,
) -> dict[str, Any]:
    """Compares heatmaps with those of the same model without what it has learned.

    The model parameter randomisation tests of Adebayo et al., "Sanity checks for saliency maps", arXiv 1810.03292,
    section 4: all layers at once, and cascading, from the answer down to the pixels. Weights are not drawn anew:
    within each tensor they are shuffled, so that their sizes stay. Heatmaps are compared by the absolute rank
    correlation of the maps as drawn, in 24 x 24 places. One near 1 would mean that a map shows the picture's edges,
    whatever the model knows.

    Args:
        predictor: The checkpoint.
        rows: Views to take abnormal ones from, spread evenly.
        n_views: How many.
        n_seeds: Shufflings of all layers.
        steps: Of the cascade, which is shuffled once.
        progress: Whether to show a progress bar.

    Returns:
        `n` and `seeds`; `constant`, the share of the checkpoint's own heatmaps that are the same all over;
        `constant_shuffled`, of the shuffled models'; `median_absolute_correlation` over pairs of maps that are not
        constant (None where there is none) with `low` and `high`, the lowest and the highest median of a seed; and
        `cascade`, one dict a step with `layers`, the share of layers shuffled, counted from the answer, `constant` (of
        that model's heatmaps) and `median_absolute_correlation`. Or, where the checkpoint has no heatmaps, `none`:
        why.
    """
    chosen = take_abnormal(rows, n_views)
    try:
        learned = [_places(find_heatmap(predictor, row)) for row in chosen]
    except CheckpointError as error:
        return {"none": str(error)}

    def compare(model: Any) -> tuple[list[float], int]:
        """Correlations of pairs that are not constant, and how many of the other maps are."""
        other = copy.copy(predictor)
        other.model = model
        maps = [_places(find_heatmap(other, row)) for row in chosen]
        pairs = [(one, two) for one, two in zip(learned, maps, strict=True) if not _is_flat(one) and not _is_flat(two)]
        return [abs(float(spearmanr(one, two).statistic)) for one, two in pairs], sum(map(_is_flat, maps))

    correlations, flat = [], 0
    for seed in tqdm(range(n_seeds), desc="Shuffling weights", disable=not progress):
        shuffled = copy.deepcopy(predictor.model)
        _shuffle([*shuffled.parameters(), *shuffled.buffers()], seed)
        found, constant = compare(shuffled)
        correlations.append(found)
        flat += constant
    medians = [float(np.median(found)) for found in correlations if found]
    every = [value for found in correlations for value in found]
    cascade = []
    for step in tqdm(range(1, steps + 1), desc="Shuffling from the answer down", disable=not progress):
        shuffled = copy.deepcopy(predictor.model)
        stacks = [stack[: round(len(stack) * step / steps)] for stack in _layers(shuffled)]
        modules = {id(module): module for stack in stacks for module in stack}.values()
        weights = [[*module.parameters(recurse=False), *module.buffers(recurse=False)] for module in modules]
        _shuffle([values for own in weights for values in own], seed=0)
        found, constant = compare(shuffled)
        cascade.append(
            {
                "layers": step / steps,
                "constant": constant / len(chosen),
                "median_absolute_correlation": float(np.median(found)) if found else None,
            }
        )
    return {
        "n": len(chosen),
        "seeds": n_seeds,
        "constant": sum(map(_is_flat, learned)) / len(chosen),
        "constant_shuffled": flat / (len(chosen) * n_seeds),
        "median_absolute_correlation": float(np.median(every)) if every else None,
        "low": min(medians, default=None),
        "high": max(medians, default=None),
        "cascade": cascade,
    }


def _places(heatmap: np.ndarray) -> np.ndarray:
    """A heatmap in few places, `[places]`."""
    return cv2.resize(heatmap, (_GRID, _GRID), interpolation=cv2.INTER_AREA).ravel()


def _is_flat(values: np.ndarray) -> bool:
    return bool(values.max() - values.min() < 1e-6)


@torch.no_grad()
def _shuffle(weights: Iterable[torch.Tensor], seed: int) -> None:
    """Puts the values of each weight, or each statistic of a norm, into another order."""
    generator = torch.Generator().manual_seed(seed)
    for values in weights:
        if values.is_floating_point() and values.numel() > 1:
            order = torch.randperm(values.numel(), generator=generator).to(values.device)
            values.copy_(values.reshape(-1)[order].view(values.shape))


def _layers(model: nn.Module) -> list[list[nn.Module]]:
    """Modules that have weights of their own, from the answer down, of each network in a model.

    Networks and their layers are registered in the order in which they are run, heads after the backbone.
    """
    networks: list[nn.Module] = [
        module for module in model.modules() if isinstance(module, MuraForImageClassification)
    ] or [model]
    inside = {id(module) for network in networks for module in network.modules()}
    above = [module for module in model.modules() if id(module) not in inside]
    stacks = [[*above, *reversed(list(network.modules()))] for network in networks]
    return [[module for module in stack if any(True for _ in module.parameters(recurse=False))] for stack in stacks]
