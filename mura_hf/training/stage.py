"""The stages of a run: patches, whole views or whole studies, each with its data, order and settings."""

import math
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from torch.utils.data import DataLoader, Subset

from ..data import (
    BalancedSampler,
    GroupSampler,
    PerClassSampler,
    PixelCache,
    StudyDataset,
    ViewDataset,
    collate_studies,
)
from ..errors import ConfigError
from ..models import MuraImageProcessor, MuraModel
from ..models.backbone_mura import freeze_backbone
from .arguments import TrainingConfig, TrainingStage
from .validation import FAMILIES, WITHOUT_CLASSIFIER

EpochSampler = GroupSampler | BalancedSampler | PerClassSampler


@dataclass(frozen=True)
class Stage:
    """A part of the run with its own data, learning rate and schedule."""

    name: str  # "patches of 112", "views", or the part of the model that it trains
    trains: str  # part of the model that is trained; see `start_stage` of the models
    config: TrainingConfig  # the config as it holds in this stage
    views: ViewDataset | StudyDataset  # views or studies of train
    rows: Sequence[int]  # indices into `views` that the stage uses
    sampler: EpochSampler  # order of an epoch, as places in `rows`
    first_epoch: int  # number of epochs in the stages before
    evaluated_on_dev: bool  # if so, the best of its epochs is kept

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the stage, from 0, that order and augmentation are drawn for."""
        self.views.set_epoch(self.first_epoch + epoch)
        self.sampler.set_epoch(self.first_epoch + epoch)

    def loader(self, num_workers: int, num_processes: int = 1) -> DataLoader:
        """Batches of one process; an incomplete last batch is dropped, unless it is the only one."""
        batch_size = self.config.training.batch_size
        return DataLoader(
            Subset(self.views, self.rows),
            batch_size,
            sampler=self.sampler,
            num_workers=num_workers,
            drop_last=len(self.rows) >= batch_size * num_processes,
            worker_init_fn=_ignore_signals,
            collate_fn=collate_studies if isinstance(self.views, StudyDataset) else None,
        )

    def planned_steps(self, num_processes: int) -> int:
        """Approximate number of steps of all its epochs."""
        training = self.config.training
        batches = max(1, len(self.sampler) // (training.batch_size * num_processes))
        return training.epochs * math.ceil(batches / training.accumulation)


def _ignore_signals(worker: int) -> None:
    """In a data loader worker: signals that stop the run are handled by the main process, which ends its workers."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def make_stages(
    config: TrainingConfig, rows: Dataset, processor: MuraImageProcessor, cache: PixelCache | None
) -> list[Stage]:
    """The stages of a config on the rows of train, or one stage of whole views if it names none.

    Raises:
        ConfigError: If the rows have fewer classes than a batch needs, or a FuseNet has no stages.
    """
    if config.model.family == "fusenet" and not any(stage.trains for stage in config.training.stages):
        raise ConfigError("a fusenet is trained in stages: give the stages global, local and fusion, in this order")
    keys = _twin_keys(rows)
    default = FAMILIES[config.model.family].STAGES[0]
    first_part = next((stage.trains for stage in config.training.stages if stage.trains), default)
    stages: list[Stage] = []
    for planned in config.training.stages or [TrainingStage(epochs=config.training.epochs)]:
        own, patch_size = config.for_stage(planned), planned.patch_size
        trains = planned.trains or (default if patch_size is None else first_part)
        seed = own.training.seed
        single = ViewDataset(
            rows, processor, own.augmentation, seed, patch_size=patch_size, cache=cache, augmentation_keys=keys
        )
        views = StudyDataset(single) if own.data.level == "study" else single
        used: Sequence[int] = range(len(views))
        if patch_size is not None:
            # An abnormal view without a box has no patch that is known to be abnormal.
            known = enumerate(rows.select_columns(["label", "boxes"]))
            used = [n for n, row in known if row["boxes"] or not row["label"]]
        first_views = [views.members[n][0] if isinstance(views, StudyDataset) else n for n in used]
        stages.append(
            Stage(
                name=planned.trains or "views" if patch_size is None else f"patches of {patch_size}",
                trains=trains,
                config=own,
                views=views,
                rows=used,
                sampler=_make_sampler(own, rows, first_views, keys),
                first_epoch=sum(before.config.training.epochs for before in stages),
                evaluated_on_dev=trains not in WITHOUT_CLASSIFIER and patch_size is None,
            )
        )
    return stages


def _make_sampler(
    config: TrainingConfig, rows: Dataset, used: Sequence[int], keys: Sequence[int] | None
) -> EpochSampler:
    """The order in which a stage draws its rows."""
    data, seed, labels = config.data, config.training.seed, rows["label"]
    if data.sampling == "balanced":
        return BalancedSampler([labels[n] for n in used], seed)
    if data.sampling == "classes":
        parts, both = rows["body_part"], data.classes_over == "label_and_part"
        classes = [(labels[n], parts[n] if both else None) for n in used]
        try:
            return PerClassSampler(classes, data.classes_per_batch, data.samples_per_class, seed)
        except ValueError as error:
            raise ConfigError(f"sampling classes does not fit the data: {error}") from error
    return GroupSampler(keys and [keys[n] for n in used], len(used), seed)


def _twin_keys(rows: Dataset) -> list[int] | None:
    """For each row, the first row of its twins; None for data without twins."""
    if "twin" not in rows.column_names:
        return None
    first: dict[str | int, int] = {}
    return [first.setdefault(n if twin is None else twin, n) for n, twin in enumerate(rows["twin"])]


def start_training(model: Any, trains: str, train_last: int | None) -> None:
    """Puts a model into one of its `STAGES`, and freezes all but the last stages of the backbones that it trains."""
    model.start_stage(trains)
    for inner in model.modules() if train_last is not None else ():
        if isinstance(inner, MuraModel) and any(parameter.requires_grad for parameter in inner.parameters()):
            freeze_backbone(inner.backbone, train_last)
