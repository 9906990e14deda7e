"""How a checkpoint was trained, in words for its card."""

from typing import Any


def training_story(training: dict[str, Any]) -> list[str]:
    """Sentences, each a line of the card, from what `training.json` holds.

    Args:
        training: That file's content.
    """
    if training.get("members"):
        return [_members(training), *_stories_of_members(training), *base_story(training)]
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


def _members(training: dict[str, Any]) -> str:
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
