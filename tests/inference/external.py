"""Small untrained external checkpoints (transformers and timm), whose predictions differ from image to image."""

import json
from pathlib import Path
from typing import Any

import timm
import torch
import transformers
from safetensors.torch import save_file

from tests.checkpoints import randomize_norms

SIDE = 64
LABELS = ("negative", "positive")
_TOKENS = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
_TOKENS |= {"image_size": SIDE, "patch_size": 16, "initializer_range": 0.3}
_STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
_SWIN = {"image_size": SIDE, "patch_size": 4, "embed_dim": 12, "depths": [1, 1, 2], "num_heads": [1, 2, 4]}
_SQUARE = {"size": {"height": SIDE, "width": SIDE}}
_CROPPED = {"size": {"shortest_edge": SIDE}, "crop_pct": 0.875}

KINDS: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "vit": ("ViT", _TOKENS, "ViT", _SQUARE),
    "deit": ("DeiT", _TOKENS, "DeiT", {"size": {"height": 80, "width": 80}, "crop_size": _SQUARE["size"]}),
    "swin": ("Swin", {**_SWIN, "window_size": 4, "initializer_range": 0.3}, "ViT", _SQUARE),
    "resnet": ("ResNet", {"embedding_size": 8, "layer_type": "basic", **_STAGES}, "ConvNext", _CROPPED),
    "convnext": (
        "ConvNext",
        {**_STAGES, "layer_scale_init_value": 0.5, "initializer_range": 0.3},
        "ConvNext",
        _CROPPED,
    ),
    "hiera": ("Hiera", {"image_size": [SIDE, SIDE], "embed_dim": 16, "depths": [1, 1, 2, 1]}, "ViT", _SQUARE),
}
"""Kind -> model class, its config, class of the image processor, its settings."""


def make_external(kind: str, labels: tuple[str, ...] = LABELS, **config: Any) -> Any:
    """A model of transformers."""
    name, fields, *_ = KINDS[kind]
    named = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    torch.manual_seed(0)
    built = getattr(transformers, f"{name}Config")(**{**fields, **named, **config})
    model = getattr(transformers, f"{name}ForImageClassification")(built).eval()
    return _liven(model)


def save_external(folder: Path, kind: str, labels: tuple[str, ...] = LABELS, **config: Any) -> Path:
    """Saves such a model with its processor."""
    make_external(kind, labels, **config).save_pretrained(folder)
    *_, processor, settings = KINDS[kind]
    getattr(transformers, f"{processor}ImageProcessor")(**settings).save_pretrained(folder)
    return folder


def save_timm(folder: Path, architecture: str, labels: tuple[str, ...] = LABELS, **model_args: Any) -> Any:
    """Saves a checkpoint as timm itself pushes it: its own config, keys without a prefix; gives the model back."""
    torch.manual_seed(0)
    model = _liven(timm.create_model(architecture, num_classes=len(labels), **model_args).eval())
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    seen = {"input_size": [3, SIDE, SIDE], "crop_pct": 0.875, "interpolation": "bicubic", "crop_mode": "center"}
    config = {
        "architecture": architecture,
        "num_classes": len(labels),
        "label_names": list(labels),
        "model_args": model_args,
        "pretrained_cfg": {**seen, "mean": [0.5] * 3, "std": [0.5] * 3},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return model


def _liven(model: Any) -> Any:
    """Norms that do something, and a head that tells pictures apart."""
    for module in randomize_norms(model).modules():
        if isinstance(module, torch.nn.Linear) and len(module.weight) == 2:
            torch.nn.init.normal_(module.weight, 0, 0.3)
    return model
