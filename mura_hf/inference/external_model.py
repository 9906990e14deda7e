"""Which of two labels of someone else's checkpoint means abnormal.

Someone else's two-class classifier as one of ours: it answers for views and studies, and can be explained.
Loads someone else's two-class image classifier, of transformers or timm, with its own image processor.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoImageProcessor, AutoModelForImageClassification

from ..errors import CheckpointError
from ..models import Explained, MuraBaseConfig, MuraClassifier, MuraImageClassifierOutput
from ..models.class_activation_mura import MapLayer, find_map_layer
from .external_processor import ExternalProcessor

_ABNORMAL = re.compile(
    r"abnormal(it(y|ies))?|anomal(y|ies|ous)|pos(itive)?|fractured?s?|broken|patholog(y|ies|ic|ical)|diseased?s?|"
    r"lesions?|findings?|injur(y|ies|ed)|yes"
)
_NORMAL = re.compile(r"normal|neg(ative)?|healthy|intact|unremarkable")
_NEGATIONS = {"no", "not", "non", "without", "un"}
_OF_ONE_WORD = {"non", "un"}
_PREFIXES = ("non", "not", "un", "no")
_VERDICTS = {"negative", "neg", "free", "absent", "absence"}
"""Words that speak about the whole label, wherever they stand: "fracture negative", "free of disease"."""


def find_abnormal(labels: Sequence[str], place: str, wanted: str | None = None) -> int:
    """Index of the label that means abnormal.

    Args:
        labels: The two, in the checkpoint's order.
        place: What to call the checkpoint.
        wanted: The label that means abnormal where the caller says so; upper and lower case are the same unless the
            labels differ in that only.

    Raises:
        CheckpointError: If `wanted` is none of the labels, or, without it, not one sounds abnormal and the other
            normal. The message names both labels and how to answer.
    """
    both = " and ".join(f"“{label}”" for label in labels)
    if len(set(labels)) < len(labels):
        raise CheckpointError(
            f"{place} has the labels {both}, which cannot be told apart; give its config.json two different names in "
            "id2label"
        )
    if wanted is not None:
        matches = [label for label in labels if label == wanted] or [
            label for label in labels if label.casefold() == wanted.strip().casefold()
        ]
        if len(matches) == 1:
            return list(labels).index(matches[0])
        raise CheckpointError(f"{place} has no label “{wanted}”; abnormal_label must be one of {both}")
    senses = [sounds_abnormal(label) for label in labels]
    if set(senses) == {True, False}:
        return senses.index(True)
    raise CheckpointError(
        f"{place} has the labels {both}: which of them means abnormal? Say it with abnormal_label, as in "
        f"StudyPredictor.from_pretrained(..., abnormal_label={labels[1]!r}), or in the app's box “Abnormal label”"
    )


def sounds_abnormal(label: str) -> bool | None:
    """True where a label's words mean abnormal, False where they mean normal, None where they mean neither or both.

    A negation turns round what comes after it: "not fractured", "No acute finding", "non-fractured", "unhealthy".
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
        elif before in _OF_ONE_WORD:  # "non-displaced fracture" is one
            negated = not negated
    if not negated and _VERDICTS & set(words):
        return False
    return senses.pop() if len(senses) == 1 else None


def _sense(word: str) -> bool | None:
    """Whether one word means abnormal; "un" and the like may be grown together with it."""
    if _ABNORMAL.fullmatch(word) or _NORMAL.fullmatch(word):
        return _ABNORMAL.fullmatch(word) is not None
    for prefix in _PREFIXES:
        rest = word.removeprefix(prefix)
        if rest != word and (_ABNORMAL.fullmatch(rest) or _NORMAL.fullmatch(rest)):
            return _NORMAL.fullmatch(rest) is not None
    return None


_NOT_LAID_OUT = {"hiera", "perceiver", "perceiver_learned", "imagegpt"}
"""Model types whose tokens do not lie row by row, though their number may look so."""


@strict
class ExternalConfig(MuraBaseConfig):
    r"""
    What answers need to know about someone else's checkpoint: nothing is calibrated, and views are averaged.

    Args:
        backbone (`str`, *optional*, defaults to `""`):
            The kind of network.
        study_pooling (`str`, *optional*, defaults to `"mean"`):
            Always `"mean"` of the views' probabilities.
    """

    model_type = "external"

    backbone: str = ""
    study_pooling: str = "mean"


class ExternalClassifier(MuraClassifier):
    """A two-class image classifier of transformers.

    Args:
        model: It.
        config: Ours.
        abnormal: Which of its outputs means abnormal.
    """

    config: ExternalConfig
    config_class = ExternalConfig

    def __init__(self, model: nn.Module, config: ExternalConfig, abnormal: int) -> None:
        super().__init__(config)
        self.model: Any = model
        self.order = [1 - abnormal, abnormal]
        self._layer: MapLayer | None = None
        self._why_none = f"a network of type {config.backbone} has not been looked into"

    def find_layer(self, shape: tuple[int, int, int]) -> None:
        """Finds the layer that heatmaps are read from, with pictures of noise.

        Args:
            shape: Channels, height and width of what the model is fed.
        """
        self._layer = None
        self._why_none = (
            f"a network of type {self.config.backbone} has no layer whose places are those of the picture and decide "
            "the answer"
        )
        if self.model.config.model_type not in _NOT_LAID_OUT:
            self._layer = find_map_layer(self.model, lambda pixels: _difference(self._logits(pixels)), shape)

    def classify_views(
        self, pixel_values: torch.Tensor, explainable: bool = False, **given: Any
    ) -> MuraImageClassifierOutput:
        """Logits of views `[B, C, H, W]`, without a loss; with the graph from the explained layer on, where asked."""
        if self._layer is None:
            return MuraImageClassifierOutput(logits=self._logits(pixel_values))
        with self._layer.cut() if explainable else self._layer.watch() as held:
            logits = self._logits(pixel_values)
        seen = self._layer.grid.to_map(held[-1].detach())
        return MuraImageClassifierOutput(
            logits=logits,
            feature_map=seen,
            pooler_output=seen.mean((2, 3)),
            layer_outputs=(held[-1],) if explainable else None,
        )

    def explain(self, output: MuraImageClassifierOutput) -> list[Explained]:
        """The one layer.

        Raises:
            CheckpointError: If there is no such layer, or the output was not asked for with `explainable`.
        """
        if self._layer is None:
            raise CheckpointError(f"{self._why_none}; the method occlusion needs none")
        if output.layer_outputs is None:
            raise CheckpointError("this output was not asked for with explainable=True, so nothing explains it")
        return [self._layer.explain(output.logits, output.layer_outputs)]

    def _logits(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Logits `[B, 2]` for normal and abnormal."""
        return self.model(pixel_values=pixel_values).logits[:, self.order]


def _difference(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, 1] - logits[:, 0]


EXTERNAL_WARNING = (
    "This checkpoint is someone else's. How good it is on radiographs like these is not known here, and its "
    "probabilities are not calibrated: read them as an order, not as chances."
)

# A config comes from strangers: it must not point timm to files, nor change the network's form.
_REFUSED_ARGUMENTS = ("cache_dir", "checkpoint_path", "exportable", "features_only", "scriptable")


def load_external(
    place: str, config: Any, dtype: str | torch.dtype, pinned: dict[str, str], abnormal_label: str | None
) -> tuple[ExternalClassifier, ExternalProcessor]:
    """Loads a checkpoint that is none of ours; no code that came with it is run, and no pickle read.

    Args:
        place: Folder or Hub name.
        config: Of it, from `AutoConfig`.
        dtype: Of the weights.
        pinned: `{"revision": ...}` where one was asked for.
        abnormal_label: The label that means abnormal; found by its words where None.

    Returns:
        The model, in evaluation mode, and its processor.

    Raises:
        CheckpointError: If it has not two labels, it is not clear which one means abnormal, weights are missing or
            pickled, or there is no image processor.
    """
    check_outputs(place, config)
    labels = [str(config.id2label[index]) for index in range(2)]
    abnormal = find_abnormal(labels, place, abnormal_label)
    if config.model_type == "timm_wrapper":
        _check_timm(place, config)
    processor = _load_processor(place, pinned)
    model = _load_model(place, config, dtype, pinned)
    own = ExternalConfig(
        backbone=config.architecture if config.model_type == "timm_wrapper" else config.model_type,
        positive_class_description=(
            f"what this checkpoint's authors labelled “{labels[abnormal]}”, against “{labels[1 - abnormal]}”; what "
            "they counted as such, its card may tell"
        ),
    )
    adapted = ExternalClassifier(model, own, abnormal).eval().requires_grad_(False)
    channels = next((weight.shape[1] for weight in model.parameters() if weight.ndim == 4), 3)  # of the first layer
    feeder = ExternalProcessor(processor, gray=channels == 1)
    fed = feeder([np.eye(64, dtype=np.uint8)])["pixel_values"]
    adapted.find_layer((fed.shape[1], fed.shape[2], fed.shape[3]))
    return adapted, feeder


def check_outputs(place: str, config: Any) -> None:
    """Refuses what is no classifier of two classes.

    Raises:
        CheckpointError: If it has another number of labels, or its labels do not exclude each other.
    """
    labels = config.id2label or {}
    if config.num_labels == 1:
        raise CheckpointError(
            f"{place} has one output, which transformers takes for a regression: neither what it measures nor which "
            "end of it is abnormal is written down. Give it two labels: a weight w and bias b of one logit become "
            "the weights 0 and w, and the biases 0 and b"
        )
    if config.num_labels != 2 or not {0, 1} <= set(labels):
        names = ", ".join(f"“{name}”" for name in list(labels.values())[:4]) + ", ..." * (len(labels) > 4)
        raise CheckpointError(
            f"{place} is a checkpoint of type {config.model_type!r} with {config.num_labels} labels ({names}); one "
            "that tells normal from abnormal has two"
        )
    kind = getattr(config, "problem_type", None)
    if kind not in (None, "single_label_classification"):
        raise CheckpointError(
            f"{place} was trained for {kind}, where two labels do not exclude each other: there is no probability of "
            "abnormal against normal"
        )


def _check_timm(place: str, config: Any) -> None:
    refused = [name for name in config.model_args or {} if name in _REFUSED_ARGUMENTS or name.startswith("pretrained")]
    if refused:
        raise CheckpointError(f"{place}: model_args in its config.json may not hold {', '.join(refused)}")
    if ":" in config.architecture or "/" in config.architecture:
        raise CheckpointError(
            f"{place}: architecture in its config.json is {config.architecture!r}, not the bare name of one of timm's"
        )


def _load_processor(place: str, pinned: dict[str, str]) -> Any:
    try:
        return AutoImageProcessor.from_pretrained(place, trust_remote_code=False, **pinned)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{place} has no image processor that transformers knows (preprocessor_config.json), so how its pictures "
            "were prepared is not known; put the one of its base model beside its weights, with its save_pretrained"
        ) from error


def _load_model(place: str, config: Any, dtype: str | torch.dtype, pinned: dict[str, str]) -> Any:
    try:
        model, info = AutoModelForImageClassification.from_pretrained(
            place,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **pinned,
        )
    except OSError as error:
        if "safetensors" not in str(error):
            raise
        raise CheckpointError(
            f"{place} has no model.safetensors. Pickled weights (pytorch_model.bin) can run code when they are read, "
            "so they are never loaded: ask its authors for safetensors, or, if you trust them, load it yourself with "
            "transformers and save_pretrained it to a new folder"
        ) from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise CheckpointError(
            f"{place} has no weights for {', '.join(missing[:4])}{', ...' * (len(missing) > 4)}, so it would answer "
            "at random; it may be a base model that still waits for its training"
        )
    return model
