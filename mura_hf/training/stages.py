"""The stages of a run: patches, then whole views, or whole studies."""

import math
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace

from datasets import Dataset
from torch.utils.data import DataLoader, Subset

from ..data import (
    BalancedSampler,
    GroupSampler,
    HardSampler,
    PerClassSampler,
    PixelCache,
    StudyDataset,
    ViewDataset,
    collate_studies,
)
from ..errors import ConfigError
from ..models import MuraImageProcessor
from .families import NOT_JUDGED, model_class
from .recipe import Recipe

AnySampler = GroupSampler | BalancedSampler | PerClassSampler | HardSampler


@dataclass(frozen=True)
class Stage:
    """A part of the run with its own pictures, rate and schedule.

    Attributes:
        name: "patches", "views", or what it trains.
        trains: The stage of the model; see its `start_stage`.
        recipe: As it holds here.
        views: What is met.
        rows: Which of them.
        sampler: Their order; numbers within `rows`.
        first_epoch: Epochs of the stages before.
        judged: Whether its epochs are judged on dev, and the best of them kept.
    """

    name: str
    trains: str
    recipe: Recipe
    views: ViewDataset | StudyDataset
    rows: Sequence[int]
    sampler: AnySampler
    first_epoch: int
    judged: bool

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch of the stage, from 0 on, whose order and augmentation are drawn."""
        self.views.set_epoch(self.first_epoch + epoch)
        self.sampler.set_epoch(self.first_epoch + epoch)

    def loader(self, num_workers: int, num_processes: int = 1) -> DataLoader:
        """Batches of one process; a last one that is not full is left out, unless it is the only one."""
        return DataLoader(
            Subset(self.views, self.rows),
            self.recipe.batch_size,
            sampler=self.sampler,
            num_workers=num_workers,
            drop_last=len(self.rows) >= self.recipe.batch_size * num_processes,
            worker_init_fn=_leave_signals,
            collate_fn=collate_studies if isinstance(self.views, StudyDataset) else None,
        )

    def planned_steps(self, num_processes: int) -> int:
        """Steps of all its epochs, as far as they can be known before the loader is shared out."""
        batches = max(1, len(self.sampler) // (self.recipe.batch_size * num_processes))
        return self.recipe.epochs * math.ceil(batches / self.recipe.accumulation)


def _leave_signals(worker: int) -> None:
    """In a worker that reads files: what asks the run to stop is for the main process, which ends its workers."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def make_stages(recipe: Recipe, rows: Dataset, processor: MuraImageProcessor, cache: PixelCache | None) -> list[Stage]:
    """The stages of a recipe over train: patches where it has them, then whole views, in one stage or in several.

    Args:
        recipe: Every setting.
        rows: The split train.
        processor: Of the model.
        cache: Of the rows' pictures; None reads files each time.

    Raises:
        ConfigError: If the rows have fewer classes than a batch is to hold, or a FuseNet has no stages.
    """
    if recipe.family == "fusenet" and not recipe.stages:
        raise ConfigError(
            "a fusenet is trained in stages: name global, local and fusion, as the recipe d_fusenet does"
        )
    keys = _twin_keys(rows)
    first = model_class(recipe.family).STAGES[0]
    # Name, what is trained, the recipe, the size of a patch, and whether dev judges.
    plan: list[tuple[str, str, Recipe, int | None, bool]] = []
    patches = recipe.patches
    if patches.epochs:
        own = replace(
            recipe,
            epochs=patches.epochs,
            batch_size=patches.batch_size,
            learning_rate=patches.learning_rate,
            augmentation=patches.augmentation,
            schedule="cosine",
            sampling="balanced" if recipe.sampling == "balanced" else "shuffled",
            stages=[],
        )
        trains = recipe.stages[0].trains if recipe.stages else first
        plan.append(("patches", trains, own, patches.size, False))
    for stage in recipe.stages:
        judged = stage.trains not in NOT_JUDGED and stage.patch_size is None
        name = stage.trains if stage.patch_size is None else f"patches of {stage.patch_size}"
        plan.append((name, stage.trains, recipe.for_stage(stage), stage.patch_size, judged))
    if not recipe.stages:
        plan.append(("views", first, recipe, None, True))

    stages: list[Stage] = []
    for name, trains, own, patch_size, judged in plan:
        single = ViewDataset(
            rows, processor, own.augmentation, own.seed, patch_size=patch_size, cache=cache, keys=keys
        )
        views = StudyDataset(single) if own.level == "study" else single
        seen: Sequence[int] = range(len(views))
        if patch_size is not None:
            # An abnormal view whose finding does not show has no patch that could be called abnormal.
            known = enumerate(rows.select_columns(["label", "boxes"]))
            seen = [n for n, row in known if row["boxes"] or not row["label"]]
        stages.append(
            Stage(
                name=name,
                trains=trains,
                recipe=own,
                views=views,
                rows=seen,
                sampler=_sampler(own, rows, _first_rows(views, seen), keys),
                first_epoch=sum(before.recipe.epochs for before in stages),
                judged=judged,
            )
        )
    return stages


def _first_rows(views: ViewDataset | StudyDataset, seen: Sequence[int]) -> list[int]:
    """Of what is seen, the row of each: a view's own, or that of a study's first view."""
    return [views.members[n][0] if isinstance(views, StudyDataset) else n for n in seen]


def _sampler(recipe: Recipe, rows: Dataset, seen: Sequence[int], keys: Sequence[int] | None) -> AnySampler:
    """The order of the rows that a stage sees."""
    if recipe.sampling == "hard":
        return HardSampler(len(seen), recipe.hard_share, recipe.seed)
    if recipe.sampling == "balanced":
        labels = rows["label"]
        return BalancedSampler([labels[n] for n in seen], recipe.seed)
    if recipe.sampling == "classes":
        labels, parts = rows["label"], rows["body_part"]
        both = recipe.classes_over == "label_and_part"
        classes = [(labels[n], parts[n] if both else None) for n in seen]
        try:
            return PerClassSampler(classes, recipe.classes_per_batch, recipe.samples_per_class, recipe.seed)
        except ValueError as error:
            raise ConfigError(f"sampling: classes does not fit the data: {error}") from error
    return GroupSampler(keys and [keys[n] for n in seen], len(seen), recipe.seed)


def _twin_keys(rows: Dataset) -> list[int] | None:
    """By row, the first row of its twins; None where the data know no twins."""
    if "twin" not in rows.column_names:
        return None
    first: dict[str | int, int] = {}
    return [first.setdefault(n if twin is None else twin, n) for n, twin in enumerate(rows["twin"])]
