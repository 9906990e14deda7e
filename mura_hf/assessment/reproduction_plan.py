"""Which recipes are run to stand beside studies, and at what cost."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml
from datasets import Dataset

from ..data import split_patients_evenly
from ..errors import RecipeError
from ..models import BODY_PARTS
from ..training import Recipe, load_recipe, with_epochs
from .published import PublishedStudy, PublishedSystem


@dataclass(frozen=True)
class Budget:
    """How far the recipes are cut short.

    Attributes:
        epochs: Passes over train in each stage, those on patches at most; the recipe's own where None.
        fraction: Share of train's patients that is trained on; `dev`, `calib` and `valid` stay whole.
        image_size: Side in pixels of what the models see; the recipe's own where None.
        from_scratch: Whether weights start at random where a study started from ImageNet's.
    """

    epochs: int | None = None
    fraction: float = 1.0
    image_size: int | None = None
    from_scratch: bool = False

    def __post_init__(self) -> None:
        sizes = [one for one in (self.epochs, self.image_size) if one is not None]
        if min(sizes, default=1) < 1 or not 0 < self.fraction <= 1:
            raise RecipeError("epochs and image_size must be above 0, and fraction above 0 and at most 1")

    def told(self) -> str:
        """In words; empty where nothing is cut short."""
        parts = [
            self.epochs and f"{self.epochs} epoch{'s' * (self.epochs > 1)} in each stage",
            self.fraction < 1 and f"a share of {self.fraction:g} of train's patients",
            self.image_size and f"pictures of {self.image_size} px",
        ]
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class PlannedRun:
    """One training, or a baseline.

    Attributes:
        recipe: Its name; None for a baseline.
        baseline: "random"; None for a training.
        body_parts: What it is trained and measured on.
    """

    recipe: str | None
    baseline: str | None
    body_parts: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of its folder."""
        parts = [] if self.body_parts == tuple(BODY_PARTS) else list(self.body_parts)
        return "-".join([Path(self.recipe or self.baseline or "").stem, *parts])


def run_of(system: PublishedSystem) -> PlannedRun | None:
    """The run that stands beside a system; None where we have none."""
    if system.recipe is None and system.baseline is None:
        return None
    return PlannedRun(system.recipe, system.baseline, system.body_parts)


def plan_runs(studies: Sequence[PublishedStudy], recipes: Sequence[str] | None = None) -> list[PlannedRun]:
    """The runs of studies, each once, in their order.

    Args:
        studies: Whose systems.
        recipes: Names of some; all where None.

    Raises:
        RecipeError: If one of them is none of the studies'.
    """
    runs = [run_of(system) for study in studies for system in study.systems]
    known = dict.fromkeys(run for run in runs if run is not None)
    if recipes is None:
        return list(known)
    names = {run.recipe or run.baseline for run in known}
    if unknown := [name for name in recipes if name not in names]:
        raise RecipeError(
            f"{', '.join(unknown)}: no such recipe in what was asked for; there are "
            f"{', '.join(sorted(name for name in names if name))}"
        )
    return [run for run in known if (run.recipe or run.baseline) in recipes]


def cut_short(name: str, budget: Budget, folder: Path) -> Recipe:
    """A recipe at a budget. Recipes of its members are cut likewise, and written to a folder to be read from there."""
    recipe = load_recipe(name)
    if recipe.members:
        return dataclasses.replace(recipe, members=[_write(member, budget, folder) for member in recipe.members])
    if recipe.router is not None:
        recipe = dataclasses.replace(recipe, router=_write(recipe.router, budget, folder))
    if budget.from_scratch:
        recipe = dataclasses.replace(recipe, pretrained=False)
    if budget.epochs is not None:
        patches = dataclasses.replace(recipe.patches, epochs=min(recipe.patches.epochs, budget.epochs))
        recipe = dataclasses.replace(with_epochs(recipe, budget.epochs), patches=patches)
    if budget.image_size is not None:
        scale = budget.image_size / recipe.image_size
        larger = recipe.resize_size and math.ceil(recipe.resize_size * scale)
        patches = dataclasses.replace(recipe.patches, size=max(32, round(recipe.patches.size * scale)))
        recipe = dataclasses.replace(recipe, image_size=budget.image_size, resize_size=larger, patches=patches)
    return recipe


@cache
def starts_pretrained(name: str) -> bool:
    """Whether a recipe, or a member of it, starts from timm's weights."""
    recipe = load_recipe(name)
    return any(map(starts_pretrained, recipe.members)) if recipe.members else recipe.pretrained


def take_patients(rows: Dataset, fraction: float, seed: int) -> Dataset:
    """The rows of a share of the patients, whole, with shares of body parts and labels kept alike."""
    if fraction == 1:
        return rows
    sizes: dict[str, int] = {}
    first: dict[str, tuple[str, str]] = {}
    columns = (rows[name] for name in ("study_id", "patient_id", "body_part", "label"))
    for study, patient, part, label in zip(*columns, strict=True):
        first.setdefault(study, (patient, f"{part} {label}"))
        sizes[study] = sizes.get(study, 0) + 1
    patients, strata = zip(*first.values(), strict=True)
    places = split_patients_evenly(
        patients, strata, list(sizes.values()), {"left": 1 - fraction}, rest="taken", seed=seed
    )
    return rows.select([row for row, patient in enumerate(rows["patient_id"]) if places[patient] == "taken"])


def _write(name: str, budget: Budget, folder: Path) -> str:
    """Writes a recipe at a budget; its file, which keeps the recipe's name."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{Path(name).stem}.yaml"
    text = yaml.safe_dump(cut_short(name, budget, folder).to_dict(), sort_keys=False)
    if not file.is_file() or file.read_text() != text:  # another process may be reading it
        file.write_text(text)
    return str(file)
