"""Teaches a checkpoint what its training data look like, so that it can tell when not to answer."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import AutoModelForImageClassification

from ..data import ViewDataset
from ..data.fracatlas import REGION_GROUPS
from ..errors import CheckpointError
from ..files import replace_file
from ..models import BODY_PARTS, MuraImageProcessor
from ..models.weights_mura import digest_weights
from ..retrieval import InDistribution, map_codes
from ..retrieval.in_distribution import ALARMS
from .picking import spread

MOST_VIEWS = 5_000
"""Of train, spread evenly; more would move the covariance of a few hundred channels by little."""

_SCOPE = REGION_GROUPS["upper limb"]
_ANY = "any"


def learn_distribution(
    folder: str | Path, train: Dataset, calib: Dataset, *, batch_size: int = 32, cpu: bool = False
) -> dict[str, Any]:
    """Writes `in_distribution.safetensors` beside a checkpoint's weights, and how that went into its `training.json`,
    where there is one.

    Views are grouped by body part, or by region where the rows tell regions. What shows nothing of the upper limb was
    a help in training, but is not what checkpoints of this package are for: it counts as strange.

    Args:
        folder: The checkpoint.
        train: What it was trained on.
        calib: The split that sets the threshold, which neither training nor selection has seen.
        batch_size: Views a step.
        cpu: Whether to stay on the CPU.

    Returns:
        `n_views` of train that were looked at, `groups` (name -> views), those `outside`, `n` views of calib,
        `alarms` (the share of studies like these that is accepted to be taken for strange).

    Raises:
        CheckpointError: If the model has no feature map, or one for each body part.
        DatasetError: If calib has too few views that show what the checkpoint is for.
    """
    folder, accelerator = Path(folder), Accelerator(cpu=cpu)
    train = train.select(spread(len(train), MOST_VIEWS))
    groups = groups_of(train)
    outside = sorted({group for group in groups if is_outside(group)})
    calib = in_scope(calib)
    raw = AutoModelForImageClassification.from_pretrained(folder)
    if raw.NEEDS_PART:
        raise CheckpointError(
            f"{folder} has a model for each body part, whose feature maps do not compare: it cannot tell whether a "
            "study is like those of training"
        )
    model = accelerator.prepare_model(raw, evaluation_mode=True)
    processor = MuraImageProcessor.from_pretrained(folder)
    codes, calib_codes = (
        read_codes(model.eval(), ViewDataset(rows, processor), accelerator.device, batch_size, f"Reading {name}")
        for name, rows in (("train", train), ("calib", calib))
    )
    fitted = InDistribution.fit(codes, groups, outside, calib_codes, digest_weights(folder))
    record = {
        "n_views": len(codes),
        "groups": {group: groups.count(group) for group in sorted(set(groups))},
        "outside": outside,
        "n": len(fitted.calib),
        "alarms": ALARMS,
    }
    if accelerator.is_main_process:
        fitted.save(folder)
        file = folder / "training.json"
        if file.is_file():
            training = {**json.loads(file.read_text()), "in_distribution": record}
            replace_file(file, (json.dumps(training, indent=2) + "\n").encode())
    return record


def groups_of(rows: Dataset) -> list[str]:
    """The group of each row: the first region of the upper limb that it shows, else the first of all, or the body part
    where rows tell no regions.
    """
    if "region" in rows.column_names and any(rows["region"]):
        shown = [(region or _ANY).split("+") for region in rows["region"]]
        return [next((word for word in words if word in _SCOPE), words[0]) for words in shown]
    return [_ANY if part is None else BODY_PARTS[part] for part in rows["body_part"]]


def is_outside(group: str) -> bool:
    """Whether a group, as `groups_of` names it, shows nothing of the upper limb."""
    return group in {region for regions in REGION_GROUPS.values() for region in regions} - set(_SCOPE)


def in_scope(rows: Dataset, *, inside: bool = True) -> Dataset:
    """The rows that show something of the upper limb, or, where not `inside`, the others."""
    return rows.select([place for place, group in enumerate(groups_of(rows)) if is_outside(group) != inside])


@torch.no_grad()
def read_codes(model: Any, views: ViewDataset, device: torch.device, batch_size: int, progress: str) -> np.ndarray:
    """Codes of views from `map_codes`, float32 `[n, D]`."""
    found = []
    for batch in tqdm(DataLoader(views, batch_size), desc=progress):
        pixel_values = batch["pixel_values"].to(device, memory_format=torch.channels_last)
        found.append(map_codes(model.classify_views(pixel_values)).cpu().numpy())
    return np.concatenate(found) if found else np.zeros((0, 1), np.float32)
