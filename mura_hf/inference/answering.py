"""An answer about a study, put together from what a model gave."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..explain import Heatmaps, find_regions
from ..models import BODY_PARTS, LABELS, StudyOutput
from ..radiographs import Radiograph
from ..retrieval import Judgement
from .prediction import StudyPrediction, ViewPrediction, find_band


def describe_views(
    output: StudyOutput,
    names: Sequence[str],
    radiographs: Sequence[Radiograph],
    threshold: float,
    judgement: Judgement | None,
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
    alones = torch.sigmoid(output.alone_logit[0].cpu().double()).tolist()
    weights = output.view_weights[0].tolist()
    heatmaps = [None] * count if maps is None else maps
    sizes = [None] * count if found is None else found.map_sizes
    fines = [None] * count if judgement is None else judgement.views
    return [
        ViewPrediction(
            name=name,
            probability=chances[place],
            alone=alones[place],
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


def parts_of_views(output: StudyOutput, judgement: Judgement | None) -> np.ndarray | None:
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
    judgement: Judgement | None,
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
        abnormal_means=config.abnormal_means,
        **told,
    )


def _chances(logits: torch.Tensor | None, names: Sequence[str]) -> dict[str, float]:
    """Name -> probability; empty where the model has no such head."""
    if logits is None:
        return {}
    return dict(zip(names, logits[0].cpu().double().softmax(-1).tolist(), strict=True))
