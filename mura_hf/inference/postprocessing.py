"""From model output to `StudyPrediction`: heatmaps at the views' own size, consistency checks, assembly."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from ..explain import Heatmaps, explain, find_regions
from ..models import BANDS, BODY_PARTS, LABELS, MuraClassifier, MuraImageProcessor, StudyOutput
from ..radiographs import Radiograph
from ..retrieval import OODResult
from .external_model import ExternalProcessor
from .measured_performance import MeasuredPerformance
from .prediction import (
    OOD_WARNING,
    OUT_OF_DISTRIBUTION,
    UNUSUAL_VIEWS,
    StudyPrediction,
    ViewPrediction,
    find_leading_view,
)


def compute_heatmaps(
    model: MuraClassifier,
    processor: MuraImageProcessor | ExternalProcessor,
    output: StudyOutput,
    pixel_values: torch.Tensor,
    radiographs: Sequence[Radiograph],
    body_part: str | None,
    method: str,
) -> tuple[Heatmaps, list[np.ndarray]]:
    """Returns heatmaps of the model's input, and those of the views: float32 `[H, W]` in [0, 1] at their own size.

    Raises:
        CheckpointError: If the method does not work for this model, or the geometry of its processor is unknown.
    """
    parts = None
    if model.NEEDS_PART:
        routed = output.body_part_logits
        part = BODY_PARTS.index(body_part) if body_part is not None or routed is None else int(routed[0].argmax())
        parts = torch.full((len(pixel_values),), part, device=model.device)
    pixel_values = pixel_values.to(model.device, model.dtype)
    found = explain(model, pixel_values, output=output.views, method=method, body_parts=parts)
    maps = []
    for small, radiograph in zip(found.maps.cpu().numpy(), radiographs, strict=True):
        height, width = radiograph.pixels.shape
        restored = np.clip(processor.restore_map(small, height, width), 0.0, 1.0)
        # Normalised by the maximum inside the view; attention on the padding is ignored.
        peak = float(restored.max())
        maps.append(restored / peak if peak > 0 else restored)
    return found, maps


BODY_PART_CONFIDENCE = 0.9
"""Smallest probability of a predicted body part that counts in `find_conflicts`."""

Key = TypeVar("Key", str, bytes)


def find_conflicts(
    names: Sequence[str], radiographs: Sequence[Radiograph], part_probabilities: np.ndarray | None = None
) -> list[str]:
    """Returns warnings about views that cannot be one study: duplicates, and several patients, sides or body parts.

    The body part of a file's header takes precedence over the predicted `part_probabilities` `[V, 7]`.
    """
    warnings = [
        f"{_join(names, places)} show the same picture, which is counted once per file."
        for places in _group([_digest(radiograph) for radiograph in radiographs]).values()
        if len(places) > 1
    ]
    patients = _group([radiograph.patient_hash for radiograph in radiographs])
    if len(patients) > 1:
        divided = "; ".join(_join(names, places) for places in patients.values())
        warnings.append(
            f"These views are of {len(patients)} patients, according to the files: {divided}. Give the views of one "
            "study."
        )
    parts = [_find_part(view, part_probabilities, place) for place, view in enumerate(radiographs)]
    for values, beginning, end in (
        ([view.side for view in radiographs], "are of both sides, according to the files", "side"),
        (parts, "seem to show different body parts", "body part"),
    ):
        groups = _group(values)
        if len(groups) > 1:
            divided = "; ".join(f"{value}: {_join(names, places)}" for value, places in sorted(groups.items()))
            warnings.append(f"These views {beginning}: {divided}. A study is of one {end}.")
    return warnings


def _find_part(radiograph: Radiograph, probabilities: np.ndarray | None, place: int) -> str | None:
    if radiograph.body_part is not None or probabilities is None:
        return radiograph.body_part
    best = int(probabilities[place].argmax())
    return BODY_PARTS[best] if probabilities[place, best] >= BODY_PART_CONFIDENCE else None


def _digest(radiograph: Radiograph) -> bytes:
    levels = radiograph.to_uint8()
    return hashlib.blake2b(repr(levels.shape).encode() + levels.tobytes(), digest_size=16).digest()


def _group(keys: Sequence[Key | None]) -> dict[Key, list[int]]:
    """Indices by key; unknown keys are left out."""
    groups: dict[Key, list[int]] = defaultdict(list)
    for place, key in enumerate(keys):
        if key is not None:
            groups[key].append(place)
    return groups


def _join(names: Sequence[str], places: Sequence[int]) -> str:
    """Names of some views, with their numbers if a name occurs twice."""
    counts = Counter(names)
    words = [f"{names[place]} (view {place + 1})" if counts[names[place]] > 1 else names[place] for place in places]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def warn_if_unusual(names: Sequence[str], ood_result: OODResult) -> list[str]:
    """Returns a warning if a study is out of distribution, or if some of its views would be without the others."""
    if not ood_result.in_distribution:
        return [OOD_WARNING]
    unusual = [place for place, usual in enumerate(ood_result.views) if not usual]
    return [UNUSUAL_VIEWS.format(_join(names, unusual))] if unusual else []


def view_part_probabilities(output: StudyOutput, ood_result: OODResult | None) -> np.ndarray | None:
    """Returns the probability of each body part, `[V, 7]`; zero for views out of distribution, None without a head."""
    logits = None if output.views is None else output.views.body_part_logits
    if logits is None:
        return None
    found = logits.cpu().double().softmax(-1).numpy()
    return found if ood_result is None else found * np.asarray(ood_result.views)[:, None]


def make_prediction(
    output: StudyOutput,
    config: Any,
    names: Sequence[str],
    radiographs: Sequence[Radiograph],
    *,
    threshold: float,
    body_part: str | None,
    ood_result: OODResult | None,
    heatmaps: Heatmaps | None,
    maps: Sequence[np.ndarray],
    keep_pixels: bool,
    measured: MeasuredPerformance,
    **fields: Any,
) -> StudyPrediction:
    """Makes the prediction of one study; `fields` are further fields of `StudyPrediction`.

    A view is flagged if a study of it alone would be. `maps` are the heatmaps at the size of the views. `measured`
    says what the bands achieved.
    """
    probability = float(output.study_logits[0].cpu().double().softmax(-1)[1])  # accelerators may lack float64
    probabilities = output.view_logits[0].cpu().double().softmax(-1)[:, 1].tolist()
    single = torch.sigmoid(output.single_view_logit[0].cpu().double()).tolist()
    weights = output.view_weights[0].tolist()
    band, limits = config.find_band(probability, threshold), config.find_band_limits(threshold)
    bands = [min(config.find_band(one, threshold), band, key=BANDS.index) for one in single]
    bands[find_leading_view(weights, probabilities)] = band
    views = []
    for place, (name, radiograph) in enumerate(zip(names, radiographs, strict=True)):
        heatmap = None if heatmaps is None else maps[place]
        views.append(
            ViewPrediction(
                name=name,
                probability=probabilities[place],
                single_view_probability=single[place],
                weight=weights[place],
                flagged=single[place] > threshold,
                band=bands[place],
                heatmap=heatmap,
                map_size=None if heatmaps is None else heatmaps.map_sizes[place],
                regions=[] if heatmap is None or bands[place] == "low" else find_regions(heatmap),
                height=radiograph.pixels.shape[0],
                width=radiograph.pixels.shape[1],
                in_distribution=None if ood_result is None else ood_result.views[place],
                pixels=radiograph.pixels if keep_pixels else None,
            )
        )
    parts = _probabilities(output.body_part_logits, BODY_PARTS)
    part = body_part or (max(parts, key=parts.__getitem__) if parts else None)
    regions = {}
    if ood_result is None or ood_result.in_distribution or ood_result.like_outside:  # else the head knows nothing
        regions = _probabilities(output.region_logits, getattr(config, "regions", None) or ())
    in_distribution = None if ood_result is None else ood_result.in_distribution
    return StudyPrediction(
        probability=probability,
        label=LABELS[int(probability > threshold)],
        band=OUT_OF_DISTRIBUTION if in_distribution is False else band,
        probability_band=band,
        band_limits=limits,
        band_performance=measured.get_band(band, limits, part),
        threshold=threshold,
        pooling=getattr(config, "study_pooling", config.model_type.removeprefix("mura_")),
        calibrated=(config.study_slope, config.study_intercept) != (1, 0),
        body_part=part,
        body_part_given=body_part is not None,
        body_part_probabilities=parts,
        finding_probabilities=_probabilities(output.finding_logits, getattr(config, "finding_types", None) or ()),
        region=max(regions, key=regions.__getitem__, default=None),
        region_probabilities=regions,
        views=views,
        in_distribution=in_distribution,
        unusual_percentile=None if ood_result is None else ood_result.percentile,
        heatmap_method=None if heatmaps is None else heatmaps.method,
        positive_class_description=config.positive_class_description,
        **fields,
    )


def _probabilities(logits: torch.Tensor | None, names: Sequence[str]) -> dict[str, float]:
    return {} if logits is None else dict(zip(names, logits[0].cpu().double().softmax(-1).tolist(), strict=True))
