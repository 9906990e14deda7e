"""Heatmaps of a study's views, at their own size.

Whether the views that were given as one study can be one.
An answer about a study, put together from what a model gave.
"""

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
    """Heatmaps of what a model was fed, as fine as that: the grid of a feature map would blur what FuseNet saw in its
    crop.

    Args:
        model: That answered.
        output: For the one study, asked for with `explainable`.
        pixel_values: float `[V, C, H, W]`, its views.
        body_part: Where it was given.
        method: One of `METHODS`, or "auto".

    Raises:
        CheckpointError: If the model has nothing that the method could read.
    """
    parts = None
    if model.NEEDS_PART:
        routed = output.body_part_logits
        part = BODY_PARTS.index(body_part) if body_part is not None or routed is None else int(routed[0].argmax())
        parts = torch.full((len(pixel_values),), part, device=model.device)
    fed = pixel_values.to(model.device, model.dtype)
    return explain(model, fed, output=output.views, method=method, body_parts=parts)


def restore_heatmaps(
    maps: torch.Tensor, radiographs: Sequence[Radiograph], processor: MuraImageProcessor | ExternalProcessor
) -> Iterator[np.ndarray]:
    """Heatmaps of what a model was fed, laid over the views: float32 `[H, W]` in [0, 1] at each view's own size.

    Args:
        maps: float32 `[V, h, w]` in [0, 1].
        radiographs: The views.
        processor: What prepared them.

    Raises:
        CheckpointError: If it cannot be told which part of a picture the model was fed.
    """
    for small, radiograph in zip(maps.cpu().numpy(), radiographs, strict=True):
        field = processor.find_field(radiograph.to_uint8())
        height, width = radiograph.pixels.shape
        restored = np.clip(processor.restore_map(small, height, width, field), 0.0, 1.0)
        # Hottest where the view itself is; what fell on the letterbox's bars does not count.
        peak = float(restored.max())
        yield restored / peak if peak > 0 else restored


Key = TypeVar("Key", str, bytes)

SURE = 0.9
"""A part that is found in a view counts where its probability is at least so high."""


def find_conflicts(
    names: Sequence[str], radiographs: Sequence[Radiograph], parts_found: np.ndarray | None = None
) -> list[str]:
    """Sentences about views that are no study: the same picture twice, of different patients, sides or parts.

    Args:
        names: Of the V views.
        radiographs: The views.
        parts_found: Probability of each part in each view, `[V, 7]`; None where the model does not tell. What a file
            says of its part counts before what was found.
    """
    told = []
    for places in _groups([_content(radiograph) for radiograph in radiographs]).values():
        if len(places) > 1:
            told.append(f"{_listed(names, places)} show the same picture, which counts as often as it was given.")
    patients = _groups([radiograph.patient_hash for radiograph in radiographs])
    if len(patients) > 1:
        told.append(
            f"These views are of {len(patients)} patients, by what the files say: {_divided(names, patients)}. Give "
            "the views of one study."
        )
    sides = _groups([radiograph.side for radiograph in radiographs])
    if len(sides) > 1:
        told.append(
            "These views are of both sides, by what the files say: "
            + "; ".join(f"{side}: {_listed(names, places)}" for side, places in sorted(sides.items()))
            + ". A study is of one side."
        )
    parts = _groups([_part(number, radiograph, parts_found) for number, radiograph in enumerate(radiographs)])
    if len(parts) > 1:
        told.append(
            "These views seem to show different parts of the body: "
            + "; ".join(f"{part}: {_listed(names, places)}" for part, places in sorted(parts.items()))
            + ". A study is of one part."
        )
    return told


def _part(number: int, radiograph: Radiograph, found: np.ndarray | None) -> str | None:
    if radiograph.body_part is not None or found is None:
        return radiograph.body_part
    best = int(found[number].argmax())
    return BODY_PARTS[best] if found[number, best] >= SURE else None


def _content(radiograph: Radiograph) -> bytes:
    levels = radiograph.to_uint8()
    return hashlib.blake2b(repr(levels.shape).encode() + levels.tobytes(), digest_size=16).digest()


def _groups(keys: Sequence[Key | None]) -> dict[Key, list[int]]:
    """Places by key, without those whose key is not known."""
    groups: dict[Key, list[int]] = defaultdict(list)
    for place, key in enumerate(keys):
        if key is not None:
            groups[key].append(place)
    return groups


def _listed(names: Sequence[str], places: Sequence[int]) -> str:
    """Names of some views; with their numbers where a name occurs twice."""
    often = Counter(names)
    told = [f"{names[place]} (view {place + 1})" if often[names[place]] > 1 else names[place] for place in places]
    return told[0] if len(told) == 1 else f"{', '.join(told[:-1])} and {told[-1]}"


def _divided(names: Sequence[str], groups: dict[Key, list[int]]) -> str:
    return "; ".join(_listed(names, places) for places in groups.values())


def describe_views(
    output: StudyOutput,
    names: Sequence[str],
    radiographs: Sequence[Radiograph],
    threshold: float,
    judgement: OODResult | None,
    maps: Sequence[np.ndarray] | None,
    found: Heatmaps | None,
) -> list[ViewPrediction]:
    """What is to be said of each view of one study.

    Args:
        output: Of the model, for a batch of this study alone.
        names: Of the V views.
        radiographs: The views.
        threshold: Of the operating point; a view is flagged where a study of this view alone would be.
        judgement: Whether they are like those of training; None where that is not known.
        maps: Heatmaps at the size of the views; None where there are none.
        found: As they were computed.
    """
    count = len(radiographs)
    chances = output.view_logits[0].cpu().double().softmax(-1)[:, 1].tolist()  # not every accelerator has float64
    alones = torch.sigmoid(output.single_view_logit[0].cpu().double()).tolist()
    weights = output.view_weights[0].tolist()
    heatmaps = [None] * count if maps is None else maps
    sizes = [None] * count if found is None else found.map_sizes
    fines = [None] * count if judgement is None else judgement.views
    return [
        ViewPrediction(
            name=name,
            probability=chances[place],
            single_view_probability=alones[place],
            weight=weights[place],
            heatmap=heatmap,
            flagged=alones[place] > threshold,
            map_size=sizes[place],
            regions=find_regions(heatmap) if heatmap is not None and alones[place] > threshold else [],
            height=radiograph.pixels.shape[0],
            width=radiograph.pixels.shape[1],
            in_distribution=fines[place],
        )
        for place, (name, heatmap, radiograph) in enumerate(zip(names, heatmaps, radiographs, strict=True))
    ]


def parts_of_views(output: StudyOutput, judgement: OODResult | None) -> np.ndarray | None:
    """Probability of each body part in each view, `[V, 7]`, 0 in a view unlike those of training; None where the model
    does not tell.
    """
    logits = None if output.views is None else output.views.body_part_logits
    if logits is None:
        return None
    found = logits.cpu().double().softmax(-1).numpy()
    return found if judgement is None else found * np.asarray(judgement.views)[:, None]


def assemble_answer(
    output: StudyOutput,
    config: Any,
    *,
    views: list[ViewPrediction],
    threshold: float,
    body_part: str | None,
    judgement: OODResult | None,
    **told: Any,
) -> StudyPrediction:
    """The answer about one study.

    Args:
        output: Of the model, for a batch of this study alone.
        config: The model's.
        views: Of `describe_views`.
        threshold: Of the operating point.
        body_part: As it was given; the likeliest where None.
        judgement: Whether the views are like those of training; None where that is not known.
        **told: Fields of the answer as they are.
    """
    probability = float(output.study_logits[0].cpu().double().softmax(-1)[1])
    parts = _chances(output.body_part_logits, BODY_PARTS)
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
        finding_probabilities=_chances(output.finding_logits, getattr(config, "finding_types", None) or ()),
        views=views,
        in_distribution=None if judgement is None else judgement.in_distribution,
        unusual_percentile=None if judgement is None else judgement.percentile,
        positive_class_description=config.positive_class_description,
        **told,
    )


def _chances(logits: torch.Tensor | None, names: Sequence[str]) -> dict[str, float]:
    """Name -> probability; empty where the model has no such head."""
    if logits is None:
        return {}
    return dict(zip(names, logits[0].cpu().double().softmax(-1).tolist(), strict=True))
