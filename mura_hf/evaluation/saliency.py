"""Evaluation of heatmaps: by boxes, by added findings, by the prediction, and by what the model has learned."""

import copy
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import cv2
import numpy as np
import torch
from datasets import Dataset, Image
from scipy.stats import spearmanr
from torch import nn
from torch.nn import functional
from tqdm.auto import tqdm

from ..errors import CheckpointError, DatasetError
from ..explain import explain
from ..inference import StudyPredictor
from ..metrics import mean_with_interval
from ..models import BODY_PARTS, MuraForImageClassification
from ..radiographs import read_radiograph
from .pointing_game import (
    find_heatmap,
    play_pointing_game,
    projection_agreement,
)
from .prediction_cache import PredictionCache
from .splits import body_part_of, image_source, spread_indices

SIZES: dict[str, dict[str, Any]] = {
    "randomization": {"n_views": 24, "n_seeds": 5, "steps": 8},
    "insertion_deletion": {"n_views": 48, "steps": 12},
}
"""Options of the measurements in `measure_saliency`."""

_GRID = 24  # side at which two heatmaps are compared
_BLUR = 5 / 224  # standard deviation of the blur as a share of the image's side, as in RISE


def measure_saliency(cache: PredictionCache, predictor: StudyPredictor) -> dict[str, Any]:
    """Runs every evaluation of heatmaps that checkpoint and data allow.

    Returns:
        `randomization`, see `measure_randomization`. If the checkpoint has heatmaps: `insertion_deletion`, see
        `measure_insertion_deletion`; with boxes, `pointing_game`, see `PointingGame.report`, and `projections`, see
        `projection_agreement`.
    """
    rows = cache.rows

    def measure(name: str, function: Callable[..., Any], *given: Any) -> dict[str, Any]:
        return {name: cache.measure_once(name, SIZES[name], lambda: function(predictor, *given, **SIZES[name]))}

    report = measure("randomization", measure_randomization, rows)
    if "none" in report["randomization"]:
        return report
    report |= measure("insertion_deletion", measure_insertion_deletion, rows)
    with suppress(DatasetError):  # no boxes, or no heatmaps for them
        report |= cache.measure_once("pointing_game", {}, lambda: _pointing_game(predictor, rows))
    return report


def _pointing_game(predictor: StudyPredictor, rows: Dataset) -> dict[str, Any]:
    game = play_pointing_game(predictor, rows)
    agreement = projection_agreement(game)
    return {"pointing_game": game.report(), **({} if agreement is None else {"projections": agreement})}


def select_abnormal(rows: Dataset, n: int) -> Dataset:
    """Selects at most `n` evenly spaced abnormal views, not decoded; any views if none is abnormal.

    Heatmaps show evidence for abnormal, so those of normal views are rightly empty.
    """
    abnormal = np.flatnonzero(np.asarray(rows["label"]) == 1)
    candidates = abnormal if len(abnormal) else np.arange(len(rows))
    rows = rows.cast_column("image", Image(decode=False))
    return rows.select(candidates[spread_indices(len(candidates), n)])


def measure_randomization(
    predictor: StudyPredictor, rows: Dataset, *, n_views: int, n_seeds: int, steps: int
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

    by_seed = []
    for seed in tqdm(range(n_seeds), desc="Shuffling weights", leave=False):
        shuffled = copy.deepcopy(predictor.model)
        _shuffle([*shuffled.parameters(), *shuffled.buffers()], seed)
        by_seed.append(compare(shuffled))
    medians = [float(np.median(found)) for found, _ in by_seed if found]
    cascade = []
    for step in tqdm(range(1, steps + 1), desc="Shuffling from the output down", leave=False):
        shuffled = copy.deepcopy(predictor.model)
        stacks = [stack[: round(len(stack) * step / steps)] for stack in _layers(shuffled)]
        modules = {id(module): module for stack in stacks for module in stack}.values()
        weights = [[*module.parameters(recurse=False), *module.buffers(recurse=False)] for module in modules]
        _shuffle([values for own in weights for values in own], seed=0)
        found, constant = compare(shuffled)
        cascade.append({
            "layers": step / steps,
            "constant": constant / len(views),
            "median_absolute_correlation": _median(found),
        })  # fmt: skip
    return {
        "n": len(views),
        "seeds": n_seeds,
        "constant": sum(map(_is_constant, originals)) / len(views),
        "constant_shuffled": sum(constant for _, constant in by_seed) / (len(views) * n_seeds),
        "median_absolute_correlation": _median([value for found, _ in by_seed for value in found]),
        "low": min(medians, default=None),
        "high": max(medians, default=None),
        "cascade": cascade,
    }


def _downscale(heatmap: np.ndarray) -> np.ndarray:
    return cv2.resize(heatmap, (_GRID, _GRID), interpolation=cv2.INTER_AREA).ravel()


def _is_constant(values: np.ndarray) -> bool:
    return bool(values.max() - values.min() < 1e-6)


def _median(values: list[float]) -> float | None:
    return float(np.median(values)) if values else None


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
    networks: list[nn.Module] = [one for one in model.modules() if isinstance(one, MuraForImageClassification)]
    networks = networks or [model]
    inside = {id(module) for network in networks for module in network.modules()}
    above = [module for module in model.modules() if id(module) not in inside]
    stacks = [[*above, *reversed(list(network.modules()))] for network in networks]
    return [[module for module in stack if any(True for _ in module.parameters(recurse=False))] for stack in stacks]


def measure_insertion_deletion(
    predictor: StudyPredictor, rows: Dataset, *, n_views: int, steps: int
) -> dict[str, Any]:
    """Measures insertion and deletion curves (Petsiuk et al., "RISE", arXiv 1806.07421, section 4.1).

    For `deletion`, pixels are replaced by the image's mean, hottest first. A good heatmap makes P(abnormal) fall
    early: a small area under the curve. For `insertion`, pixels are put back into a blurred image, and a good heatmap
    makes P(abnormal) rise early: a large area. The baseline is a random map of the same resolution, enlarged in the
    same way.

    Args:
        predictor: A checkpoint with heatmaps.
        rows: Evenly spaced abnormal views are taken from these. Views with an empty heatmap do not count.
        n_views: Largest number of views.
        steps: Number of steps in which pixels are replaced.

    Returns:
        `n`, and `deletion` and `insertion`: `area` and `random_area`, means in [0, 1], and their `difference` with
        `low` and `high` (95 % interval over patients). Only `n` if every heatmap is empty.
    """
    curves, patients = [], []
    for number, row in enumerate(tqdm(select_abnormal(rows, n_views), "Insertion and deletion", leave=False)):
        of_view = _curves(predictor, row, steps, number)
        if of_view is not None:
            patients.append(row["patient_id"])
            curves.append(of_view)
    if not patients:
        return {"n": 0}
    report: dict[str, Any] = {"n": len(patients)}
    for name in ("deletion", "insertion"):
        values = np.stack([of_view[name] for of_view in curves])
        areas = np.trapezoid(values, dx=1 / steps, axis=2)
        difference = mean_with_interval(areas[:, 0] - areas[:, 1], patients)
        report[name] = {
            "area": float(areas[:, 0].mean()),
            "random_area": float(areas[:, 1].mean()),
            "difference": difference.pop("mean"),
            **difference,
        }
    return report


def _curves(predictor: StudyPredictor, row: dict[str, Any], steps: int, seed: int) -> dict[str, np.ndarray] | None:
    """P(abnormal) of a view after each step, by its heatmap and by a random map: each `[2, steps + 1]`.

    None if the heatmap is empty.
    """
    model = predictor.model
    pixels = predictor.pixel_values([read_radiograph(image_source(row["image"]))]).to(model.device, model.dtype)
    options: dict[str, Any] = {}
    part = body_part_of(row)
    if model.NEEDS_PART and part is not None:
        options["body_parts"] = torch.tensor([BODY_PARTS.index(part)], device=model.device)
    heatmaps = explain(model, pixels, **options)
    if not heatmaps.maps.any():
        return None
    height, width = pixels.shape[-2:]
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(1, 1, *heatmaps.map_sizes[0], generator=generator)
    noise = functional.interpolate(noise, (height, width), mode="bicubic")[:, 0].to(model.device)
    mean = pixels.mean((2, 3), keepdim=True).expand_as(pixels)
    planes = pixels[0].float().cpu().numpy()
    blurred = np.stack([cv2.GaussianBlur(plane, (0, 0), _BLUR * min(height, width)) for plane in planes])
    soft = torch.from_numpy(blurred)[None].to(pixels)
    curves: dict[str, list[np.ndarray]] = {"deletion": [], "insertion": []}
    for heat in (heatmaps.maps + 1e-6 * noise, noise):  # cold pixels follow in random order
        rank = heat.flatten().argsort(descending=True).argsort().view(1, 1, height, width) / heat.numel()
        shares = torch.linspace(0, 1, steps + 1, device=model.device).view(-1, 1, 1, 1)
        replaced = rank < shares
        curves["deletion"].append(_probabilities(model, torch.where(replaced, mean, pixels), options))
        curves["insertion"].append(_probabilities(model, torch.where(replaced, pixels, soft), options))
    return {name: np.stack(values) for name, values in curves.items()}


@torch.no_grad()
def _probabilities(model: Any, images: torch.Tensor, options: dict[str, Any]) -> np.ndarray:
    options = {name: values.expand(len(images)) for name, values in options.items()}
    return model.classify_views(images, **options).logits.double().softmax(-1)[:, 1].cpu().numpy()
