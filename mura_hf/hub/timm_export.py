"""Export to timm: a checkpoint with one network and a linear head as a plain model without remote code."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers import AutoImageProcessor, AutoModelForImageClassification

from ..common import LOWER_LIMB, put_file, sync_folder
from ..errors import CheckpointError, first_line
from ..inference import StudyPredictor
from ..inference.loading import find_source, find_weights
from ..metrics import classification_metrics
from ..models import MuraConfig, MuraImageProcessor
from ..models.backbone_mura import SMALL_CNNS, create_backbone
from ..models.golden_mura import digest_weights
from ..models.heads_mura import pool_views
from .card import load_templates
from .commit import CARD
from .export import TIMM_FOLDER

TIMM_FILES = ("config.json", "model.safetensors", CARD)
_LOGIT_TOLERANCE = 1e-4
_SETTINGS = (
    "custom_load", "input_size", "fixed_input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std",
    "num_classes", "pool_size", "first_conv", "classifier",
)  # fmt: skip  # the others, such as tag and licence, are about timm's own weights
_CENTER = (0.4999, 0.4999)  # with which ImageOps.pad rounds as the letterbox does
_INSTEAD = (
    "Use scripts/export_checkpoint.py, which adds the model's own code, or scripts/export_onnx.py, if it takes the "
    "checkpoint"
)


@dataclass(frozen=True)
class TimmComparison:
    """A timm export and its checkpoint on the same held-out studies.

    Attributes:
        studies: Number of studies.
        auroc_before: AUROC of the checkpoint.
        auroc: AUROC of the export, with the views of a study combined as its card says.
        largest_change: Largest change of the probability of a study.
        auroc_padded: The same with views that were padded with black before, as its card says; None without letterbox.
        largest_change_padded: Likewise.
    """

    studies: int
    auroc_before: float
    auroc: float
    largest_change: float
    auroc_padded: float | None = None
    largest_change_padded: float | None = None


@dataclass(frozen=True)
class TimmExport:
    """What `export_timm` wrote.

    Attributes:
        folder: Folder with the model.
        logit_difference: Largest difference of a logit on equal pixels.
        comparison: None without held-out studies.
    """

    folder: Path
    logit_difference: float
    comparison: TimmComparison | None


def export_timm(
    checkpoint: str | os.PathLike[str],
    folder: str | os.PathLike[str] | None = None,
    held_out: Sequence[tuple[Sequence[np.ndarray], int]] | None = None,
) -> TimmExport:
    """Writes a checkpoint as a plain model of timm, which loads with timm or transformers and without remote code.

    The network gives the logits of one view, divided by the temperature. timm fills the bars of a letterbox with the
    mean gray level instead of black. The card in the folder lists this and everything else that a model of timm cannot
    hold, and the comparison on held-out studies.

    Args:
        checkpoint: Folder, Hub name, or name of a bundled checkpoint.
        folder: New or empty folder, or one with an earlier export, which is replaced; `timm` in the folder of the
            checkpoint if None.
        held_out: Views (gray levels uint8 `[H, W]`) and label of studies that no training has seen, with both labels.

    Raises:
        CheckpointError: If the network or the image processor is more than timm can express, or the folder holds
            something else. Nothing is written then.
        ValueError: If the studies have one label only.
    """
    if held_out is not None and len({label for _, label in held_out}) < 2:
        raise ValueError("give held-out studies of both labels")
    predictor = StudyPredictor.from_pretrained(checkpoint, device="cpu", dtype=torch.float32, runtime="torch")
    original = find_weights(find_source(checkpoint))
    assert original is not None  # the predictor was loaded from it
    target = original / TIMM_FOLDER if folder is None else Path(folder)
    if target.exists() and not (target.is_dir() and {file.name for file in target.iterdir()} <= {*TIMM_FILES}):
        raise CheckpointError(f"{target} holds other files than an earlier export to timm; choose a new folder")
    network = _make_timm_network(predictor)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".timm-", dir=target.parent) as draft:
        fresh = Path(draft, "timm")
        settings = _save_timm(network, predictor, fresh, digest_weights(original))
        exported = AutoModelForImageClassification.from_pretrained(fresh, trust_remote_code=False).eval()
        prepare = AutoImageProcessor.from_pretrained(fresh)
        difference = _check_timm(predictor, exported, prepare)
        comparison = None if held_out is None else _compare_timm(predictor, exported, prepare, held_out)
        settings["mura_hf"] |= {"comparison": comparison and vars(comparison)}
        put_file(fresh, "config.json", (json.dumps(settings, indent=2) + "\n").encode())
        put_file(fresh, CARD, _timm_card(predictor, original, comparison).encode())
        sync_folder(fresh)
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
    return TimmExport(target, difference, comparison)


def _find_timm_obstacle(predictor: StudyPredictor) -> str | None:
    """Returns what a plain model of timm cannot express, as a clause with the reason; None if there is nothing."""
    model, processor = predictor.model, predictor.processor
    if not isinstance(processor, MuraImageProcessor):
        return "it is no checkpoint of mura_hf"
    config = model.config
    if config.model_type != MuraConfig.model_type:
        return f"it is of type {config.model_type}, and timm's models have one network with one linear layer"
    knows_legs = bool({*LOWER_LIMB} & {*(config.regions or [])})
    pools_map, pools_codes = config.map_pooling == "attention", config.study_pooling == "gated_attention"
    small, layers, channels = config.backbone in SMALL_CNNS, config.head_layers or [], config.num_channels
    obstacles = {
        f"its network {config.backbone} is one of this package, which timm does not have": small,
        f"its head has {1 + len(layers)} layers, and that of timm has one": layers,
        "it pools its feature map by attention, which timm's network does not": pools_map,
        "it combines views by attention over their codes, and timm's network gives logits only": pools_codes,
        "test_time_flip averages over mirror images, and timm's network sees one image": config.test_time_flip,
        "its head for regions finds studies that it is not made for, and timm's network has one head": knows_legs
        and config.has_ood_detector,
        f"its network takes {channels} channels, and an image has 3": channels not in (1, 3),
        "enhance filters the image, which timm's transforms cannot": processor.enhance,
    }
    return next((obstacle for obstacle, found in obstacles.items() if found), None)


def _make_timm_network(predictor: StudyPredictor) -> Any:
    """Returns timm's network with the weights of a checkpoint; its classifier is divided by the temperature."""
    obstacle = _find_timm_obstacle(predictor)
    if obstacle is not None:
        raise CheckpointError(f"{predictor.checkpoint} cannot become a model of timm: {obstacle}. {_INSTEAD}")
    model: Any = predictor.model
    weights = {name: value.clone() for name, value in model.mura.backbone.state_dict().items()}
    try:
        network = create_backbone(model.config, num_classes=2, in_chans=3).eval()
        if model.config.num_channels == 1:  # the three planes of a gray image are equal
            first = network.pretrained_cfg["first_conv"]
            for name in [first] if isinstance(first, str) else first:
                weights[f"{name}.weight"] = weights[f"{name}.weight"].repeat(1, 3, 1, 1) / 3
        head = network.get_classifier()
        layer = next((name for name, module in network.named_modules() if module is head), "no single layer")
        for part, value in model.classifier.state_dict().items():
            weights[f"{layer}.{part}"] = value / model.config.temperature
        network.load_state_dict(weights)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{predictor.checkpoint} cannot become a model of timm: its classifier is not one linear layer behind "
            f"{model.config.backbone} ({first_line(error)}). {_INSTEAD}"
        ) from error
    return network


def _save_timm(network: Any, predictor: StudyPredictor, folder: Path, digest: str) -> dict[str, Any]:
    """Saves network and settings in the layout of timm. Returns the settings."""
    from timm.models import save_for_hf

    processor: Any = predictor.processor
    config, (height, width), size = predictor.model.config, processor.output_size, processor.size
    mean, std = (np.broadcast_to(np.float64(values), 3) for values in (processor.image_mean, processor.image_std))
    if not processor.do_normalize:
        mean, std = np.zeros(3), np.ones(3)
    levels = 255 * (processor.rescale_factor if processor.do_rescale else 1)  # timm's are in [0, 1] before this
    share = min(height / size.height, width / size.width)
    data_config = {
        "input_size": (3, height, width),
        "interpolation": Image.Resampling(processor.resample).name.lower(),
        "mean": (mean / levels).tolist(),
        "std": (std / levels).tolist(),
        "crop_pct": np.nextafter(share, 0) if share < 1 else 1.0,  # timm rounds the size divided by it down
        "crop_mode": "border" if processor.resize_mode == "letterbox" else "squash",
    }
    # For readers; neither timm nor transformers use it.
    record = {
        "checkpoint": predictor.checkpoint,
        "temperature": config.temperature,  # part of the weights
        "positive_class_description": config.positive_class_description,
        **{name: getattr(config, name) for name in ("study_pooling", "study_slope", "study_intercept")},
        "operating_points": config.operating_points,
        "default_operating_point": config.find_threshold()[0],
        "trained_on_phantoms": config.trained_on_phantoms,
    }
    labels = [config.id2label[index] for index in (0, 1)]
    save_for_hf(
        network,
        str(folder),
        model_config={"label_names": labels, "weights_sha256": digest, "mura_hf": record},
        safe_serialization=True,
        data_config=data_config,
    )
    settings: dict[str, Any] = json.loads((folder / "config.json").read_text())
    settings["model_args"].pop("num_classes", None)  # transformers would give it to timm twice
    settings["pretrained_cfg"] = {name: settings["pretrained_cfg"].get(name) for name in _SETTINGS}
    put_file(folder, "config.json", (json.dumps(settings, indent=2) + "\n").encode())
    return settings


def _check_timm(predictor: StudyPredictor, exported: Any, prepare: Any) -> float:
    """Compares pixels and logits on a picture that a letterbox fills. Returns the largest difference of a logit."""
    processor: Any = predictor.processor
    levels = np.random.default_rng(0).integers(0, 256, (2 * processor.size.height, 2 * processor.size.width))
    picture = Image.fromarray(levels.astype(np.uint8))
    expected = processor([picture], return_tensors="pt")["pixel_values"]
    found = prepare([picture.convert("RGB")])["pixel_values"]
    if found.shape[-2:] != expected.shape[-2:] or not torch.allclose(found, expected.expand_as(found), atol=1e-4):
        raise CheckpointError(
            f"{predictor.checkpoint} cannot become a model of timm: timm's transforms give other pixels than its "
            f"image processor (size, center crop or resampling). {_INSTEAD}"
        )
    with torch.inference_mode():
        logits = predictor.model.classify_views(expected).logits
        difference = float((exported(found).logits - logits).abs().max())
    if not difference <= _LOGIT_TOLERANCE * max(1.0, float(logits.abs().max())):  # also true for NaN
        raise CheckpointError(
            f"{predictor.checkpoint} cannot become a model of timm: the logits of {predictor.model.config.backbone} "
            f"differ by {difference:.2g} in timm's own forward pass. {_INSTEAD}"
        )
    return difference


def _compare_timm(
    predictor: StudyPredictor, exported: Any, prepare: Any, held_out: Sequence[tuple[Sequence[np.ndarray], int]]
) -> TimmComparison:
    """Predicts studies with the checkpoint and the export, as they are and, for a letterbox, padded with black."""
    processor: Any = predictor.processor
    config, size = predictor.model.config, (processor.size.width, processor.size.height)
    letterbox, resample = processor.resize_mode == "letterbox", Image.Resampling(processor.resample)
    rows = []
    for views, _ in held_out:
        pictures = [Image.fromarray(view) for view in views]
        padded = [ImageOps.pad(picture, size, resample, centering=_CENTER) for picture in pictures]
        row = [predictor(list(views), heatmaps=False).probability]
        for variant in [pictures, padded][: 1 + letterbox]:
            pixel_values = prepare([picture.convert("RGB") for picture in variant])["pixel_values"]
            with torch.inference_mode():
                logits = exported(pixel_values).logits[None]
            pooled, _ = pool_views(logits, torch.ones(logits.shape[:2], dtype=torch.bool), config.study_pooling)
            row.append(float((config.study_slope * pooled + config.study_intercept).sigmoid()))
        rows.append(row)
    table = np.asarray(rows)
    labels = np.asarray([label for _, label in held_out])
    aurocs: list[Any] = [classification_metrics(labels, column)["auroc"] for column in table.T]
    changes = np.abs(table - table[:, :1]).max(0).tolist()
    return TimmComparison(
        studies=len(labels),
        auroc_before=aurocs[0],
        auroc=aurocs[1],
        largest_change=changes[1],
        auroc_padded=aurocs[2] if letterbox else None,
        largest_change_padded=changes[2] if letterbox else None,
    )


def _timm_card(predictor: StudyPredictor, original: Path, comparison: TimmComparison | None) -> str:
    """Renders the card of an export, with licence and first section of the checkpoint's own card."""
    file = original / CARD
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    header, _, body = text.removeprefix("---\n").partition("\n---\n")
    sections = re.split(r"^#+ (.*)\n", body, flags=re.MULTILINE)
    parts = dict(zip(sections[1::2], map(str.strip, sections[2::2]), strict=True))
    processor: Any = predictor.processor
    return load_templates().get_template("timm.md").render(
        name=predictor.checkpoint.rpartition(": ")[2],
        licence=re.findall(r"^license(?:_name|_link)?: .*$", header, re.MULTILINE),
        about=next(iter(parts.values()), None),
        terms=parts.get("Licence"),
        config=predictor.model.config,
        threshold=predictor.model.config.find_threshold(),
        detector=predictor.ood_detector is not None,
        letterbox=processor.resize_mode == "letterbox",
        size=(processor.size.width, processor.size.height),
        resample=Image.Resampling(processor.resample).name,
        center=_CENTER,
        comparison=comparison,
    ) + "\n"  # fmt: skip
