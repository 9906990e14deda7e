"""Model parameter randomisation: do heatmaps depend on what the model has learned?"""

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
from .pointing_game import find_heatmap, select_abnormal

N_VIEWS = 24
N_SEEDS = 5
STEPS = 8
_GRID = 24  # side at which two heatmaps are compared


def measure_randomization(
    predictor: StudyPredictor,
    rows: Dataset,
    *,
    n_views: int = N_VIEWS,
    n_seeds: int = N_SEEDS,
    steps: int = STEPS,
    progress: bool = True,
) -> dict[str, Any]:
    """Compares heatmaps with those of the same model after its weights were shuffled.

    These are the tests of Adebayo et al., "Sanity checks for saliency maps", arXiv 1810.03292, section 4: all layers
    at once, and cascading from the output down to the input. Weights are shuffled within each tensor instead of drawn
    anew, so their scale stays the same. Heatmaps are compared by the absolute rank correlation at 24 x 24 pixels. A
    value near 1 means that heatmaps show the image's edges, whatever the model has learned.

    Args:
        predictor: The checkpoint.
        rows: Evenly spaced abnormal views are taken from these.
        n_views: Number of views.
        n_seeds: Number of times that all layers are shuffled.
        steps: Number of steps of the cascade, which is run once.
        progress: Whether to show progress bars.

    Returns:
        `n` and `seeds`; `constant` and `constant_shuffled`, the share of heatmaps with the same value everywhere,
        before and after shuffling; `median_absolute_correlation` over pairs that are not constant (None if there are
        none), with `low` and `high`, the lowest and the highest median of a seed; `cascade`, for each step the share
        of `layers` shuffled, counted from the output, `constant` and `median_absolute_correlation`. If the checkpoint
        has no heatmaps, only `none`, the reason.
    """
    views = select_abnormal(rows, n_views)
    try:
        originals = [_downscale(find_heatmap(predictor, row)) for row in views]
    except CheckpointError as error:
        return {"none": str(error)}

    def compare(model: Any) -> tuple[list[float], int]:
        """Returns the correlations of pairs that are not constant, and the number of constant heatmaps."""
        shuffled_predictor = copy.copy(predictor)
        shuffled_predictor.model = model
        maps = [_downscale(find_heatmap(shuffled_predictor, row)) for row in views]
        pairs = [pair for pair in zip(originals, maps, strict=True) if not any(map(_is_constant, pair))]
        return [abs(float(spearmanr(*pair).statistic)) for pair in pairs], sum(map(_is_constant, maps))

    correlations, n_constant = [], 0
    for seed in tqdm(range(n_seeds), desc="Shuffling weights", disable=not progress):
        shuffled = copy.deepcopy(predictor.model)
        _shuffle([*shuffled.parameters(), *shuffled.buffers()], seed)
        found, constant = compare(shuffled)
        correlations.append(found)
        n_constant += constant
    medians = [float(np.median(found)) for found in correlations if found]
    all_correlations = [value for found in correlations for value in found]
    cascade = []
    for step in tqdm(range(1, steps + 1), desc="Shuffling from the output down", disable=not progress):
        shuffled = copy.deepcopy(predictor.model)
        stacks = [stack[: round(len(stack) * step / steps)] for stack in _layers(shuffled)]
        modules = {id(module): module for stack in stacks for module in stack}.values()
        weights = [[*module.parameters(recurse=False), *module.buffers(recurse=False)] for module in modules]
        _shuffle([values for own in weights for values in own], seed=0)
        found, constant = compare(shuffled)
        cascade.append({
            "layers": step / steps,
            "constant": constant / len(views),
            "median_absolute_correlation": float(np.median(found)) if found else None,
        })  # fmt: skip
    return {
        "n": len(views),
        "seeds": n_seeds,
        "constant": sum(map(_is_constant, originals)) / len(views),
        "constant_shuffled": n_constant / (len(views) * n_seeds),
        "median_absolute_correlation": float(np.median(all_correlations)) if all_correlations else None,
        "low": min(medians, default=None),
        "high": max(medians, default=None),
        "cascade": cascade,
    }


def _downscale(heatmap: np.ndarray) -> np.ndarray:
    return cv2.resize(heatmap, (_GRID, _GRID), interpolation=cv2.INTER_AREA).ravel()


def _is_constant(values: np.ndarray) -> bool:
    return bool(values.max() - values.min() < 1e-6)


@torch.no_grad()
def _shuffle(weights: Iterable[torch.Tensor], seed: int) -> None:
    """Shuffles the values within each tensor in place."""
    generator = torch.Generator().manual_seed(seed)
    for values in weights:
        if values.is_floating_point() and values.numel() > 1:
            order = torch.randperm(values.numel(), generator=generator).to(values.device)
            values.copy_(values.reshape(-1)[order].view(values.shape))


def _layers(model: nn.Module) -> list[list[nn.Module]]:
    """Returns the modules with own weights of each network in a model, from the output down.

    Modules are registered in the order in which they run, heads after the backbone.
    """
    networks: list[nn.Module] = [
        module for module in model.modules() if isinstance(module, MuraForImageClassification)
    ] or [model]
    inside = {id(module) for network in networks for module in network.modules()}
    above = [module for module in model.modules() if id(module) not in inside]
    stacks = [[*above, *reversed(list(network.modules()))] for network in networks]
    return [[module for module in stack if any(True for _ in module.parameters(recurse=False))] for stack in stacks]
