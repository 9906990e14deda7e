"""Configurations that all model families share: labels, calibration, backbone and heads.

The other model files import what they need of the package from here, because they also have to work without it: an
exported checkpoint brings these files along as remote code.
"""

import math
import re
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

try:  # not "from ..", which transformers would look for among the files of an exported checkpoint
    from mura_hf.errors import CheckpointError as CheckpointError
except ImportError:  # the files of an exported checkpoint are loaded without the package

    class CheckpointError(Exception):  # type: ignore[no-redef]
        """A checkpoint cannot be loaded, exported or used for the requested task."""


BODY_PARTS = ("elbow", "finger", "forearm", "hand", "humerus", "shoulder", "wrist")
LABELS = ("normal", "abnormal")
BANDS = ("low", "uncertain", "suspected")
"""Bands of the probability of a study, in ascending order."""


def find_body_part(name: str) -> str:
    """Returns the body part with a name, in any case and with or without MURA's prefix: "XR_WRIST" is "wrist".

    Raises:
        ValueError: If it is none of `BODY_PARTS`.
    """
    part = str(name).strip().lower().removeprefix("xr_")
    if part not in BODY_PARTS:
        raise ValueError(f"unknown body part {name!r}; choose one of {', '.join(BODY_PARTS)}")
    return part


_CHOICES = {
    "map_pooling": ("backbone", "attention"),
    "study_pooling": ("mean", "max", "noisy_or", "gated_attention"),
    "head_activation": ("relu", "none"),
    "head_init": ("small", "he", "xavier", "random"),
}

# A configuration may come from a stranger. It must not point timm to files or change the interface of the backbone.
_FORBIDDEN = re.compile(
    "pretrained.*|cache_dir|checkpoint_path|exportable|features_only|in_chans|num_classes|scriptable"
)

_ABNORMAL = re.compile(
    r"abnormal(it(y|ies))?|anomal(y|ies|ous)|pos(itive)?|fractured?s?|broken|patholog(y|ies|ic|ical)|diseased?s?|"
    r"lesions?|findings?|injur(y|ies|ed)|yes"
)
_NORMAL = re.compile(r"normal|neg(ative)?|healthy|intact|unremarkable")
_NEGATIONS = {"no", "not", "non", "without", "un"}
_SINGLE_WORD_NEGATIONS = {"non", "un"}
_PREFIXES = ("non", "not", "un", "no")
_VERDICTS = {"negative", "neg", "free", "absent", "absence"}
"""Words that negate a whole label from any position: "fracture negative", "free of disease"."""


def sounds_abnormal(label: str) -> bool | None:
    """Returns True if the words of a label mean abnormal, False if they mean normal, None if neither or both.

    A negation inverts what follows: "not fractured", "No acute finding", "non-fractured", "unhealthy".
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label)  # NotFractured
    words = re.findall(r"[^\W\d_]+", spaced.casefold())
    if words == ["no"]:
        return False
    if words[-1:] == ["no"]:  # "fracture: no"
        words = ["no", *words[:-1]]
    negated, senses = False, set()
    for before, word in zip(["", *words], words, strict=False):
        sense = _sense(word)
        if word in _NEGATIONS:
            negated = not negated
        elif sense is not None:
            senses.add(sense != negated)
        elif before in _SINGLE_WORD_NEGATIONS:  # a "non-displaced fracture" is a fracture
            negated = not negated
    if not negated and _VERDICTS & set(words):
        return False
    return senses.pop() if len(senses) == 1 else None


def _sense(word: str) -> bool | None:
    """Whether one word, possibly with a negating prefix such as "un", means abnormal."""
    if _ABNORMAL.fullmatch(word) or _NORMAL.fullmatch(word):
        return _ABNORMAL.fullmatch(word) is not None
    for prefix in _PREFIXES:
        rest = word.removeprefix(prefix)
        if rest != word and (_ABNORMAL.fullmatch(rest) or _NORMAL.fullmatch(rest)):
            return _NORMAL.fullmatch(rest) is not None
    return None


def _ordered_labels(id2label: dict[Any, Any]) -> tuple[str, str]:
    """Names of the labels 0 and 1; the words of label 0 must not mean abnormal, and those of label 1 not normal."""
    names = {int(index): label for index, label in id2label.items()}
    if set(names) != {0, 1} or names[0] == names[1]:
        raise ValueError(f"id2label is {id2label!r}: a mura model has two different labels, 0 and 1, such as {LABELS}")
    first, second = names[0], names[1]
    senses = sounds_abnormal(first), sounds_abnormal(second)
    if senses[0] != senses[1] and (senses[0] is True or senses[1] is False):
        raise ValueError(
            f"id2label is {id2label!r}: label 1 must be the positive class. Set id2label to {{0: {second!r}, 1: "
            f"{first!r}}} and label2id to {{{second!r}: 0, {first!r}: 1}}, and exchange 0 and 1 in your data"
        )
    return first, second


@strict
class MuraBaseConfig(PreTrainedConfig):
    r"""
    Base of all configurations: labels, calibration, and what the checkpoint was trained on.

    Configurations raise a `ValueError` if a value is out of range.

    Args:
        temperature (`float`, *optional*, defaults to 1.0):
            Divides the logits of a view (Guo et al., arXiv 1706.04599). 1 during training.
        study_slope (`float`, *optional*, defaults to 1.0):
            Slope of the study calibration, applied to the logit of the pooled probability.
        study_intercept (`float`, *optional*, defaults to 0.0):
            Intercept of the study calibration.
        operating_points (`dict[str, float]`, *optional*, defaults to `{"paper": 0.5}`):
            Named thresholds on the probability of a study. A study is abnormal strictly above the threshold.
        default_operating_point (`str`, *optional*):
            Name of the threshold that applies if none is requested. If None, it is "paper" (.5) if there is one, else
            the first.
        bands (`dict[str, float]`, *optional*):
            Two cut points with the default threshold between them, such as `{"low": 0.1, "suspected": 0.6}`: a study
            is "low" up to the first, "suspected" strictly above the second, and "uncertain" in between. If None, the
            cut points are the thresholds "sensitivity_95" and "specificity_95", if there are both in this order.
        trained_on_phantoms (`bool`, *optional*, defaults to `False`):
            Whether the weights were trained on synthetic images only. Such a checkpoint must not be used on real
            radiographs.
        positive_class_description (`str`, *optional*):
            What the positive class of the training data includes, as the end of a sentence that begins with "Abnormal
            means"; None if unknown. The first edition calls this field `abnormal_means`; that name is still read, and
            written too.
        test_time_flip (`bool`, *optional*, defaults to `False`):
            Whether to average logits and heatmaps over each view and its mirror image in evaluation mode. This doubles
            the cost. Ensembles and specialized models set it in the configurations of their members.
        has_ood_detector (`bool`, *optional*, defaults to `False`):
            Whether an out-of-distribution detector belongs to the checkpoint, as a file of its own. `StudyPredictor`
            warns if that file is missing, for example because only the model was saved.
        id2label, label2id (`dict`, *optional*, defaults to "normal" and "abnormal"):
            Names of the two labels. Index 1 is the positive class. Each follows from the other, and an order that
            contradicts the words of the names is rejected when it is set.
    """

    # Trainer hands all other outputs to compute_metrics, which expects the logits alone.
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        "body_part_logits", "finding_logits", "region_logits", "feature_map", "pooler_output", "mirrored_feature_map",
        "layer_outputs", "embeddings", "global_logits", "local_logits", "local_feature_map", "boxes", "pooled_logit",
        "view_logits", "single_view_logit", "view_weights", "views",
    ]  # fmt: skip

    temperature: float | int = 1.0
    study_slope: float | int = 1.0
    study_intercept: float | int = 0.0
    operating_points: dict[str, float | int] | None = None
    default_operating_point: str | None = None
    bands: dict[str, float | int] | None = None
    trained_on_phantoms: bool = False
    positive_class_description: str | None = None
    test_time_flip: bool = False
    has_ood_detector: bool = False

    id2label: dict[int, str] | dict[str, str] | None = None
    label2id: dict[str, int] | dict[str, str] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if kwargs.get("num_labels", 2) != 2:
            raise ValueError(f"num_labels is {kwargs['num_labels']}: a mura model has two labels, {LABELS}")
        if self.id2label is None:
            self.id2label = dict(enumerate(LABELS))
        if self.operating_points is None:
            self.operating_points = {"paper": 0.5}
        former_name = kwargs.pop("abnormal_means", None)
        if self.positive_class_description is None:
            self.positive_class_description = former_name
        super().__post_init__(**kwargs)
        self._check("temperature", 0 < self.temperature < math.inf, "it must be above 0 and finite")
        self._check("study_intercept", math.isfinite(self.study_intercept), "it must be finite")
        keeps_order = 0 < self.study_slope < math.inf
        self._check("study_slope", keeps_order, "it must be above 0, because calibration must keep the order")
        in_range = self.operating_points and all(0 <= value <= 1 for value in self.operating_points.values())
        self._check("operating_points", in_range, "it needs at least one threshold, all in [0, 1]")
        _, threshold = self.find_threshold()
        if self.bands is not None:
            complete = set(self.bands) == {"low", "suspected"}
            in_order = complete and 0 <= self.bands["low"] <= threshold <= self.bands["suspected"] <= 1
            self._check(
                "bands",
                in_order,
                f'it needs "low" and "suspected" in [0, 1], around the default threshold {threshold}',
            )

    def __setattr__(self, name: str, value: Any) -> None:
        # Here, because from_pretrained sets its keyword arguments after __post_init__.
        if name not in ("id2label", "label2id") or value is None:
            return super().__setattr__(name, value)
        names = _ordered_labels(value if name == "id2label" else {index: label for label, index in value.items()})
        known = {int(index): label for label, index in (getattr(self, "label2id", None) or {}).items()}
        if set(known.values()) == set(names) and known != dict(enumerate(names)):
            raise ValueError(f"id2label and label2id contradict each other: {name} is {value!r}; set both anew")
        super().__setattr__("id2label", dict(enumerate(names)))
        super().__setattr__("label2id", {label: index for index, label in enumerate(names)})

    def _check(self, name: str, valid: Any, rule: str) -> None:
        if not valid:
            raise ValueError(f"{name} is {getattr(self, name)!r}: {rule}")

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain values, with the former name `abnormal_means` too."""
        return {**super().to_dict(), "abnormal_means": self.positive_class_description}

    def find_threshold(self, operating_point: str | None = None) -> tuple[str, float]:
        """Returns name and threshold of an operating point; of the default one if None.

        Raises:
            ValueError: If there is no such operating point.
        """
        points = self.operating_points
        assert points is not None  # filled in by __post_init__
        name = self.default_operating_point if operating_point is None else operating_point
        if name is None:
            name = "paper" if "paper" in points else next(iter(points))
        if name not in points:
            kind = "default_operating_point is" if operating_point is None else "unknown operating point"
            raise ValueError(f"{kind} {name!r}; this checkpoint has {', '.join(points)}")
        return name, float(points[name])

    def find_band_limits(self, threshold: float) -> tuple[float, float]:
        """Returns the cut points of "low" and "suspected", see `bands`.

        They are extended to the threshold in use if that lies outside, so that "low" is never above and "suspected"
        never below the threshold.
        """
        points = self.operating_points or {}
        low, high = points.get("sensitivity_95", 1.0), points.get("specificity_95", 0.0)
        if self.bands is not None:
            low, high = self.bands["low"], self.bands["suspected"]
        elif low >= high:
            low = high = threshold
        return float(min(low, threshold)), float(max(high, threshold))

    def find_band(self, probability: float, threshold: float) -> str:
        """Returns the band of a probability, one of `BANDS`, with the cut points of `find_band_limits`."""
        low, high = self.find_band_limits(threshold)
        return BANDS[int(probability > low) + int(probability > high)]


@strict
class MuraConfig(MuraBaseConfig):
    r"""
    Configuration of a model with one backbone, in addition to the fields of `MuraBaseConfig`.

    Args:
        backbone (`str`, *optional*, defaults to `"densenet169"`):
            Name of a timm architecture, or of one of the small networks of this package (`SMALL_CNNS`). A model built
            from a configuration never downloads weights; use `from_timm` for pretrained ones.
        backbone_kwargs (`dict`, *optional*):
            Further arguments of `timm.create_model`, such as `{"output_stride": 16}`. Arguments that load weights or
            change the interface of the network are rejected.
        image_size (`int`, *optional*, defaults to 320):
            Side of the square training image in pixels. Networks with a fixed input size are built for it.
        num_channels (`int`, *optional*, defaults to 3):
            Input channels. The gray plane of a radiograph is repeated.
        head_layers (`list[int]`, *optional*):
            Widths of hidden linear layers between the pooled code and the two logits; none by default.
        head_dropout (`float` or `list[float]`, *optional*, defaults to 0.0):
            Dropout rate in front of the linear layers of the head: one for all, or one for each.
        head_batch_norm (`bool`, *optional*, defaults to `False`):
            Whether batch normalization follows each hidden layer, before the activation.
        head_activation (`str`, *optional*, defaults to `"relu"`):
            Activation after each hidden layer: `"relu"` or `"none"`.
        head_init (`str`, *optional*, defaults to `"small"`):
            Initialization of the linear layers of the heads: `"small"` (truncated normal, standard deviation .02),
            `"he"` (arXiv 1502.01852, normal, fan in), `"xavier"` (Glorot and Bengio 2010, uniform) or `"random"`
            (normal, standard deviation .05). Biases start at 0.
        body_part_head (`bool`, *optional*, defaults to `False`):
            Whether a second head predicts the body part, in the order of `BODY_PARTS`.
        finding_types (`list[str]`, *optional*):
            Class names of a third head, which predicts the type of a finding, given that there is one.
        regions (`list[str]`, *optional*):
            Class names of a fourth head, which predicts the region of the body in words of the data, such as "hand"
            for anything from a finger to the whole arm. It is fitted to a trained network, whose weights stay as
            they are (`mura_hf.evaluation.fit_region_head`).
        map_pooling (`str`, *optional*, defaults to `"backbone"`):
            How the feature map is pooled into a code: as the `"backbone"` does, or by `"attention"`, the mean of the
            positions weighted by a softmax of learned scores (Ilse et al., arXiv 1802.04712, equation 8 with a linear
            score). A small finding is then not diluted by the rest of the image.
        study_pooling (`str`, *optional*, defaults to `"mean"`):
            How the views of a study are combined: `"mean"` of the probabilities (Rajpurkar et al., arXiv 1712.06957,
            section 3), `"max"`, `"noisy_or"` (1 - prod(1 - p)), or `"gated_attention"` over the pooled codes (Ilse et
            al., arXiv 1802.04712, equation 9).
        attention_size (`int`, *optional*, defaults to 128):
            Hidden width of the gated attention.
    """

    model_type = "mura"

    backbone: str = "densenet169"
    backbone_kwargs: dict[str, Any] | None = None
    image_size: int = 320
    num_channels: int = 3
    head_layers: list[int] | None = None
    head_dropout: float | int | list[float | int] = 0.0
    head_batch_norm: bool = False
    head_activation: str = "relu"
    head_init: str = "small"
    body_part_head: bool = False
    finding_types: list[str] | None = None
    regions: list[str] | None = None
    map_pooling: str = "backbone"
    study_pooling: str = "mean"
    attention_size: int = 128

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        for name, known in _CHOICES.items():
            self._check(name, getattr(self, name) in known, f"it must be one of {', '.join(known)}")
        for name, width in (("head_layers", min(self.head_layers or [1])), ("attention_size", self.attention_size)):
            self._check(name, width >= 1, "widths must be 1 or more")
        rates, layers = self.head_dropouts, 1 + len(self.head_layers or [])
        self._check(
            "head_dropout",
            len(rates) == layers and all(0 <= rate < 1 for rate in rates),
            f"give one rate in [0, 1), or a list with one rate for each linear layer of the head ({layers})",
        )
        for field, what in (("finding_types", "types"), ("regions", "regions")):
            names = getattr(self, field)
            different = names is None or 2 <= len(names) == len(set(names))
            self._check(field, different, f"it must name at least two different {what}")
        if self.test_time_flip and self.study_pooling == "gated_attention" and self.head_layers:
            raise ValueError(
                "test_time_flip with gated_attention needs a head of one layer, because it averages codes and expects "
                "averaged logits; leave out head_layers, or use one of the two only"
            )
        forbidden = [name for name in self.backbone_kwargs or {} if _FORBIDDEN.fullmatch(name)]
        if forbidden:
            raise ValueError(
                f"backbone_kwargs may not hold {', '.join(forbidden)}; from_timm loads pretrained weights"
            )
        self._check(
            "backbone", ":" not in self.backbone, "give the bare name of a timm architecture, without a source"
        )

    @property
    def head_dropouts(self) -> list[float]:
        """Dropout rate in front of each linear layer of the head."""
        if isinstance(self.head_dropout, list):
            return [float(rate) for rate in self.head_dropout]
        return [float(self.head_dropout)] * (1 + len(self.head_layers or []))
