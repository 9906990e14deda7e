"""Fine-tuning: what a checkpoint changes in a config, and how its patients stay out of dev and calib."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from datasets import DatasetDict
from PIL.Image import Resampling

from ..common import did_you_mean
from ..data import SELECTION_OPTIONS, load_data, split_digest
from ..errors import CheckpointError, ConfigError, MuraError
from ..models import MuraImageProcessor
from ..models.backbone_mura import imagenet_file
from .arguments import TrainingConfig
from .initialization import Base, find_base
from .records import recorded_split
from .validation import COMPOSED, FAMILIES, IMAGENET, TIMM, free_config_fields


def changes_for(config: TrainingConfig, name: str) -> tuple[dict[str, Any], list[str]]:
    """What changes in a config so that a run starts from a checkpoint, or from a backbone of timm.

    A checkpoint brings its family, backbone, heads, image size and preprocessing, but not its calibration, which is
    kept after training if there are too few data for a new one (see `calibrate_checkpoint`). timm's weights bring the
    backbone and their normalization.

    Args:
        config: Config of the run.
        name: See `ModelArguments.init_from`.

    Returns:
        Changes for `TrainingConfig.replace`, and sentences about those that may surprise.

    Raises:
        ConfigError: If the config, or the kind of checkpoint, does not allow it.
        CheckpointError: If there is no such checkpoint.
    """
    if config.model.family == "ensemble":
        raise ConfigError(
            f"{config.name} is an ensemble; its members' configs set where they start: set init_from in "
            f"{', '.join(config.model.members)}"
        )
    if name.startswith((TIMM, IMAGENET)):
        return _timm_changes(config, name), []
    base = find_base(name)
    found: Any = base.read_config()
    family = next((key for key, kind in FAMILIES.items() if kind.config_class.model_type == found.model_type), None)
    if family is None:
        raise ConfigError(
            f"{base.name} consists of several models, which cannot be fine-tuned together; fine-tune each from its "
            "own folder, and combine them again"
        )
    if config.model.family in COMPOSED and family != "classifier":
        raise ConfigError(
            f"a model for each body part consists of classifiers, but {base.name} is a {family}; "
            "start from a classifier"
        )
    if found.num_channels != 3:
        raise ConfigError(f"{base.name} takes {found.num_channels} channels; a config has always three")
    messages: list[str] = []
    changes: dict[str, Any] = {
        "family": config.model.family if config.model.family in COMPOSED else family,
        "backbone": found.backbone,
        "backbone_kwargs": found.backbone_kwargs,
        "pretrained": False,
        "init_from": name,
        "init_heads": True,
        "head_dropout": found.head_dropout,
        "body_part_head": found.body_part_head,
        "model_kwargs": _model_kwargs(config, found, family, messages),
        **_preprocessing(base, full_resolution=getattr(found, "full_resolution", False), side=found.image_size),
    }
    if found.study_pooling == "gated_attention" and config.data.level != "study":
        changes["level"] = "study"
        messages.append(f"{base.name} attends to the views of a study, so whole studies are trained on: level study.")
    if config.augmentation.random_crop and changes["resize_size"] is None:
        changes["random_crop"] = False
        messages.append(f"{base.name} sees whole images, so there is no random_crop.")
    if family == "metric_learning" and config.training.metric_loss is None:
        changes |= _metric_loss(base)
    if family == "fusenet" and not any(stage.trains for stage in config.training.stages):
        stages = config.to_dict()["stages"]
        epochs = stages[-1]["epochs"] if stages else config.training.epochs
        patches = [stage for stage in stages if "patch_size" in stage]
        changes["stages"] = [*patches, *({"trains": one, "epochs": epochs} for one in FAMILIES[family].STAGES)]
        messages.append(f"{base.name} is a FuseNet: each of its stages takes {epochs} epochs.")
    return changes, messages


def _timm_changes(config: TrainingConfig, name: str) -> dict[str, Any]:
    _, _, weights = name.partition(":")
    if name.startswith(IMAGENET):
        imagenet_file(weights)  # must be there
    elif not timm.is_model(weights):
        hint = did_you_mean(weights, timm.list_models()) or "; check the name"
        raise ConfigError(f"timm has no backbone {weights!r}{hint}")
    same = weights.partition(".")[0] == config.model.backbone.partition(".")[0]
    kwargs = config.model.backbone_kwargs if same else None
    start = {"pretrained": False, "init_from": name, "init_heads": False, "image_mean": None, "image_std": None}
    return {"backbone": weights, "backbone_kwargs": kwargs, **start}


def _model_kwargs(config: TrainingConfig, found: Any, family: str, messages: list[str]) -> dict[str, Any]:
    """Fields of the checkpoint's config that differ from their defaults."""
    default = FAMILIES[family].config_class()
    known = {name: getattr(found, name) for name in sorted(free_config_fields(type(found)))}
    fields = {name: value for name, value in known.items() if value != getattr(default, name)}
    if not config.training.finding_weight and fields.pop("finding_types", None):
        messages.append("The head for finding types is left out, because finding_weight is 0.")
    if getattr(found, "regions", None):
        messages.append("The head for regions is left out; after training, it is fitted again if the data know them.")
    if config.training.finding_weight and config.model.model_kwargs.get("finding_types"):
        fields["finding_types"] = config.model.model_kwargs["finding_types"]
    return fields


def _preprocessing(base: Base, *, full_resolution: bool, side: int) -> dict[str, Any]:
    """Fields of a config that give the checkpoint's image processor."""
    try:
        processor: Any = MuraImageProcessor.from_pretrained(base.folder)
    except Exception as error:  # a foreign checkpoint may be wrong in any way
        raise CheckpointError(f"init_from: the image processor of {base.name} cannot be read: {error}") from error
    size, crop = processor.size, processor.crop_size if processor.do_center_crop else processor.size
    default = MuraImageProcessor()
    names = ("do_normalize", "do_rescale", "rescale_factor")
    unusual = [name for name in names if getattr(processor, name) != getattr(default, name)]
    if Resampling(processor.resample) != Resampling(default.resample):
        unusual.append("resample")
    if size.height != size.width or crop.height != crop.width:
        unusual.append("size")
    if unusual:
        raise ConfigError(
            f"{base.name} has preprocessing that a config cannot express ({', '.join(unusual)}), so it cannot be "
            "fine-tuned here"
        )
    image_size = side if full_resolution else crop.height
    return {
        "image_size": image_size,
        "resize_size": None if size.height == image_size else size.height,
        "resize_mode": processor.resize_mode,
        "enhance": processor.enhance or None,
        "image_mean": [float(value) for value in processor.image_mean],
        "image_std": [float(value) for value in processor.image_std],
    }


def _metric_loss(base: Base) -> dict[str, Any]:
    """The loss on embeddings that a checkpoint was trained with, if its record says so."""
    record = base.read_training()
    recorded = record.get("arguments") or record.get("recipe") or {}
    names = ("metric_loss", "metric_loss_options", "metric_weight", "classes_over")
    found = {name: recorded[name] for name in names if name in recorded}
    if isinstance(found.get("metric_loss"), dict):  # in the first edition
        former = found["metric_loss"]
        found |= {"metric_loss": former["name"], "metric_loss_options": former.get("options", {})}
    return found


def keep_split_of_base(
    config: TrainingConfig, datasets: DatasetDict, data_dir: str | Path, chosen: Mapping[str, Any], *, source: str
) -> tuple[TrainingConfig, dict[str, int], str | None]:
    """Makes sure that dev and calib hold no patient whom the initial checkpoint was trained on.

    If the data are those of the checkpoint, which the digest of its split shows, the config gets its split. If only
    some of its body parts (or the like) are trained on, the split cannot be the same; then known patients are counted.

    Args:
        config: Config of the run.
        datasets: The data as the config splits them.
        data_dir: Folder of the data.
        chosen: Options of `load_data` besides the split.
        source: Key of the data, see `load_data`.

    Returns:
        The config, with another split if needed: load the data again then. Number of patients of `dev`, `calib` and
        `valid` that the checkpoint was trained on, if any. A sentence about either, or None.
    """
    if config.model.init_checkpoint is None:
        return config, {}, None
    base = find_base(config.model.init_checkpoint)
    record = base.read_training()
    data = record.get("data", {})
    if data.get("key", source) != source:
        return config, {}, None
    known = recorded_split(record)
    before = {name: data.get(name) for name in SELECTION_OPTIONS}
    before = {name: value for name, value in before.items() if value not in (None, "all")}
    try:
        theirs, _ = load_data(data_dir, **before, **known)
    except (MuraError, ValueError):
        return config, {}, None  # data of another kind
    studies = ((split, study) for split, rows in theirs.items() for study in rows["study_id"])
    if split_digest(studies) != data.get("split_digest"):
        return config, {}, None
    if before == {name: value for name, value in chosen.items() if value}:
        same = all(config.split_options()[name] == value for name, value in known.items())
        message = f"{base.name} was trained on these data; its split is kept, so that dev and calib are new to it."
        return config.replace(**known), {}, None if same else message
    trained = set(theirs["train"]["patient_id"])
    splits = [split for split in ("dev", "calib", "valid") if split in datasets]
    counts = {split: len(trained & set(datasets[split]["patient_id"])) for split in splits}
    if not any(counts.values()):
        return config, {}, None
    named = ", ".join(f"{count} of {split}" for split, count in counts.items() if count)
    message = f"{base.name} was trained on patients of these data, among them {named}: figures are too optimistic."
    return config, counts, message
