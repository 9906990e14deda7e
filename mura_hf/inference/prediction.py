"""What a `StudyPredictor` answers."""

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..explain import Box, Region
from ..models import LABELS

PHANTOM_WARNING = (
    "This checkpoint was trained on synthetic phantoms. Its word about a real radiograph means nothing; such a one is "
    "for a checkpoint that was trained on real studies, as mura-film was."
)


@dataclass(frozen=True, eq=False)
class ViewPrediction:
    """One view of a study.

    Attributes:
        name: The file's name, or "view 1" and so on.
        probability: P(abnormal) of this view, in [0, 1], as it enters the study's answer: before the study's slope and
            intercept.
        single_view_probability: P(abnormal) of a study of this view alone, in [0, 1].
        weight: Its share in the study's answer.
        flagged: Whether `single_view_probability` lies above the threshold.
        heatmap: Model attention, float32 `[H, W]` in [0, 1] at the view's own size; None where the model has none.
        map_size: Height and width of the model's own map, from which `heatmap` was enlarged; of several maps, of the
            finest. None where there is no heatmap.
        regions: Of the strongest attention, in the view's own pixels, the largest first; only where the view is
            flagged.
        height: Of the view in pixels.
        width: Of the view in pixels.
        in_distribution: Whether this view is like those of training; None where the checkpoint cannot tell.
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
        """Rectangle of the largest region; None where there is none."""
        return self.regions[0].box if self.regions else None

    def to_dict(self) -> dict[str, Any]:
        """Everything but the heatmap, as plain values."""
        values = {name: value for name, value in vars(self).items() if name != "heatmap"}
        values["alone"] = self.single_view_probability  # the name of the first edition
        values["box"] = self.box and list(self.box)
        values["map_size"] = self.map_size and list(self.map_size)
        values["regions"] = [{**vars(region), "box": list(region.box)} for region in self.regions]
        return values


@dataclass(frozen=True, eq=False)
class StudyPrediction:
    """One study.

    Attributes:
        probability: P(abnormal) of the study, calibrated as the checkpoint says, in [0, 1].
        label: "abnormal" where the probability is strictly above the threshold, else "normal": nothing was flagged.
        band: "normal", "uncertain" or "abnormal". Uncertain lies between the thresholds of sensitivity .95 and
            specificity .95, where the checkpoint has both, and reaches to `threshold` where that lies outside; else
            the band is the label.
        threshold: Of the operating point.
        operating_point: Its name.
        pooling: How views made the study: "mean", "max", "noisy_or" or "gated_attention"; "ensemble" or "specialized"
            where several models did, each in its own way.
        calibrated: Whether a slope and an intercept, fitted on studies of known label, were applied to the pooled
            probability.
        body_part: The part given by the caller, else the part found, else None.
        body_part_given: Whether the caller gave it.
        body_part_probabilities: Part -> probability found; empty where the model has no such head.
        finding_probabilities: Type of finding -> its probability, given that there is one; empty where the model has
            no such head.
        views: One a view, in the order given.
        in_distribution: Whether every view is like those of training, see `OODDetector`; None where the checkpoint
            cannot tell. Where not, the answer may mean nothing.
        unusual_percentile: How unusual the study is: of studies with as many views, all like those that were kept
            aside (calib), the share whose strangest view is less unusual, in [0, 100]; None likewise.
        heatmap_method: How the heatmaps were made, one of `mura_hf.explain.METHODS`; None where there are none.
        warnings: Sentences that belong beside the answer, those of the radiographs among them.
        checkpoint: Hub name, with the revision where one was given, or the folder's own name after "folder: ", which
            is "bundled: " and the name for one that comes with the package.
        positive_class_description: What "abnormal" means for this checkpoint, as a phrase that continues "abnormal
            means"; None if the checkpoint does not say.
        codes: What retrieval compares, float32 `[V, D]`, of the forward pass that answered; None where the model has
            none.
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
        """Place of the view that spoke most for abnormal: of the weighted probabilities, the largest."""
        return max(range(len(self.views)), key=lambda place: self.views[place].weight * self.views[place].probability)

    def to_dict(self) -> dict[str, Any]:
        """Everything but heatmaps and codes, as plain values."""
        values = {name: value for name, value in vars(self).items() if name not in ("views", "codes")}
        values["views"] = [view.to_dict() for view in self.views]
        values["leading_view"] = self.leading_view
        values["abnormal_means"] = self.positive_class_description  # the name of the first edition
        return values

    def to_json(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)


def find_band(probability: float, threshold: float, operating_points: dict[str, float]) -> str:
    """The band of a probability; see `StudyPrediction.band`."""
    sensitive, specific = operating_points.get("sensitivity_95"), operating_points.get("specificity_95")
    low = high = threshold
    if sensitive is not None and specific is not None and sensitive < specific:
        low, high = min(sensitive, threshold), max(specific, threshold)
    if low < probability <= high:
        return "uncertain"
    return LABELS[int(probability > threshold)]
