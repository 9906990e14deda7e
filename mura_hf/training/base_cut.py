"""How data were cut that a checkpoint was trained on before."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import DatasetDict

from ..data import load_data, split_digest
from ..errors import MuraError
from .recipe import Recipe
from .starting import find_base

_CHOICES = ("body_parts", "regions", "abnormal")


def keep_cut_of_base(
    recipe: Recipe, datasets: DatasetDict, data_dir: str | Path, chosen: Mapping[str, Any], *, source: str
) -> tuple[Recipe, dict[str, int], str | None]:
    """Sees to it that dev and calib hold nobody whom the checkpoint that a run starts from was trained on.

    Where the data are those of that checkpoint, which shows by the digest of its split, the recipe takes over its cut.
    Where only some of its body parts, or the like, are trained on, the cut cannot be the same; then it is counted how
    many patients are known.

    Args:
        recipe: Of the run.
        datasets: As the recipe cuts them.
        data_dir: Where they lie.
        chosen: Options of `load_data` besides the cut.
        source: Key of the data, as `load_data` tells it.

    Returns:
        The recipe, with another cut where there is need: load the data again then. By split, how many patients of
        `dev`, `calib` and `valid` the checkpoint was trained on, where it was on any. And a sentence about either.
    """
    if recipe.init_checkpoint is None:
        return recipe, {}, None
    base = find_base(recipe.init_checkpoint)
    record = base.read_training()
    if record.get("data", {}).get("key", source) != source:
        return recipe, {}, None
    cut = record.get("data", {}).get("cut") or record.get("recipe", {})
    known = {name: value for name, value in cut.items() if name in recipe.cut()}
    before = {name: record.get("data", {}).get(name) for name in _CHOICES}
    before = {name: value for name, value in before.items() if value not in (None, "all")}
    try:
        theirs, _ = load_data(data_dir, **before, **known)
    except (MuraError, ValueError):
        return recipe, {}, None  # data of another kind
    members = ((split, study) for split, rows in theirs.items() for study in rows["study_id"])
    if split_digest(members) != record.get("data", {}).get("split_digest"):
        return recipe, {}, None
    if before == {name: value for name, value in chosen.items() if value}:
        same = all(getattr(recipe, name) == value for name, value in known.items())
        told = f"{base.name} was trained on these data; their cut stays, so that dev and calib are new to it."
        return replace(recipe, **known), {}, None if same else told
    trained = set(theirs["train"]["patient_id"])
    counts = {
        split: len(trained & set(datasets[split]["patient_id"]))
        for split in ("dev", "calib", "valid")
        if split in datasets
    }
    if not any(counts.values()):
        return recipe, {}, None
    named = ", ".join(f"{count} of {split}" for split, count in counts.items() if count)
    return recipe, counts, f"{base.name} was trained on patients of these data, {named} among them: figures flatter."
