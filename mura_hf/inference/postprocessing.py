"""From model output to `StudyPrediction`: heatmaps at the views' own size, consistency checks, assembly."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from ..explain import Heatmaps, explain, find_regions
from ..models import BODY_PARTS, LABELS, MuraClassifier, MuraImageProcessor, StudyOutput
from ..radiographs import Radiograph
from ..retrieval import OODResult
from .external_processor import ExternalProcessor
from .prediction import StudyPrediction, ViewPrediction, find_band


def compute_heatmaps(
    model: MuraClassifier, output: StudyOutput, pixel_values: torch.Tensor, body_part: str | None, method: str
) -> Heatmaps:
    """Computes heatmaps at the resolution of the model's input.

    Args:
        model: The model.
        output: Its output for one study, with `explainable=True`.
        pixel_values: Views of the study, float `[V, C, H, W]`.
        body_part: The body part, if it was given.
        method: One of `METHODS`, or "auto".

    Raises:
        CheckpointError: If the method does not work for this model.
    """
    parts = None
    if model.NEEDS_PART:
        routed = output.body_part_logits
        part = BODY_PARTS.index(body_part) if body_part is not None or routed is None else int(routed[0].argmax())
        parts = torch.full((len(pixel_values),), part, device=model.device)
    pixel_values = pixel_values.to(model.device, model.dtype)
    return explain(model, pixel_values, output=output.views, method=method, body_parts=parts)


def restore_heatmaps(
    maps: torch.Tensor, radiographs: Sequence[Radiograph], processor: MuraImageProcessor | ExternalProcessor
) -> Iterator[np.ndarray]:
    """Maps heatmaps back to the views: float32 `[H, W]` in [0, 1] at each view's own size.

    Args:
        maps: Heatmaps of the model's input, float32 `[V, h, w]` in [0, 1].
        radiographs: The views.
        processor: The image processor that prepared them.

    Raises:
        CheckpointError: If the geometry of an external processor is unknown.
    """
    for small, radiograph in zip(maps.cpu().numpy(), radiographs, strict=True):
        field = processor.find_field(radiograph.to_uint8())
        height, width = radiograph.pixels.shape
        restored = np.clip(processor.restore_map(small, height, width, field), 0.0, 1.0)
        # Normalised by the maximum inside the view; attention on the padding is ignored.
        peak = float(restored.max())
        yield restored / peak if peak > 0 else restored


BODY_PART_CONFIDENCE = 0.9
"""Smallest probability of a predicted body part that counts in `find_conflicts`."""

Key = TypeVar("Key", str, bytes)


def find_conflicts(
    names: Sequence[str], radiographs: Sequence[Radiograph], part_probabilities: np.ndarray | None = None
) -> list[str]:
    """Returns warnings about views that cannot be one study: duplicates, and several patients, sides or body parts.

    Args:
        names: Names of the V views.
        radiographs: The views.
        part_probabilities: Predicted probability of each body part, `[V, 7]`; None without a body-part head. The body
            part of a file's header takes precedence.
    """
    warnings = []
    for places in _group([_digest(radiograph) for radiograph in radiographs]).values():
        if len(places) > 1:
            warnings.append(f"{_join(names, places)} show the same picture, which is counted once per file.")
    patients = _group([radiograph.patient_hash for radiograph in radiographs])
    if len(patients) > 1:
        divided = "; ".join(_join(names, places) for places in patients.values())
        warnings.append(
            f"These views are of {len(patients)} patients, according to the files: {divided}. Give the views of one "
            "study."
        )
    sides = _group([radiograph.side for radiograph in radiographs])
    if len(sides) > 1:
        divided = "; ".join(f"{side}: {_join(names, places)}" for side, places in sorted(sides.items()))
        warnings.append(f"These views are of both sides, according to the files: {divided}. A study is of one side.")
    parts = _group([_find_part(view, part_probabilities, place) for place, view in enumerate(radiographs)])
    if len(parts) > 1:
        divided = "; ".join(f"{part}: {_join(names, places)}" for part, places in sorted(parts.items()))
        warnings.append(f"These views seem to show different body parts: {divided}. A study is of one body part.")
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


def view_part_probabilities(output: StudyOutput, ood_result: OODResult | None) -> np.ndarray | None:
    """Returns the probability of each body part, `[V, 7]`; zero for views out of distribution, None without a head."""
    logits = None if output.views is None else output.views.body_part_logits
    if logits is None:
        return None
    found = logits.cpu().double().softmax(-1).numpy()
    return found if ood_result is None else found * np.asarray(ood_result.views)[:, None]


def make_views(
    output: StudyOutput,
    names: Sequence[str],
    radiographs: Sequence[Radiograph],
    threshold: float,
    *,
    ood_result: OODResult | None = None,
    heatmaps: Sequence[np.ndarray] | None = None,
    map_sizes: Sequence[tuple[int, int]] | None = None,
) -> list[ViewPrediction]:
    """Makes the predictions of the views of one study.

    Args:
        output: Output of the model for this study.
        names: Names of the V views.
        radiographs: The views.
        threshold: Threshold of the operating point. A view is flagged if a study of it alone would be.
        ood_result: Result of the out-of-distribution detector, if there is one.
        heatmaps: Heatmaps at the size of the views, if there are any.
        map_sizes: Sizes of the model's own maps, if there are any.
    """
    probabilities = output.view_logits[0].cpu().double().softmax(-1)[:, 1].tolist()  # accelerators may lack float64
    single = torch.sigmoid(output.single_view_logit[0].cpu().double()).tolist()
    weights = output.view_weights[0].tolist()
    views = []
    for place, (name, radiograph) in enumerate(zip(names, radiographs, strict=True)):
        heatmap, flagged = None if heatmaps is None else heatmaps[place], single[place] > threshold
        views.append(
            ViewPrediction(
                name=name,
                probability=probabilities[place],
                single_view_probability=single[place],
                weight=weights[place],
                flagged=flagged,
                heatmap=heatmap,
                map_size=None if map_sizes is None else map_sizes[place],
                regions=find_regions(heatmap) if heatmap is not None and flagged else [],
                height=radiograph.pixels.shape[0],
                width=radiograph.pixels.shape[1],
                in_distribution=None if ood_result is None else ood_result.views[place],
            )
        )
    return views


def make_prediction(
    output: StudyOutput,
    config: Any,
    *,
    threshold: float,
    body_part: str | None,
    ood_result: OODResult | None,
    **fields: Any,
) -> StudyPrediction:
    """Makes the prediction of one study.

    Args:
        output: Output of the model for this study.
        config: Configuration of the model.
        threshold: Threshold of the operating point.
        body_part: The body part if it was given, else None.
        ood_result: Result of the out-of-distribution detector, if there is one.
        **fields: Other fields of `StudyPrediction`.
    """
    probability = float(output.study_logits[0].cpu().double().softmax(-1)[1])
    parts = _probabilities(output.body_part_logits, BODY_PARTS)
    return StudyPrediction(
        probability=probability,
        label=LABELS[int(probability > threshold)],
        band=find_band(probability, threshold, config.operating_points),
        threshold=threshold,
        pooling=getattr(config, "study_pooling", config.model_type.removeprefix("mura_")),
        calibrated=(config.study_slope, config.study_intercept) != (1, 0),
        body_part=body_part or (max(parts, key=parts.__getitem__) if parts else None),
        body_part_given=body_part is not None,
        body_part_probabilities=parts,
        finding_probabilities=_probabilities(output.finding_logits, getattr(config, "finding_types", None) or ()),
        in_distribution=None if ood_result is None else ood_result.in_distribution,
        unusual_percentile=None if ood_result is None else ood_result.percentile,
        positive_class_description=config.positive_class_description,
        **fields,
    )


def _probabilities(logits: torch.Tensor | None, names: Sequence[str]) -> dict[str, float]:
    return {} if logits is None else dict(zip(names, logits[0].cpu().double().softmax(-1).tolist(), strict=True))
