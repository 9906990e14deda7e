"""Loads someone else's two-class image classifier, of transformers or timm, with its own image processor."""

from typing import Any

import numpy as np
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

from ..errors import CheckpointError
from .other_labels import find_abnormal
from .other_model import OtherClassifier, OtherConfig
from .other_processor import OtherProcessor

OTHER_WARNING = (
    "This checkpoint is someone else's. How good it is on radiographs like these is not known here, and its "
    "probabilities are not calibrated: read them as an order, not as chances."
)

# A config comes from strangers: it must not point timm to files, nor change the network's form.
_REFUSED_ARGUMENTS = ("cache_dir", "checkpoint_path", "exportable", "features_only", "scriptable")


def load_other(
    place: str, config: Any, dtype: str | torch.dtype, pinned: dict[str, str], abnormal_label: str | None
) -> tuple[OtherClassifier, OtherProcessor]:
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
    own = OtherConfig(
        backbone=config.architecture if config.model_type == "timm_wrapper" else config.model_type,
        abnormal_means=(
            f"what this checkpoint's authors labelled “{labels[abnormal]}”, against “{labels[1 - abnormal]}”; what "
            "they counted as such, its card may tell"
        ),
    )
    adapted = OtherClassifier(model, own, abnormal).eval().requires_grad_(False)
    channels = next((weight.shape[1] for weight in model.parameters() if weight.ndim == 4), 3)  # of the first layer
    feeder = OtherProcessor(processor, gray=channels == 1)
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
