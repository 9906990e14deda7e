"""External checkpoints: two-class image classifiers of transformers or timm, with their own image processor."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from huggingface_hub.dataclasses import strict
from PIL import Image
from torch import nn
from transformers import AutoImageProcessor, AutoModelForImageClassification

from ..errors import CheckpointError
from ..models import ExplainedMap, MuraBaseConfig, MuraClassifier, MuraImageClassifierOutput
from ..models.class_activation_mura import MapLayer, find_map_layer
from ..models.configuration_mura import sounds_abnormal
from ..models.geometry_mura import to_gray_plane

_MARGIN = 0.1  # share of a side that is ignored at either end, where interpolation distorts the ramp


class ExternalProcessor:
    """Runs radiographs through an image processor for 8-bit colour images, and maps heatmaps back.

    Args:
        processor: Any image processor of transformers, including the wrapper of timm.
        gray: Whether the model has one input channel, so that the processor gets grayscale images.
    """

    def __init__(self, processor: Any, *, gray: bool = False) -> None:
        self.processor = processor
        self._mode = "L" if gray else "RGB"
        self._window = lru_cache(maxsize=64)(self._measure)

    def __call__(self, images: Sequence[Any], return_tensors: str = "pt") -> dict[str, torch.Tensor]:
        """Returns `pixel_values`, float32 `[V, C, H, W]`, of images as `gray_plane` takes them."""
        return {"pixel_values": self._run([Image.fromarray(self.gray_plane(image)) for image in images])}

    def save_pretrained(self, save_directory: Any) -> None:
        """Saves the image processor."""
        self.processor.save_pretrained(save_directory)

    def gray_plane(self, image: Any) -> np.ndarray:
        """Returns an image as gray levels, uint8 `[H, W]`, like `MuraImageProcessor.gray_plane`."""
        return to_gray_plane(image)

    def restore_map(self, values: np.ndarray, height: int, width: int) -> np.ndarray:
        """Maps a heatmap back, like `MuraImageProcessor.restore_map`; it is 0 outside of what the model saw.

        Raises:
            CheckpointError: If the part of the image that the model sees cannot be determined.
        """
        left, top, right, bottom = self._window(height, width)
        rows = _weights(values.shape[0], height, top, bottom)
        columns = _weights(values.shape[1], width, left, right)
        return rows @ np.asarray(values, np.float32) @ columns.T

    def _run(self, pictures: list[Image.Image]) -> torch.Tensor:
        pixel_values = self.processor(
            images=[picture.convert(self._mode) for picture in pictures], return_tensors="pt"
        )["pixel_values"]
        if not isinstance(pixel_values, torch.Tensor) or pixel_values.ndim != 4 or len(pixel_values) != len(pictures):
            raise CheckpointError(
                f"its image processor, {type(self.processor).__name__}, does not return one array [channels, "
                "height, width] per image"
            )
        return pixel_values.float()

    def _measure(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Measures what the model sees of images of a size, by processing gray ramps. Works for any linear geometry.

        Returns left, top, right and bottom in pixels of the image; they lie outside of it if the processor pads.
        """
        black, white = (self._run([Image.new("L", (width, height), level)])[0, 0] for level in (0, 255))
        across = np.broadcast_to((np.arange(width) + 0.5) / width, (height, width))
        down = np.broadcast_to(((np.arange(height) + 0.5) / height)[:, None], (height, width))
        reached = (white - black).abs() > 0.5 * (white - black).abs().amax()  # padding is equal in both
        edges = []
        for ramp, side, axis in ((across, width, 1), (down, height, 0)):
            levels = self._run([Image.fromarray(np.rint(ramp * 255).astype(np.uint8))])[0, 0]
            shares = torch.where(reached, (levels - black) / (white - black), torch.nan)
            edges.append(_fit_edges(torch.nanmean(shares, dim=1 - axis).double().numpy() * side, side))
        (left, right), (top, bottom) = edges
        return left, top, right, bottom


def _fit_edges(places: np.ndarray, side: int) -> tuple[float, float]:
    """First and last edge of the visible part along one axis, from the centre of each processed pixel (NaN outside).

    All of them are in pixels of the original, whose length is `side`.
    """
    inside = np.flatnonzero(np.isfinite(places))
    margin = int(np.ceil(_MARGIN * len(inside)))
    kept = inside[margin : len(inside) - margin]
    if len(kept) >= 2:
        slope, start = np.polyfit(kept + 0.5, places[kept], 1)
        error = np.abs(slope * (kept + 0.5) + start - places[kept]).max()
        seen = slope * len(places)
        if seen > side / 100 and error <= side / 128 + slope:  # two gray levels of the ramp, and a processed pixel
            return float(start), float(start + seen)
    raise CheckpointError(
        "the part of an image that the image processor of this checkpoint shows to the model cannot be determined"
    )


def _weights(source: int, target: int, first: float, last: float) -> np.ndarray:
    """Bilinear interpolation along one axis, float32 `[target, source]`, of a map between two edges in target pixels.

    Rows of pixels outside are zero.
    """
    middles = np.arange(target) + 0.5
    place = (middles - first) / (last - first) * source - 0.5
    seen = (middles >= first) & (middles < last)
    below = np.clip(np.floor(place), 0, source - 1).astype(int)
    above = np.minimum(below + 1, source - 1)
    share = np.clip(place - below, 0, 1)
    weights = np.zeros((target, source), np.float32)
    rows = np.arange(target)
    np.add.at(weights, (rows, below), np.where(seen, 1 - share, 0))
    np.add.at(weights, (rows, above), np.where(seen, share, 0))
    return weights


def find_abnormal(labels: Sequence[str], place: str, wanted: str | None = None) -> int:
    """Returns the index of the label that means abnormal: the `wanted` one, or else according to the label texts.

    Case is ignored in `wanted`, unless the two labels differ only by case.

    Raises:
        CheckpointError: If `wanted` is not one of the labels; or, without it, unless one label means abnormal and the
            other normal. The message names both labels and the argument to set.
    """
    both = " and ".join(f"“{label}”" for label in labels)
    if len(set(labels)) < len(labels):
        raise CheckpointError(
            f"{place} has the labels {both}, which are the same; give its config.json two different names in id2label"
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
        f"{place} has the labels {both}: which of them means abnormal? Set abnormal_label, as in "
        f"StudyPredictor.from_pretrained(..., abnormal_label={labels[1]!r}), or in the app's box “Abnormal label”"
    )


_NO_TOKEN_GRID = {"hiera", "perceiver", "perceiver_learned", "imagegpt"}
"""Model types whose tokens are not in row-major order."""


@strict
class ExternalConfig(MuraBaseConfig):
    """Configuration of an external checkpoint: it is not calibrated, and the probabilities of views are averaged."""

    model_type = "external"

    backbone: str = ""  # the architecture or model type
    study_pooling: str = "mean"


class ExternalClassifier(MuraClassifier):
    """Adapts a two-class image classifier of transformers, whose output `abnormal` means abnormal."""

    config: ExternalConfig
    config_class = ExternalConfig

    def __init__(self, model: nn.Module, config: ExternalConfig, abnormal: int) -> None:
        super().__init__(config)
        self.model: Any = model
        self.order = [1 - abnormal, abnormal]
        self._layer: MapLayer | None = None
        self._no_layer = f"the layers of a network of type {config.backbone} were not searched"

    def find_layer(self, shape: tuple[int, int, int]) -> None:
        """Finds the layer for heatmaps, by running noise of a shape `[C, H, W]` through the model."""
        self._layer = None
        self._no_layer = (
            f"a network of type {self.config.backbone} has no layer whose positions correspond to those of the image "
            "and determine the prediction"
        )
        if self.model.config.model_type not in _NO_TOKEN_GRID:
            self._layer = find_map_layer(self.model, self._difference, shape)

    def classify_views(
        self, pixel_values: torch.Tensor, explainable: bool = False, **options: Any
    ) -> MuraImageClassifierOutput:
        """Returns logits of views `[B, C, H, W]`; if `explainable`, with the graph from the explained layer on."""
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

    def explain(self, output: MuraImageClassifierOutput) -> list[ExplainedMap]:
        """Returns the explained layer."""
        if self._layer is None:
            raise CheckpointError(f"{self._no_layer}; the method occlusion needs none")
        if output.layer_outputs is None:
            raise CheckpointError("this output was made without explainable=True, so it cannot be explained")
        return [self._layer.explain(output.logits, output.layer_outputs)]

    def save_pretrained(self, save_directory: Any, **options: Any) -> None:
        """Saves the adapted model; its config records which label means abnormal."""
        self.model.config.abnormal_label = self.model.config.id2label[self.order[1]]
        self.model.save_pretrained(save_directory, **options)

    def _logits(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Logits `[B, 2]` for normal and abnormal."""
        return self.model(pixel_values=pixel_values).logits[:, self.order]

    def _difference(self, pixel_values: torch.Tensor) -> torch.Tensor:
        logits = self._logits(pixel_values)
        return logits[:, 1] - logits[:, 0]


EXTERNAL_WARNING = (
    "This checkpoint is someone else's. Its accuracy on radiographs like these is unknown, and its probabilities are "
    "not calibrated: use them to rank studies, not as probabilities."
)

# Configs are untrusted: they must not point timm to files, or change what the network returns.
_REFUSED_ARGUMENTS = ("cache_dir", "checkpoint_path", "exportable", "features_only", "scriptable")


def load_external(
    place: str, config: Any, dtype: str | torch.dtype, revision: str, abnormal_label: str | None
) -> tuple[ExternalClassifier, ExternalProcessor]:
    """Loads an external checkpoint, in evaluation mode, and its processor.

    Code that comes with it is never run, and pickled weights are never read.

    Raises:
        CheckpointError: If it does not have two labels, it is unclear which one means abnormal, weights are missing or
            pickled, or it has no image processor.
    """
    _check_config(place, config)
    labels = [str(config.id2label[index]) for index in range(2)]
    abnormal = find_abnormal(labels, place, abnormal_label or getattr(config, "abnormal_label", None))
    try:
        processor = AutoImageProcessor.from_pretrained(place, trust_remote_code=False, revision=revision)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{place} has no image processor that transformers knows (preprocessor_config.json), so its "
            "preprocessing is unknown; save that of its base model beside its weights, with save_pretrained"
        ) from error
    try:
        model, info = AutoModelForImageClassification.from_pretrained(
            place,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            revision=revision,
        )
    except OSError as error:
        if "safetensors" not in str(error):
            raise
        raise CheckpointError(
            f"{place} has no model.safetensors. Pickled weights (pytorch_model.bin) can run code when they are "
            "loaded, so they are refused: ask the authors for safetensors, or, if you trust them, load the model with "
            "transformers yourself and save it to a new folder with save_pretrained"
        ) from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise CheckpointError(
            f"{place} has no weights for {', '.join(missing[:4])}{', ...' * (len(missing) > 4)}, so its "
            "predictions would be random; it may be a base model that was not fine-tuned"
        )
    own = ExternalConfig(
        backbone=config.architecture if config.model_type == "timm_wrapper" else config.model_type,
        positive_class_description=(
            f"what the authors of this checkpoint labelled “{labels[abnormal]}”, as opposed to "
            f"“{labels[1 - abnormal]}”; see its card for their definition"
        ),
    )
    adapted = ExternalClassifier(model, own, abnormal).eval().requires_grad_(False)
    channels = next((weight.shape[1] for weight in model.parameters() if weight.ndim == 4), 3)  # of the first layer
    external = ExternalProcessor(processor, gray=channels == 1)
    pixel_values = external([np.eye(64, dtype=np.uint8)])["pixel_values"]
    adapted.find_layer(tuple(pixel_values.shape[1:]))
    return adapted, external


def _check_config(place: str, config: Any) -> None:
    """Checks that a checkpoint is a classifier with two classes, and that a config of timm is harmless."""
    labels = config.id2label or {}
    if config.num_labels == 1:
        raise CheckpointError(
            f"{place} has one output, which transformers treats as a regression without a defined meaning. Give it "
            "two labels: the weight w and bias b of one logit become the weights 0 and w, and the biases 0 and b"
        )
    if config.num_labels != 2 or not {0, 1} <= set(labels):
        names = ", ".join(f"“{name}”" for name in list(labels.values())[:4]) + ", ..." * (len(labels) > 4)
        raise CheckpointError(
            f"{place} is a checkpoint of type {config.model_type!r} with {config.num_labels} labels ({names}); a "
            "classifier of normal against abnormal has two"
        )
    kind = getattr(config, "problem_type", None)
    if kind not in (None, "single_label_classification"):
        raise CheckpointError(
            f"{place} was trained for {kind}, where two labels do not exclude each other: there is no probability of "
            "abnormal against normal"
        )
    if config.model_type != "timm_wrapper":
        return
    refused = [name for name in config.model_args or {} if name in _REFUSED_ARGUMENTS or name.startswith("pretrained")]
    if refused:
        raise CheckpointError(f"{place}: model_args in its config.json may not hold {', '.join(refused)}")
    if ":" in config.architecture or "/" in config.architecture:
        raise CheckpointError(
            f"{place}: architecture in its config.json is {config.architecture!r}; it must be the plain name "
            "of a timm architecture"
        )
