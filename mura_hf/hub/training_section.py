"""What a checkpoint is, in words for its card.

The command that trains a checkpoint again, for its card.
How a checkpoint was trained, in words for its card.
"""

import json
import shlex
from collections.abc import Iterator
from typing import Any

import yaml

from ..models import CLASSIFIERS, MuraConfig, MuraEnsembleConfig, MuraFuseNetConfig, MuraSpecializedConfig
from ..models.members_mura import read_member
from ..training import load_recipe, recipe_names

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
    from ..models.backbone_mura import SMALL_CNNS

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


_OF_THEIR_OWN = ("name", "seed", "fold")  # have options, or are none of a setting's
_OF_THE_BASE = (
    "family", "backbone", "backbone_kwargs", "pretrained", "init_from", "init_heads", "head_dropout",
    "body_part_head", "model",
    "image_size", "resize_size", "resize_mode", "enhance", "crop_border", "image_mean", "image_std", "level",
    "augmentation.random_crop", "metric_loss", "metric_weight", "stages",
)  # fmt: skip
"""What `--init_from` sets by itself."""

_WHOLE = ("model", "backbone_kwargs", "metric_loss")  # whose keys are free
_CHOSEN = ("body_parts", "regions", "abnormal")
_FOLDERS = {"mura": "MURA-v1.1", "phantoms": "data/phantoms", "fracatlas": "FracAtlas", "grazpedwri": "GRAZPEDWRI-DX"}


def data_folder(training: dict[str, Any]) -> str:
    """What `--data_dir` is on a card: the dataset of the Hub, else a folder called like the data.

    Args:
        training: Content of `training.json`.
    """
    data = training["data"]
    key = data.get("key", "phantoms" if data.get("made_with") else "mura")
    return str(data.get("dataset") or _FOLDERS.get(key, "my_films"))


def training_command(training: dict[str, Any]) -> str:
    """`scripts/train.py` with the options that give a run's recipe, `--data_dir` and `--output_dir` included.

    What the run had changed in the package's recipe of that name stands behind `--set`. Of a recipe in a file of one's
    own, named by it, a card can tell no more than that: the whole of it stands in `training.json`.

    Args:
        training: Content of `training.json`.
    """
    recipe, data, base = training["recipe"], training["data"], training.get("base")
    known = recipe["name"] in recipe_names()
    options = ["--recipe", recipe["name"] if known else f"{recipe['name']}.yaml"]
    own = json.loads(json.dumps(load_recipe(recipe["name"]).to_dict())) if known else {}
    aside: tuple[str, ...] = _OF_THEIR_OWN
    if recipe.get("init_heads") and base:
        options += ["--init_from", base["name"] + (f"@{base['revision']}" if base["revision"] else "")]
        aside = (*aside, *_OF_THE_BASE)
    if known and recipe.get("family") == "specialized" != own["family"]:
        options.append("--each_body_part")
        aside = (*aside, "family")
    if known:
        changed = [f"{key}={_as_yaml(value)}" for key, value in _changes(own, recipe) if key not in aside]
        options += ["--set", *changed] if changed else []
    elif not (recipe.get("stages") or training.get("members")):
        options += ["--epochs", str(recipe["epochs"]), "--patch_epochs", str(recipe["patches"]["epochs"])]
    options += ["--seed", str(recipe["seed"])]
    if recipe.get("fold") is not None:
        options += ["--fold", str(recipe["fold"])]
    for name in _CHOSEN:
        if data.get(name, "all") != "all":
            options += [f"--{name}", *data[name]]
    several = training["processes"] > 1
    start = ["torchrun", "--nproc_per_node", str(training["processes"])] if several else ["python"]
    place = ["--data_dir", data_folder(training), "--output_dir", f"runs/{recipe['name']}"]
    cpu = training["device"] == "cpu"
    words = [*start, "scripts/train.py", *options, *place, *["--cpu"] * cpu]
    return "ACCELERATE_USE_CPU=true " * (cpu and several) + shlex.join(words)


def _as_yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1_000_000).removesuffix("...\n").strip()


def _changes(own: Any, now: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Keys in the form of `--set`, with their values now, of what differs; keys that only one knows do not count."""
    if isinstance(own, dict) and isinstance(now, dict) and path not in _WHOLE:
        for key in own:
            if key in now:
                yield from _changes(own[key], now[key], f"{path}.{key}".removeprefix("."))
    elif isinstance(own, list) and isinstance(now, list) and path == "stages" and len(own) == len(now):
        for number, (one, other) in enumerate(zip(own, now, strict=True), 1):
            yield from _changes(one, other, f"{path}.{number}")
    elif own != now:
        yield path, now


def training_story(training: dict[str, Any]) -> list[str]:
    """Sentences, each a line of the card, from what `training.json` holds.

    Args:
        training: That file's content.
    """
    if training.get("members"):
        return [_member_lines(training), *_stories_of_members(training), *base_story(training)]
    return [*_steps(training), *base_story(training)]


def _steps(training: dict[str, Any]) -> list[str]:
    """What was done one after another, and how."""
    recipe, patches = training["recipe"], training["recipe"]["patches"]
    stages = recipe.get("stages") or []
    told, first = [], ""
    if patches["epochs"]:
        first = f"First {patches['epochs']} epochs on patches of {patches['size']} px around the findings, then "
    if stages:
        planned = ", ".join(f"{stage['trains']} ({_how_long(stage, bool(first))})" for stage in stages)
        told.append(f"{first or 'In '}stages: {planned}.")
    elif first:
        told.append(f"{first}{recipe['epochs']} on whole views.")
    averaged = training.get("averaged")
    if averaged:
        epochs = ", ".join(map(str, averaged["epochs"]))
        before, after = averaged["dev_of_best_epoch"]["auroc"], averaged["dev"]["auroc"]
        told.append(
            f"The kept weights are the mean of epochs {epochs}, the best by {training['selected_by']} "
            f"(AUROC there {after:.3f}; of the best epoch alone {before:.3f})."
        )
    else:
        epochs = stages[-1]["epochs"] if stages else recipe["epochs"]
        where = f" of the stage {stages[-1]['trains']}" if stages else " on whole views" if patches["epochs"] else ""
        if epochs > 1:
            told.append(
                f"The kept epoch{where}, {training['epoch']} of {epochs}, is the best by {training['selected_by']}."
            )
    if recipe.get("ema_decay"):
        told.append(f"Weights are a moving average over the steps, of decay {recipe['ema_decay']}.")
    mixed = [f"{name} of Beta({recipe[name]}, {recipe[name]})" for name in ("mixup", "cutmix") if recipe.get(name)]
    if mixed:
        told.append(f"Views were mixed: {', '.join(mixed)}.")
    if recipe.get("layer_decay", 1) < 1:
        told.append(
            f"Rates fell by a factor of {recipe['layer_decay']} from layer to layer, the heads having all of it."
        )
    if recipe.get("region_weight"):
        told.append(
            "A loss on the class activation map, known inside and outside of the boxes, was weighted by "
            f"{recipe['region_weight']} beside that on the labels."
        )
    return told


def bases_of(training: dict[str, Any]) -> list[dict[str, Any]]:
    """What the weights, or those of members, started from, each once; empty where everything was new.

    Args:
        training: Content of `training.json`.
    """
    of_members = [member.get("base") for member in (training.get("members") or {}).values()]
    found = [base for base in [training.get("base"), *of_members] if base]
    return [base for number, base in enumerate(found) if base not in found[:number]]


def base_story(training: dict[str, Any]) -> list[str]:
    """What the weights started from, as lines of the card; none where everything was new.

    Args:
        training: Content of `training.json`.
    """
    return [line for base in bases_of(training) for line in _base(base, training)]


def _base(base: dict[str, Any], training: dict[str, Any]) -> list[str]:
    if base["sha256"] is None:
        return [f"The backbone started from timm's weights `{base['name']}`."]
    known = base["trained_on"]
    data = ", before that on ".join(one["name"] for one in known) if known else "data that its records do not name"
    which = f"commit {base['revision'][:12]} on the Hub" if base["revision"] else f"SHA-256 {base['sha256'][:12]}..."
    what = "backbone, and heads where they fit," if base["heads"] else "backbone"
    told = [f"Started from the checkpoint `{base['name']}` ({which}), trained on {data}: its {what} went on here."]
    counts = training.get("data", {}).get("known_to_base") or {}
    named = ", ".join(f"{count} of {split}" for split, count in counts.items() if count)
    if named:
        told.append(f"It had been trained on patients of these data, {named} among them: figures there flatter.")
    return told


def _how_long(stage: dict[str, Any], after_patches: bool) -> str:
    """Epochs of a stage, and what it meets."""
    size = stage.get("patch_size")  # not in records of before
    met = f" on patches of {size} px around the findings" if size else " on whole views" if after_patches else ""
    return f"{stage['epochs']} epoch{'s' * (stage['epochs'] > 1)}{met}"


def _member_lines(training: dict[str, Any]) -> str:
    members = ", ".join(
        f"{name} (recipe `{member['recipe']}`{_seed(member)}, epoch {member['epoch']}, "
        f"AUROC on dev {member['dev']['auroc']:.3f})"
        for name, member in training["members"].items()
    )
    return f"Made of members, each trained as a model of its own and kept by {training['selected_by']}: {members}."


def _seed(member: dict[str, Any]) -> str:
    return f", seed {member['seed']}" if "seed" in member else ""  # not in records of before


def _stories_of_members(training: dict[str, Any]) -> list[str]:
    """How members were trained, once for each recipe."""
    told: dict[str, list[str]] = {}
    for member in training["members"].values():
        if "settings" in member and member["recipe"] not in told:
            told[member["recipe"]] = _steps({**training, **member, "recipe": member["settings"], "averaged": None})
    return [f"Recipe `{name}`: {' '.join(steps)}" for name, steps in told.items() if steps]
