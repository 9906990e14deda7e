"""`StudyPrediction` and `ViewPrediction`: the result of a `StudyPredictor`."""

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..explain import Box, Region
from ..models import LABELS

PHANTOM_WARNING = (
    "This checkpoint was trained on synthetic phantoms only. Do not use it on real radiographs; choose mura-film "
    "instead."
)


@dataclass(frozen=True, eq=False)
class ViewPrediction:
    """Prediction for one view of a study.

    Attributes:
        name: File name, or "view 1" and so on.
        probability: P(abnormal) of this view in [0, 1], before the study's slope and intercept.
        single_view_probability: P(abnormal) in [0, 1] of a study that consists of this view only.
        weight: Weight of the view in the study's probability.
        flagged: Whether `single_view_probability` is above the threshold.
        heatmap: Model attention, float32 `[H, W]` in [0, 1] at the view's own size; None without heatmaps.
        map_size: Height and width of the model's own map before enlargement (of several maps, the finest); None
            without heatmaps.
        regions: Regions of the strongest attention in pixels of the view, the largest first; empty unless flagged.
        height: Height of the view in pixels.
        width: Width of the view in pixels.
        in_distribution: Whether the view is like those of training; None if the checkpoint has no detector.
    """

    name: str
    probability: float
    single_view_probability: float
    weight: float
    flagged: bool
    heatmap: np.ndarray | None
    map_size: tuple[int, int] | None
    regions: list[Region]
    height: int
    width: int
    in_distribution: bool | None = None

    @property
    def box(self) -> Box | None:
        """Bounding box of the largest region; None if there is no region."""
        return self.regions[0].box if self.regions else None

    def to_dict(self) -> dict[str, Any]:
        """Returns all fields except the heatmap as JSON values.

        `alone` is the old name of `single_view_probability`.
        """
        values = {name: value for name, value in vars(self).items() if name != "heatmap"}
        values["alone"] = self.single_view_probability
        values["box"] = self.box and list(self.box)
        values["map_size"] = self.map_size and list(self.map_size)
        values["regions"] = [{**vars(region), "box": list(region.box)} for region in self.regions]
        return values


@dataclass(frozen=True, eq=False)
class StudyPrediction:
    """Prediction for one study.

    Attributes:
        probability: Calibrated P(abnormal) of the study in [0, 1].
        label: "abnormal" if the probability is strictly above the threshold, else "normal", which means that nothing
            was flagged.
        band: "normal", "uncertain" or "abnormal". Uncertain lies between the thresholds of sensitivity .95 and
            specificity .95, and is extended to `threshold` if that lies outside. Without these operating points the
            band is the label.
        threshold: Threshold of the operating point.
        operating_point: Its name.
        pooling: How views are combined: "mean", "max", "noisy_or" or "gated_attention"; "ensemble" or "specialized" if
            several models combine them, each in its own way.
        calibrated: Whether a fitted slope and intercept were applied to the pooled probability.
        body_part: The given body part, or else the predicted one, or None.
        body_part_given: Whether the caller gave it.
        body_part_probabilities: Predicted probability of each body part; empty without a body-part head.
        finding_probabilities: Probability of each type of finding, given that there is one; empty without such a head.
        views: Predictions of the views, in the order given.
        in_distribution: Whether every view is like those of training (see `OODDetector`); None if the checkpoint has
            no detector. If False, the prediction may be meaningless.
        unusual_percentile: How unusual the study is: the share of in-distribution studies with as many views whose
            most unusual view is less unusual, in [0, 100]; None without a detector.
        heatmap_method: Method of the heatmaps, one of `mura_hf.explain.METHODS`; None without heatmaps.
        warnings: Sentences to show with the prediction, including those of the radiographs.
        checkpoint: Hub name, with the revision if one was given; or "folder: " or "bundled: " and a name.
        positive_class_description: What "abnormal" means for this checkpoint, as a phrase that continues "abnormal
            means"; None if the checkpoint does not say.
        codes: Codes of the views for retrieval, float32 `[V, D]`; None if the model has none.
    """

    probability: float
    label: str
    band: str
    threshold: float
    operating_point: str
    pooling: str
    calibrated: bool
    body_part: str | None
    body_part_given: bool
    body_part_probabilities: dict[str, float]
    finding_probabilities: dict[str, float]
    views: list[ViewPrediction]
    in_distribution: bool | None
    checkpoint: str
    unusual_percentile: float | None = None
    heatmap_method: str | None = None
    positive_class_description: str | None = None
    warnings: list[str] = field(default_factory=list)
    codes: np.ndarray | None = None

    @property
    def leading_view(self) -> int:
        """Index of the view that contributes most to the probability: the largest weighted probability."""
        return max(range(len(self.views)), key=lambda place: self.views[place].weight * self.views[place].probability)

    def to_dict(self) -> dict[str, Any]:
        """Returns all fields except heatmaps and codes as JSON values.

        `abnormal_means` is the old name of `positive_class_description`.
        """
        values = {name: value for name, value in vars(self).items() if name not in ("views", "codes")}
        values["views"] = [view.to_dict() for view in self.views]
        values["leading_view"] = self.leading_view
        values["abnormal_means"] = self.positive_class_description
        return values

    def to_json(self) -> str:
        """Returns `to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)


def find_band(probability: float, threshold: float, operating_points: dict[str, float]) -> str:
    """Returns the band of a probability, see `StudyPrediction.band`."""
    sensitive, specific = operating_points.get("sensitivity_95"), operating_points.get("specificity_95")
    low = high = threshold
    if sensitive is not None and specific is not None and sensitive < specific:
        low, high = min(sensitive, threshold), max(specific, threshold)
    if low < probability <= high:
        return "uncertain"
    return LABELS[int(probability > threshold)]
