"""What a checkpoint is, in words for its card."""

from typing import Any

from ..models import CLASSIFIERS, MuraConfig, MuraEnsembleConfig, MuraFuseNetConfig, MuraSpecializedConfig
from ..models.configuration_mura_members import read_member

_POOLED = {
    "mean": "mean of its views' probabilities",
    "max": "the highest of its views' probabilities",
    "noisy_or": "noisy-or of its views' probabilities",
    "gated_attention": "of the mean of its views' codes, weighted by learned (gated) attention",
}
_FLIPPED = ("a view's logits", "mean of those of the view and of its mirror image")
_FAMILIES = {
    "mura_metric_learning": "Siamese: an embedding of {embedding_size} numbers, a classifier on it",
    "mura_fusenet": "FuseNet: two branches",
}


def model_rows(records: dict[str, Any]) -> list[tuple[str, str]]:
    """Rows for the card's table about the model, as pairs of what and value.

    Args:
        records: `config`, `preprocessor_config` and `training` of a checkpoint, as they stand in its files.
    """
    config = CLASSIFIERS[records["config"]["model_type"]].config_class.from_dict(records["config"])
    size = records["preprocessor_config"].get("crop_size") or records["preprocessor_config"]["size"]
    given = f"{size['width']} x {size['height']} px, {records['preprocessor_config']['resize_mode']}"
    if isinstance(config, MuraEnsembleConfig):
        rows = [
            ("members", _members(config.members, {name: f", weight {w:.3f}" for name, w in config.weights.items()}))
        ]
        rows += [("input", given), *_flips(config.members), ("a study's probability", "weighted mean of the members'")]
    elif isinstance(config, MuraSpecializedConfig):
        found = "is found by a router where it is not given" if config.router else "must be given"
        rows = [("one model for each body part, which " + found, _members(config.members, {}))]
        rows += [("input", given), *_flips(config.members), ("a study's probability", "that of its body part's model")]
    else:
        assert isinstance(config, MuraConfig)
        start = _start(records["training"])
        rows = [("backbone", f"`{config.backbone}` {_origin(config.backbone)}, {start}")]
        if config.model_type in _FAMILIES:
            rows.append(("kind", _FAMILIES[config.model_type].format(**vars(config))))
        rows += [("input", given), *_crop_row(config), ("heads", _heads(config))]
        if config.test_time_flip:
            rows.append(_FLIPPED)
        rows.append(("a study's probability", _POOLED[config.study_pooling]))
    points = ", ".join(f"{point}: {value}" for point, value in (config.operating_points or {}).items())
    numbers = f"{config.temperature}, {config.study_slope}, {config.study_intercept}"
    return [
        *rows,
        ("thresholds (abnormal strictly above)", points),
        ("temperature, study slope, study intercept", numbers),
    ]


def _origin(backbone: str) -> str:
    from ..models.small_cnns_mura import SMALL_CNNS

    return "of mura_hf" if backbone in SMALL_CNNS else "of timm"


def _start(training: dict[str, Any]) -> str:
    base = training.get("base")
    if base and base["sha256"] is not None:
        return f"starting from `{base['name']}`"
    return "starting from timm's weights" if base or training["recipe"]["pretrained"] else "from scratch"


def _members(members: dict[str, Any] | None, remarks: dict[str, str]) -> str:
    told = {name: read_member(values, name).backbone for name, values in (members or {}).items()}
    return ", ".join(f"{name} (`{backbone}`{remarks.get(name, '')})" for name, backbone in told.items())


def _flips(members: dict[str, Any] | None) -> list[tuple[str, str]]:
    """A row where all members average over mirror images."""
    return [_FLIPPED] * all(read_member(values, name).test_time_flip for name, values in (members or {}).items())


def _crop_row(config: MuraConfig) -> list[tuple[str, str]]:
    if not isinstance(config, MuraFuseNetConfig):
        return []
    source = "the picture as given" if config.full_resolution else "what the global branch sees"
    seen = f"the global branch sees {config.image_size} px; its {config.crop_map} map, cut at {config.crop_threshold}"
    return [
        (
            "crop",
            f"{seen}, frames what the local branch sees at {config.local_size or config.image_size} px of {source}",
        )
    ]


def _heads(config: MuraConfig) -> str:
    layers = f" (hidden layers of {', '.join(map(str, config.head_layers))})" if config.head_layers else ""
    told = f"normal or abnormal{layers}" + "; body part" * config.body_part_head
    return told + (f"; type of finding ({', '.join(config.finding_types)})" if config.finding_types else "")
