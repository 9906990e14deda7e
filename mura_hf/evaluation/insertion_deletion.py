"""Insertion and deletion: does the prediction depend on what the heatmap shows?"""

from typing import Any

import cv2
import numpy as np
import torch
from datasets import Dataset
from torch.nn import functional
from tqdm.auto import tqdm

from ..explain import explain
from ..inference import StudyPredictor
from ..metrics import bootstrap_mean
from ..models import BODY_PARTS
from ..radiographs import read_radiograph
from .pointing_game import select_abnormal
from .prediction_cache import body_part_of, image_source

N_VIEWS = 48
STEPS = 12
_BLUR = 5 / 224  # standard deviation of the blur as a share of the image's side, as in RISE


def measure_insertion_deletion(
    predictor: StudyPredictor, rows: Dataset, *, n_views: int = N_VIEWS, steps: int = STEPS, progress: bool = True
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
        progress: Whether to show a progress bar.

    Returns:
        `n`, and `deletion` and `insertion`: `area` and `random_area`, means in [0, 1]; their `difference` with `low`
        and `high` (95 % interval from a bootstrap over patients); and `curve` and `random_curve`, the mean probability
        after each step (`steps + 1` values). Only `n` if every heatmap is empty.
    """
    curves: dict[str, list[np.ndarray]] = {"deletion": [], "insertion": []}
    patients = []
    views = select_abnormal(rows, n_views)
    for number, row in enumerate(tqdm(views, desc="Insertion and deletion", disable=not progress)):
        of_view = _curves(predictor, row, steps, number)
        if of_view is not None:
            patients.append(row["patient_id"])
            for name, values in of_view.items():
                curves[name].append(values)
    if not patients:
        return {"n": 0}
    summaries = {name: _summary(np.stack(values), np.asarray(patients)) for name, values in curves.items()}
    return {"n": len(patients), **summaries}


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


def _summary(curves: np.ndarray, patients: np.ndarray) -> dict[str, Any]:
    """Summary of curves `[n, 2, steps + 1]`, by the heatmap and by the random map."""
    areas = np.trapezoid(curves, dx=1 / (curves.shape[2] - 1), axis=2)
    difference = areas[:, 0] - areas[:, 1]
    low, high = bootstrap_mean(difference, patients)
    return {
        "area": float(areas[:, 0].mean()),
        "random_area": float(areas[:, 1].mean()),
        "difference": float(difference.mean()),
        "low": low,
        "high": high,
        "curve": [round(float(value), 4) for value in curves[:, 0].mean(0)],
        "random_curve": [round(float(value), 4) for value in curves[:, 1].mean(0)],
    }
