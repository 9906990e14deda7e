"""The stages of a run: patches, then whole views."""

from collections.abc import Sequence
from dataclasses import dataclass

from datasets import Dataset
from torch.utils.data import DataLoader, Subset

from ..data import BalancedSampler, PixelCache, TwinSampler, ViewDataset
from ..models import MuraImageProcessor
from .recipe import Recipe


@dataclass(frozen=True)
class Stage:
    """A part of the run with its own pictures, rate and schedule.

    Attributes:
        name: "patches" or "views".
        views: What is met.
        rows: Which of them.
        sampler: Their order; numbers within `rows`.
        epochs: Passes.
        first_epoch: Epochs of the stages before.
        batch_size: A step and process.
        learning_rate: Peak.
        judged: Whether its epochs are judged on dev, and the best of them kept.
    """

    name: str
    views: ViewDataset
    rows: Sequence[int]
    sampler: TwinSampler | BalancedSampler
    epochs: int
    first_epoch: int
    batch_size: int
    learning_rate: float
    judged: bool

    def loader(self, num_workers: int, num_processes: int = 1) -> DataLoader:
        """Batches of one process; a last one that is not full is left out, unless it is the only one."""
        return DataLoader(
            Subset(self.views, self.rows),
            self.batch_size,
            sampler=self.sampler,
            num_workers=num_workers,
            drop_last=len(self.rows) >= self.batch_size * num_processes,
        )


def make_stages(recipe: Recipe, rows: Dataset, processor: MuraImageProcessor, cache: PixelCache | None) -> list[Stage]:
    """The stages of a recipe over train: patches where it has them, then whole views.

    Args:
        recipe: Every setting.
        rows: The split train.
        processor: Of the model.
        cache: Of the rows' pictures; None reads files each time.
    """
    keys = _twin_keys(rows)
    patches, stages = recipe.patches, []
    if patches.epochs:
        # An abnormal view whose finding does not show has no patch that could be called abnormal.
        seen = [n for n, row in enumerate(rows.select_columns(["label", "boxes"])) if row["boxes"] or not row["label"]]
        stages.append(
            Stage(
                name="patches",
                views=ViewDataset(
                    rows,
                    processor,
                    patches.augmentation,
                    recipe.seed,
                    patch_size=patches.size,
                    cache=cache,
                    keys=keys,
                ),
                rows=seen,
                sampler=_sampler(recipe, rows, keys, seen),
                epochs=patches.epochs,
                first_epoch=0,
                batch_size=patches.batch_size,
                learning_rate=patches.learning_rate,
                judged=False,
            )
        )
    stages.append(
        Stage(
            name="views",
            views=ViewDataset(rows, processor, recipe.augmentation, recipe.seed, cache=cache, keys=keys),
            rows=range(len(rows)),
            sampler=_sampler(recipe, rows, keys, range(len(rows))),
            epochs=recipe.epochs,
            first_epoch=patches.epochs,
            batch_size=recipe.batch_size,
            learning_rate=recipe.learning_rate,
            judged=True,
        )
    )
    return stages


def _sampler(
    recipe: Recipe, rows: Dataset, keys: Sequence[int] | None, seen: Sequence[int]
) -> TwinSampler | BalancedSampler:
    """The order of the rows that a stage sees."""
    if recipe.sampling == "balanced":
        labels = rows["label"]
        return BalancedSampler([labels[n] for n in seen], recipe.seed)
    return TwinSampler(keys and [keys[n] for n in seen], len(seen), recipe.seed)


def _twin_keys(rows: Dataset) -> list[int] | None:
    """By row, the first row of its twins; None where the data know no twins."""
    if "twin" not in rows.column_names:
        return None
    first: dict[str | int, int] = {}
    return [first.setdefault(n if twin is None else twin, n) for n, twin in enumerate(rows["twin"])]
