"""The training section of a model card: the model's table, how it was trained, and the command to do it again."""

import shlex
from typing import Any

from ..data import SOURCES
from ..models import CLASSIFIERS, MuraConfig, MuraEnsembleConfig, MuraFuseNetConfig, MuraSpecializedConfig
from ..models.backbone_mura import SMALL_CNNS
from ..models.members_mura import read_member

_POOLING = {
    "mean": "mean of its views' probabilities",
    "max": "maximum of its views' probabilities",
    "noisy_or": "noisy-or of its views' probabilities",
    "gated_attention": "from the mean of its views' codes, weighted by learned (gated) attention",
}
_FLIP_ROW = ("a view's logits", "mean over the view and its mirror image")
_FAMILIES = {
    "mura_metric_learning": "Siamese network: an embedding of {embedding_size} values with a classifier on it",
    "mura_fusenet": "FuseNet: a global and a local branch",
}


def model_rows(records: dict[str, Any]) -> list[tuple[str, str]]:
    """Rows of the card's table about the model, as (name, value), from the records of a checkpoint."""
    config = CLASSIFIERS[records["config"]["model_type"]].config_class.from_dict(records["config"])
    processor = records["preprocessor_config"]
    size = processor.get("crop_size") or processor["size"]
    input_row = ("input", f"{size['width']} x {size['height']} px, {processor['resize_mode']}")
    if isinstance(config, MuraEnsembleConfig):
        weights = {name: f", weight {weight:.3f}" for name, weight in config.weights.items()}
        rows = [("members", _list_members(config.members, weights)), input_row, *_flip_rows(config.members)]
        rows.append(("a study's probability", "weighted mean over the members"))
    elif isinstance(config, MuraSpecializedConfig):
        routing = "a router finds the part if it is not given" if config.router else "the part must be given"
        rows = [(f"one model for each body part; {routing}", _list_members(config.members, {}))]
        rows += [input_row, *_flip_rows(config.members), ("a study's probability", "that of its body part's model")]
    else:
        assert isinstance(config, MuraConfig)
        library = "mura_hf" if config.backbone in SMALL_CNNS else "timm"
        rows = [("backbone", f"`{config.backbone}` of {library}, {_describe_start(records['training'])}")]
        if config.model_type in _FAMILIES:
            rows.append(("kind", _FAMILIES[config.model_type].format(**vars(config))))
        rows.append(input_row)
        if isinstance(config, MuraFuseNetConfig):
            rows.append(("crop", _describe_crop(config)))
        rows.append(("heads", _describe_heads(config)))
        rows += [_FLIP_ROW] if config.test_time_flip else []
        rows.append(("a study's probability", _POOLING[config.study_pooling]))
    points = ", ".join(
        f"{point}: {value}{' (default)' * (point == config.default_operating_point)}"
        for point, value in (config.operating_points or {}).items()
    )
    calibration = f"{config.temperature}, {config.study_slope}, {config.study_intercept}"
    return [
        *rows,
        ("thresholds (abnormal is strictly above)", points),
        ("temperature, study slope, study intercept", calibration),
    ]


def _describe_start(training: dict[str, Any]) -> str:
    base = training.get("base")
    if base and "package" in base:
        return f"initialized from ImageNet weights (`{base['package']}`)"
    if base and base["sha256"] is not None:
        return f"initialized from `{base['name']}`"
    return (
        "initialized from timm's weights"
        if base or (training.get("arguments") or training["recipe"])["pretrained"]
        else "trained from scratch"
    )


def _list_members(members: dict[str, Any] | None, remarks: dict[str, str]) -> str:
    backbones = {name: read_member(values, name).backbone for name, values in (members or {}).items()}
    return ", ".join(f"{name} (`{backbone}`{remarks.get(name, '')})" for name, backbone in backbones.items())


def _flip_rows(members: dict[str, Any] | None) -> list[tuple[str, str]]:
    """One row if all members average over mirror images, else none."""
    flipped = all(read_member(values, name).test_time_flip for name, values in (members or {}).items())
    return [_FLIP_ROW] if flipped else []


def _describe_crop(config: MuraFuseNetConfig) -> str:
    source = "the original image" if config.full_resolution else "the input of the global branch"
    return (
        f"the global branch sees {config.image_size} px; its {config.crop_map} map, cut at {config.crop_threshold}, "
        f"frames the crop of {source} that the local branch sees at {config.local_size or config.image_size} px"
    )


def _describe_heads(config: MuraConfig) -> str:
    layers = f" (hidden layers of {', '.join(map(str, config.head_layers))})" if config.head_layers else ""
    findings = f"; type of finding ({', '.join(config.finding_types)})" if config.finding_types else ""
    regions = f"; region of the body ({', '.join(config.regions)})" if config.regions else ""
    return f"normal or abnormal{layers}" + "; body part" * config.body_part_head + findings + regions


def training_command(training: dict[str, Any]) -> str | None:
    """The training command, with usual folders for data and output; None if the record has no options."""
    if "options" not in training:
        return None
    data = training["data"]
    folder = data.get("dataset") or SOURCES[data["key"]].folder
    options = [*training["options"], "--data_dir", folder, "--output_dir", f"runs/{training['recipe']['name']}"]
    cpu, several = training["device"] == "cpu", training["processes"] > 1
    launcher = ["torchrun", "--nproc_per_node", str(training["processes"])] if several else ["python"]
    command = shlex.join([*launcher, "scripts/train.py", *options, *["--cpu"] * cpu])
    return "ACCELERATE_USE_CPU=true " * (cpu and several) + command


def training_section(training: dict[str, Any]) -> list[str]:
    """Sentences about the training in `training.json`, one per line of the card."""
    bases = [line for base in bases_of(training) for line in _describe_base(base, training)]
    if not training.get("members"):
        return [*_describe_steps(training), *bases]
    members, configs = [], dict[str, str]()
    for name, member in training["members"].items():
        seed = f", seed {member['seed']}" if "seed" in member else ""  # missing in old records
        auroc = member["dev"]["auroc"]
        members.append(
            f"{name} (config `{member['recipe']}`{seed}, epoch {member['epoch']}, AUROC on dev {auroc:.3f})"
        )
        if "settings" in member and member["recipe"] not in configs:
            own = {"recipe": member["settings"], "arguments": member.get("arguments"), "averaged": None}
            one = {**training, **member, **own}
            configs[member["recipe"]] = " ".join(_describe_steps(one))
    return [
        f"The members were trained independently, and the best epoch of each by {training['selected_by']} was kept: "
        f"{', '.join(members)}.",
        *(f"Config `{name}`: {steps}" for name, steps in configs.items() if steps),
        *bases,
    ]


def _describe_steps(training: dict[str, Any]) -> list[str]:
    """Stages, selection of the weights, and methods of one training."""
    arguments = training.get("arguments") or training["recipe"]
    patches = arguments.get("patches") or {"epochs": 0}  # a section of its own in records of the first edition
    stages, first, sentences = arguments.get("stages") or [], "", []
    if patches["epochs"]:
        first = f"{patches['epochs']} epochs on patches of {patches['size']} px around the findings, then "
    if stages:
        on_patches = bool(first) or any(stage.get("patch_size") for stage in stages)  # missing in old records
        planned = ", then ".join(_describe_stage(stage, on_patches) for stage in stages)
        sentences.append(f"Trained for {first}{planned}.")
    elif first:
        sentences.append(f"Trained for {first}{arguments['epochs']} on whole views.")
    averaged = training.get("averaged")
    if averaged:
        epochs = ", ".join(map(str, averaged["epochs"]))
        before, after = averaged["dev_of_best_epoch"]["auroc"], averaged["dev"]["auroc"]
        share = averaged.get("start_share", 0)  # missing in old records
        which = "the mean of the best epochs" if len(averaged["epochs"]) > 1 else "the best epoch"
        if share:
            rest = f"{100 * (1 - share):.0f} % from {which}"
            which = f"a weighted mean: {100 * share:.0f} % from before the last stage, {rest}"
        sentences.append(
            f"The weights are {which} ({epochs}) by {training['selected_by']}. Their AUROC on dev is "
            f"{after:.3f}, that of the best epoch alone {before:.3f}."
        )
    else:
        epochs = stages[-1]["epochs"] if stages else arguments["epochs"]
        where = ""
        if stages:
            where = " of the last stage"
        elif patches["epochs"]:
            where = " on whole views"
        if epochs > 1:
            sentences.append(
                f"The weights are those of epoch {training['epoch']} of {epochs}{where}, the best by "
                f"{training['selected_by']}."
            )
    if arguments.get("ema_decay"):
        sentences.append(f"They are an exponential moving average with decay {arguments['ema_decay']}.")
    if mixed := {name: arguments[name] for name in ("mixup", "cutmix") if arguments.get(name)}:
        methods = ", ".join(f"{name} with Beta({value}, {value})" for name, value in mixed.items())
        sentences.append(f"Training images were mixed: {methods}.")
    if arguments.get("layer_decay", 1) < 1:
        sentences.append(
            f"The learning rate decreases by a factor of {arguments['layer_decay']} per layer, from the heads down."
        )
    if arguments.get("region_weight"):
        sentences.append(
            "The loss includes a term on the class activation map inside and outside of the boxes, with weight "
            f"{arguments['region_weight']}."
        )
    if loss := arguments.get("metric_loss"):
        name = loss["name"] if isinstance(loss, dict) else loss  # a section of its own in records of the first edition
        sentences.append(f"The loss includes `{name}` on the embeddings, with weight {arguments['metric_weight']}.")
    return sentences


def _describe_stage(stage: dict[str, Any], on_patches: bool) -> str:
    size, part = stage.get("patch_size"), stage.get("trains") or "all"
    images = ""
    if size:
        images = f" on patches of {size} px around the findings"
    elif on_patches:
        images = " on whole views"
    return f"{stage['epochs']} epoch{'s' * (stage['epochs'] > 1)}{images}" + f" ({part} part)" * (part != "all")


def bases_of(training: dict[str, Any]) -> list[dict[str, Any]]:
    """Checkpoints that the weights, or those of members, started from, without repetition."""
    of_members = [member.get("base") for member in (training.get("members") or {}).values()]
    found = [base for base in [training.get("base"), *of_members] if base]
    return [base for number, base in enumerate(found) if base not in found[:number]]


def _describe_base(base: dict[str, Any], training: dict[str, Any]) -> list[str]:
    if base["sha256"] is None:
        return [f"The backbone was initialized from timm's weights `{base['name']}`."]
    if "package" in base:
        name, which = base["name"].partition(":")[2], f"package `{base['package']}`, SHA-256 {base['sha256'][:12]}..."
        return [f"The backbone was initialized from ImageNet weights of `{name}` ({which})."]
    known = base["trained_on"]
    data = ", before that on ".join(one["name"] for one in known) if known else "data that its records do not name"
    which = f"commit {base['revision'][:12]} on the Hub" if base["revision"] else f"SHA-256 {base['sha256'][:12]}..."
    loaded = "Its backbone, and its heads where they fit, were" if base["heads"] else "Its backbone was"
    sentences = [
        f"Initialized from the checkpoint `{base['name']}` ({which}), which was trained on {data}. {loaded} loaded."
    ]
    counts = training.get("data", {}).get("known_to_base") or {}
    named = ", ".join(f"{count} of {split}" for split, count in counts.items() if count)
    if named:
        sentences.append(
            f"That checkpoint was trained on patients of these data ({named}), so figures on them are too high."
        )
    return sentences
