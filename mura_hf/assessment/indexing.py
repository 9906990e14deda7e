"""An index of the studies that a checkpoint learned from, beside its weights."""

import shutil
from pathlib import Path

import numpy as np
from datasets import Dataset

from ..errors import CheckpointError
from ..inference import StudyPredictor
from ..retrieval import FOLDER, RetrievalIndex
from .splits import load_splits

_UNFINISHED = f"{FOLDER}.unfinished"


def index_checkpoint(
    folder: str | Path,
    data_dir: str | Path,
    split: str = "train",
    *,
    metric: str = "l2",
    half: bool = False,
    factory: str | None = None,
    parameters: str = "",
    thumbnail_side: int | None = None,
    max_views: int | None = None,
    batch_size: int = 32,
    cpu: bool = False,
    progress: bool = True,
) -> RetrievalIndex:
    """Builds the index of a checkpoint and saves it in its `retrieval/`.

    What was finished of a build that was killed is kept beside it, and the next call goes on from there.

    Args:
        folder: The checkpoint.
        data_dir: What it was trained on.
        split: Of which the studies are.
        metric: As in `RetrievalIndex.build`, like the next four.
        half: Whether to keep codes in float16.
        factory: FAISS's factory string; exact search where None.
        parameters: FAISS's parameters at search time.
        thumbnail_side: Longer side of small pictures, in pixels; none where None.
        max_views: Studies are drawn, whole ones, until no further one fits into so many views; all where None.
        batch_size: Views a step.
        cpu: Whether to stay on the CPU.
        progress: Whether to show a progress bar.

    Raises:
        CheckpointError: If there is no such checkpoint, or it has no codes.
        DatasetError: If the data are not those of training, or cannot be read.
        ValueError: If an option is unknown, or there are no studies.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is no folder on this machine; name that of a checkpoint")
    datasets, data = load_splits(folder, data_dir, split)
    predictor = StudyPredictor.from_pretrained(folder, device="cpu" if cpu else None)
    index = RetrievalIndex.build(
        take_views(datasets[split], max_views),
        predictor.model,
        predictor.processor,
        metric=metric,
        half=half,
        factory=factory,
        parameters=parameters,
        thumbnail_side=thumbnail_side,
        data=data,
        split=split,
        batch_size=batch_size,
        parts_dir=folder / _UNFINISHED,
        progress=progress,
    )
    index.save(folder / FOLDER)
    shutil.rmtree(folder / _UNFINISHED, ignore_errors=True)
    return index


def take_views(rows: Dataset, most: int | None, seed: int = 0) -> Dataset:
    """Whole studies of a split, drawn until the next would be more than so many views; in the split's order.

    Args:
        rows: The split.
        most: Views; all where None.
        seed: Of the drawing.

    Raises:
        ValueError: If not one study fits.
    """
    if most is None or most >= len(rows):
        return rows
    members: dict[str, list[int]] = {}
    for row, study in enumerate(rows["study_id"]):
        members.setdefault(study, []).append(row)
    studies = list(members.values())
    taken: list[int] = []
    for place in np.random.default_rng(seed).permutation(len(studies)):
        if len(taken) + len(studies[place]) > most:
            break
        taken += studies[place]
    if not taken:
        raise ValueError(f"max_views is {most}: it must hold one study at least")
    return rows.select(sorted(taken))
