"""Does the answer rest on what the heatmap shows? Deletion and insertion curves."""

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
from .pointing_game import body_part_of, take_abnormal
from .prediction_cache import file_of

N_VIEWS = 48
STEPS = 12
_BLUR = 5 / 224  # deviation of the blur in shares of the picture's side, as in RISE


def measure_erasing(
    predictor: StudyPredictor, rows: Dataset, *, n_views: int = N_VIEWS, steps: int = STEPS, progress: bool = True
) -> dict[str, Any]:
    """Takes what is hottest out of pictures, or puts it into blurred ones, and watches P(abnormal).

    Petsiuk et al., "RISE", arXiv 1806.07421, section 4.1: in `deletion`, pixels go over to the picture's mean, hottest
    first, and a right map makes the probability fall early: a small area under the curve. In `insertion` they come
    back into a blurred picture, and a right map makes it rise early: a large area. Beside each stands a random map of
    the same grain: noise on as many places as the model's own map has, enlarged in the same way.

    Args:
        predictor: The checkpoint; one that has heatmaps.
        rows: Views to take abnormal ones from, spread evenly. Those whose map is empty do not count.
        n_views: How many at most.
        steps: In which the pixels go.
        progress: Whether to show a progress bar.

    Returns:
        `n`, and `deletion` and `insertion`: each a dict with `area` and `random_area`, means in [0, 1], `difference`
        of the two with `low` and `high` (95 % interval by a bootstrap over patients), and `curve` and `random_curve`,
        the mean probability after each step, `steps + 1` values. Without a view that has heat, `n` alone.
    """
    curves: dict[str, list[np.ndarray]] = {"deletion": [], "insertion": []}
    patients = []
    chosen = take_abnormal(rows, n_views)
    for number, row in enumerate(tqdm(chosen, desc="Deletion and insertion", disable=not progress)):
        found = _curves(predictor, row, steps, number)
        if found is not None:
            patients.append(row["patient_id"])
            for name, values in found.items():
                curves[name].append(values)
    if not patients:
        return {"n": 0}
    return {
        "n": len(patients),
        **{name: _summary(np.stack(values), np.asarray(patients)) for name, values in curves.items()},
    }


def _curves(predictor: StudyPredictor, row: dict[str, Any], steps: int, seed: int) -> dict[str, np.ndarray] | None:
    """P(abnormal) of a view after each step, by its heatmap and by a random one: each `[2, steps + 1]`; None where the
    heatmap is empty.
    """
    picture, model = row["image"], predictor.model
    file = file_of(picture)
    pixels = predictor.pixel_values([read_radiograph(file)]).to(model.device, model.dtype)
    given: dict[str, Any] = {}
    part = body_part_of(row)
    if model.NEEDS_PART and part is not None:
        given["body_parts"] = torch.tensor([BODY_PARTS.index(part)], device=model.device)
    found = explain(model, pixels, **given)
    if not found.maps.any():
        return None
    height, width = pixels.shape[-2:]
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(1, 1, *found.map_sizes[0], generator=generator)
    noise = functional.interpolate(noise, (height, width), mode="bicubic")[:, 0].to(model.device)
    mean = pixels.mean((2, 3), keepdim=True).expand_as(pixels)
    planes = pixels[0].float().cpu().numpy()
    soft = np.stack([cv2.GaussianBlur(plane, (0, 0), _BLUR * min(height, width)) for plane in planes])
    blurred = torch.from_numpy(soft)[None].to(pixels)
    curves: dict[str, list[np.ndarray]] = {"deletion": [], "insertion": []}
    for heat in (found.maps + 1e-6 * noise, noise):  # where it is cold, the order is the random map's
        rank = heat.flatten().argsort(descending=True).argsort().view(1, 1, height, width) / heat.numel()
        shares = torch.linspace(0, 1, steps + 1, device=model.device).view(-1, 1, 1, 1)
        gone = rank < shares
        for name, series in (
            ("deletion", torch.where(gone, mean, pixels)),
            ("insertion", torch.where(gone, pixels, blurred)),
        ):
            curves[name].append(_probabilities(model, series, given))
    return {name: np.stack(values) for name, values in curves.items()}


@torch.no_grad()
def _probabilities(model: Any, pictures: torch.Tensor, given: dict[str, Any]) -> np.ndarray:
    same = {name: values.expand(len(pictures)) for name, values in given.items()}
    return model.classify_views(pictures, **same).logits.double().softmax(-1)[:, 1].cpu().numpy()


def _summary(curves: np.ndarray, patients: np.ndarray) -> dict[str, Any]:
    """Of curves `[n, 2, steps + 1]`, by the heatmap and by the random map."""
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
