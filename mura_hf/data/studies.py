"""Whole studies as tensors."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset as TorchDataset

from .views import ViewDataset


class StudyDataset(TorchDataset):
    """Studies one by one, with all their views.

    Args:
        views: The views, augmented or not.

    Attributes:
        study_ids: By study, in first-seen order.
        members: By study, the rows of its views in `views`.
    """

    def __init__(self, views: ViewDataset) -> None:
        self.views = views
        members = group_studies(views.rows["study_id"])
        self.study_ids = list(members)
        self.members = list(members.values())

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose augmentation is drawn."""
        self.views.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A study.

        Returns:
            `pixel_values` float32 `[V, C, h, w]`, `labels`, `body_parts` (`UNKNOWN_PART` where it is not known), and
            the study's `index`.
        """
        views = [self.views[row] for row in self.members[index]]
        return {
            "pixel_values": torch.stack([view["pixel_values"] for view in views]),
            "labels": views[0]["labels"],
            "body_parts": views[0]["body_parts"],
            "index": index,
        }


def group_studies(study_ids: Iterable[str]) -> dict[str, list[int]]:
    """Study -> the rows of its views, in first-seen order."""
    members: dict[str, list[int]] = {}
    for row, study in enumerate(study_ids):
        members.setdefault(study, []).append(row)
    return members


def collate_studies(studies: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """A batch of studies, padded to the one with the most views.

    Args:
        studies: Items of a `StudyDataset`.

    Returns:
        `pixel_values` float32 `[B, V, C, h, w]`, zeros where padded; `view_mask` bool `[B, V]`, False there; `labels`,
        `body_parts` and `index` int64 `[B]`.
    """
    pictures = [study["pixel_values"] for study in studies]
    most = max(len(views) for views in pictures)
    pixels = pictures[0].new_zeros((len(studies), most, *pictures[0].shape[1:]))
    mask = torch.zeros(len(studies), most, dtype=torch.bool)
    for number, views in enumerate(pictures):
        pixels[number, : len(views)] = views
        mask[number, : len(views)] = True
    named = {name: torch.tensor([study[name] for study in studies]) for name in ("labels", "body_parts", "index")}
    return {"pixel_values": pixels, "view_mask": mask, **named}
