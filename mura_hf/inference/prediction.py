"""`StudyPrediction` and `ViewPrediction`: the result of a `StudyPredictor`, and how it is shown."""

import io
import json
import os
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..common import LOWER_LIMB
from ..explain import Box, Region, draw_overlay, find_regions
from .measured_performance import BandPerformance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OOD_WARNING = (
    "This study does not look like those that the checkpoint was trained on, so its prediction may be meaningless."
)
UNUSUAL_VIEWS = "By itself, {} would not look like those that the checkpoint was trained on: judge it with care."
PHANTOM_WARNING = (
    "This checkpoint was trained on synthetic phantoms only. Do not use it on real radiographs; choose mura-film "
    "instead."
)
DISCLAIMER = (
    "Not a medical device. For research and teaching, never for the care of a patient. A study that is not flagged "
    "may still have a fracture. Marks show where the model looked, not what is there."
)
_SURE = 0.8  # probability of a region from which it is named
OUT_OF_DISTRIBUTION = "out_of_distribution"
"""Band of a study that does not look like those of training."""

_VERDICTS = {
    "suspected": "{} suspected",
    "uncertain": "Uncertain, look again",
    "low": "no {} flagged",
    OUT_OF_DISTRIBUTION: "Out of distribution",
}

OPERATING_POINTS = {
    "paper": "Rule of the MURA paper",
    "youden": "Youden’s index",
    "sensitivity_85": "Screening",
    "sensitivity_95": "Few misses",
    "specificity_95": "Few false alarms",
}
"""Names of operating points -> their names on pages."""

FORMER_BANDS = {"normal": "low", "abnormal": "suspected"}
"""Names of bands in records of earlier versions -> those of today."""

_MEANINGS = {
    "suspected": "The probability lies above the uncertain band.",
    "uncertain": "The probability is neither low nor high enough for a clear answer.",
    "low": "This does not exclude a fracture.",
    OUT_OF_DISTRIBUTION: (
        "The study does not look like those that the checkpoint was trained on, so its numbers may be meaningless."
    ),
}
REGION_WORDS = {"hand": "hand or arm", "hip": "hip or pelvis", "leg": "leg or foot"}
"""Regions in words of FracAtlas -> in plain words."""

_FRACTURE = re.compile(r"(that )?(an? )?fracture[ds]?\b(?!,? (or|and|but)\b)")
_MAX_NAMES = 4  # of views in a repr


@dataclass(frozen=True, eq=False)
class ViewPrediction:
    """Prediction for one view of a study.

    Attributes:
        name: File name, or "view 1" and so on.
        probability: P(abnormal) of this view in [0, 1], before the study's slope and intercept: what transformers'
            pipeline for image classification gives.
        single_view_probability: P(abnormal) in [0, 1] of a study that consists of this view only.
        weight: Weight of the view in the study's probability.
        flagged: Whether `single_view_probability` is above the threshold.
        band: "low", "uncertain" or "suspected": that of a study of this view alone, but never above that of the
            study. The view that contributes most has the band of the study.
        heatmap: Model attention, float32 `[H, W]` in [0, 1] at the view's own size; None without heatmaps.
        map_size: Height and width of the model's own map before enlargement (of several maps, the finest); None
            without heatmaps.
        regions: Regions of the strongest attention in pixels of the view, the largest first; empty if the band is low.
        height: Height of the view in pixels.
        width: Width of the view in pixels.
        in_distribution: Whether the view, as a study of its own, is like those of training; None if the checkpoint has
            no detector.
        pixels: The view itself, float32 `[H, W]` in [0, 1], bone bright; None if no heatmaps were requested.
    """

    name: str
    probability: float
    single_view_probability: float
    weight: float
    flagged: bool
    band: str
    heatmap: np.ndarray | None = field(repr=False)
    map_size: tuple[int, int] | None = field(repr=False)
    regions: list[Region] = field(repr=False)
    height: int
    width: int
    in_distribution: bool | None = None
    pixels: np.ndarray | None = field(default=None, repr=False)

    @property
    def box(self) -> Box | None:
        """Bounding box of the largest region; None if there is no region."""
        return self.regions[0].box if self.regions else None

    def overlay(self, *, opacity: float = 0.5, heatmap: bool | None = None) -> Image.Image:
        """Returns the view with its heatmap and regions, an RGB image at the view's own size.

        Args:
            opacity: Opacity of hot pixels, in [0, 1].
            heatmap: Whether to draw heatmap and regions; if None, only if the band is not low.

        Raises:
            ValueError: If the prediction has no heatmaps, or the opacity is out of range.
        """
        if self.heatmap is None or self.pixels is None:
            raise ValueError(
                f"{self.name} has no heatmap to draw: call the predictor with heatmaps=True; if it warns that the "
                'model has none, with method="occlusion"'
            )
        if heatmap is False or (heatmap is None and self.band == "low"):
            return Image.fromarray(draw_overlay(self.pixels, np.zeros_like(self.pixels), opacity=opacity))
        regions = self.regions or find_regions(self.heatmap)
        return Image.fromarray(draw_overlay(self.pixels, self.heatmap, regions, opacity=opacity))

    def to_dict(self) -> dict[str, Any]:
        """Returns all fields except heatmap and pixels as JSON values.

        `alone` is the old name of `single_view_probability`.
        """
        values = {name: value for name, value in vars(self).items() if name not in ("heatmap", "pixels")}
        values["alone"] = self.single_view_probability
        values["box"] = self.box and list(self.box)
        values["map_size"] = self.map_size and list(self.map_size)
        values["regions"] = [{**vars(region), "box": list(region.box)} for region in self.regions]
        return values


@dataclass(frozen=True, eq=False)
class StudyPrediction:
    """Prediction for one study. In a notebook, it shows its verdict and its views.

    Attributes:
        band: "out_of_distribution" if the study does not look like those of training (`in_distribution` is False), so
            that the other fields may be meaningless; else `probability_band`.
        probability: Calibrated P(abnormal) of the study in [0, 1].
        label: "abnormal" if the probability is strictly above the threshold, else "normal", which means that nothing
            was flagged.
        probability_band: "low", "uncertain" or "suspected", see `band_limits`. Without bands in the config, uncertain
            lies between the thresholds of sensitivity .95 and specificity .95; without these, no study is uncertain.
        band_limits: Cut points of the bands: low up to the first, suspected strictly above the second. They are
            extended to `threshold` if that lies outside.
        band_performance: What `probability_band` achieved on held-out studies; None if it was not measured with these
            cut points.
        threshold: Threshold of the operating point.
        operating_point: Its name.
        pooling: How views are combined: "mean", "max", "noisy_or" or "gated_attention"; "ensemble" or "specialized" if
            several models combine them, each in its own way.
        calibrated: Whether a fitted slope and intercept were applied to the pooled probability.
        body_part: The given body part, or else the predicted one, or None.
        body_part_given: Whether the caller gave it.
        body_part_probabilities: Predicted probability of each body part; empty without a body-part head.
        finding_probabilities: Probability of each type of finding, given that there is one; empty without such a head.
        region: The predicted region of the body, in words of the training data. None without a head for it, or if the
            study is out of distribution and not like regions that training knew but the checkpoint is not for.
        region_probabilities: Predicted probability of each region; empty if `region` is None.
        views: Predictions of the views, in the order given.
        in_distribution: Whether every view is like those of training (see `OODDetector`); None if the checkpoint has
            no detector.
        unusual_percentile: How unusual the study is: the share of in-distribution studies with as many views whose
            most unusual view is less unusual, in [0, 100]; None without a detector.
        heatmap_method: Method of the heatmaps, one of `mura_hf.explain.METHODS`; None without heatmaps.
        warnings: Sentences to show with the prediction, including those of the radiographs.
        checkpoint: Hub name, with the revision if one was given; or "folder: " or "bundled: " and a name.
        positive_class_description: What "abnormal" means for this checkpoint, as a phrase that continues "abnormal
            means"; None if the checkpoint does not say.
        codes: Codes of the views for retrieval, float32 `[V, D]`; None if the model has none.
    """

    band: str
    probability: float
    label: str
    probability_band: str
    band_limits: tuple[float, float]
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
    band_performance: BandPerformance | None = None
    unusual_percentile: float | None = None
    heatmap_method: str | None = None
    positive_class_description: str | None = None
    warnings: list[str] = field(default_factory=list)
    codes: np.ndarray | None = None
    region: str | None = None
    region_probabilities: dict[str, float] = field(default_factory=dict)

    @property
    def finding(self) -> str:
        """What the checkpoint looks for, as a noun, see `finding_noun`."""
        return finding_noun(self.positive_class_description)

    @property
    def verdict(self) -> str:
        """The band in words: "Fracture suspected", "No fracture flagged", "Uncertain, look again"."""
        return self.describe_band(self.band)

    def describe_band(self, band: str) -> str:
        """Returns the words of one of the bands, see `band` and `probability_band`, for this checkpoint."""
        text = _VERDICTS[band].format(self.finding)
        return text[0].upper() + text[1:]

    @property
    def region_words(self) -> str | None:
        """The region in plain words; None if the probability of none is at least .8, as for the wrist of a child."""
        if self.region is None or self.region_probabilities[self.region] < _SURE:
            return None
        return REGION_WORDS.get(self.region, self.region)

    @property
    def scope_note(self) -> str | None:
        """A sentence if the study clearly shows the lower limb, and the checkpoint is not for it; else None."""
        if self.in_distribution is None or self.region not in LOWER_LIMB:  # no detector: perhaps made for legs
            return None
        return self.region_words and f"It seems to show a region that the checkpoint is not for: {self.region_words}."

    @property
    def leading_view(self) -> int:
        """Index of the view that contributes most to the probability: the largest weighted probability."""
        return find_leading_view([view.weight for view in self.views], [view.probability for view in self.views])

    def stands_out(self, view: ViewPrediction) -> bool:
        """Returns whether the probability of a view by itself lies in a higher band than that of the study."""
        return any(self.probability <= limit < view.single_view_probability for limit in self.band_limits)

    def to_dict(self) -> dict[str, Any]:
        """Returns all fields except heatmaps and codes as JSON values.

        `abnormal_means` is the old name of `positive_class_description`.
        """
        values = {name: value for name, value in vars(self).items() if name not in ("views", "codes")}
        values["views"] = [view.to_dict() for view in self.views]
        values["leading_view"] = self.leading_view
        values["band_limits"] = list(self.band_limits)
        values["band_performance"] = self.band_performance and self.band_performance.to_dict()
        values["abnormal_means"] = self.positive_class_description
        return values

    def to_json(self) -> str:
        """Returns `to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def __repr__(self) -> str:
        views = [f"{view.name} {format_probability(view.single_view_probability)}" for view in self.views]
        if len(views) > _MAX_NAMES:
            views[_MAX_NAMES:] = [f"{len(views) - _MAX_NAMES} more"]
        notes = f" Warnings: {len(self.warnings)}." * bool(self.warnings)
        text = f"{self.band}. {self._summary()} Views: {', '.join(views)}.{notes} Not a medical device."
        # Names of files may hold line breaks.
        return "StudyPrediction: " + "".join(sign if sign.isprintable() else " " for sign in text)

    def _summary(self) -> str:
        how = "given" if self.body_part_given else "predicted"
        part = "" if self.body_part is None else f" Body part {self.body_part} ({how})."
        if self.region and self.region_words and self.body_part is None:
            chance = format_probability(self.region_probabilities[self.region])
            note = f" {self.scope_note}" if self.scope_note else ""
            part = f" Probably {self.region_words} (probability {chance}).{note}"
        description = self.positive_class_description
        meaning = "" if description is None else f" Abnormal means {description}."
        measured = f" {self.band_performance}" if self.band_performance and self.band != OUT_OF_DISTRIBUTION else ""
        return (
            f"{_MEANINGS[self.band]}{measured} P(abnormal) {format_probability(self.probability)}, threshold "
            f"{self.threshold:g} ({self.operating_point}).{part}{meaning} Checkpoint {self.checkpoint}."
        )

    def _repr_png_(self) -> bytes | None:
        """Returns the picture of `plot` for a notebook; None, so that the text is shown, if there are no views."""
        if any(view.pixels is None for view in self.views):
            return None
        stream = io.BytesIO()
        self.plot().savefig(stream, format="png")
        return stream.getvalue()

    def _picture(self, view: ViewPrediction, heatmaps: bool | None = None) -> Image.Image | None:
        """Overlay of a view, by default without heatmap if the study is out of distribution; None without pixels."""
        if view.pixels is None:
            return None
        if view.heatmap is None:
            return Image.fromarray(draw_overlay(view.pixels, np.zeros_like(view.pixels)))
        hidden = heatmaps is None and self.band == OUT_OF_DISTRIBUTION
        return view.overlay(heatmap=False if hidden else heatmaps)

    def plot(self, *, heatmaps: bool | None = None) -> "Figure":
        """Draws the verdict, the views and the warnings.

        Args:
            heatmaps: Whether to draw heatmaps and regions; if None, only of views whose band is not low, and of none
                if the study is out of distribution.

        Returns:
            A matplotlib figure. A notebook shows it once.

        Raises:
            ValueError: If the study was predicted with `heatmaps=False`, which does not keep the views.
        """
        from matplotlib import pyplot

        pictures = [self._picture(view, heatmaps) for view in self.views]
        if None in pictures:
            raise ValueError("the prediction does not hold its views; call the predictor with heatmaps=True")
        columns = min(4, len(pictures))
        rows = -(-len(pictures) // columns)
        width = 3.6 * max(columns, 2)
        notes = [textwrap.fill(note, round(18 * width)) for note in (*self.warnings, DISCLAIMER)]
        height = 4.2 * rows + 0.7 + 0.12 * "\n".join(notes).count("\n")
        figure, axes = pyplot.subplots(rows, columns, figsize=(width, height), squeeze=False, layout="constrained")
        for place in axes.flat:
            place.axis("off")
        # File names are not formulas, whatever they hold.
        options: dict[str, Any] = {"parse_math": False, "wrap": True}
        for place, view, picture in zip(axes.flat, self.views, pictures, strict=False):
            place.imshow(picture)
            place.set_title(textwrap.fill(_caption(view), 44), fontsize=9, **options)
        figure.suptitle(f"{self.verdict}. {self._summary()}", fontsize=10, **options)
        figure.supxlabel("\n".join(notes), fontsize=7, **options)
        if figure.canvas.required_interactive_framework is None:
            pyplot.close(figure)  # else a notebook shows it twice, and a script keeps every figure
        return figure

    def save(self, file: str | os.PathLike[str], *, heatmaps: bool | None = None) -> None:
        """Saves the picture of `plot` to a file, whose name ends in .png, .jpg, .pdf or .svg.

        Raises:
            ValueError: As `plot`, or if matplotlib cannot write this kind of file.
        """
        self.plot(heatmaps=heatmaps).savefig(file, dpi=150)


def finding_noun(positive_class_description: str | None) -> str:
    """Returns "fracture" if the positive class of a checkpoint is that and nothing else, else "abnormality"."""
    return "fracture" if _FRACTURE.match(positive_class_description or "") else "abnormality"


def find_leading_view(weights: Sequence[float], probabilities: Sequence[float]) -> int:
    """Returns the index of the view with the largest weighted probability."""
    return max(range(len(weights)), key=lambda place: weights[place] * probabilities[place])


def format_probability(probability: float) -> str:
    """Returns a probability with three decimals, but never 0.000 or 1.000."""
    if probability < 0.0005:
        return "below 0.001"
    return f"{probability:.3f}" if probability < 0.9995 else "above 0.999"


def _caption(view: ViewPrediction) -> str:
    return f"{view.name}: P(abnormal) {format_probability(view.single_view_probability)} by itself"
