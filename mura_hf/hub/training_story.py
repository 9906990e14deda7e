"""How a checkpoint was trained, in words for its card."""

from typing import Any


def training_story(training: dict[str, Any]) -> list[str]:
    """Sentences, each a line of the card, from what `training.json` holds.

    Args:
        training: That file's content.
    """
    recipe, patches = training["recipe"], training["recipe"]["patches"]
    if training.get("members"):
        return [_members(training)]
    stages = recipe.get("stages") or []
    told, first = [], ""
    if patches["epochs"]:
        first = f"First {patches['epochs']} epochs on patches of {patches['size']} px around the findings, then "
    if stages:
        planned = ", ".join(f"{stage['trains']} ({stage['epochs']} epochs)" for stage in stages)
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
    if recipe.get("start_from"):
        told.append(f"The backbone started from the checkpoint `{recipe['start_from']}`.")
    return told


def _members(training: dict[str, Any]) -> str:
    members = ", ".join(
        f"{name} (recipe `{member['recipe']}`, epoch {member['epoch']}, AUROC on dev {member['dev']['auroc']:.3f})"
        for name, member in training["members"].items()
    )
    return f"Made of members, each trained as a model of its own and kept by {training['selected_by']}: {members}."
