"""Rows of a dataset as tensors for training and evaluation.

Whole studies as tensors.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Image
from torch.utils.data import Dataset as TorchDataset

from ..models.image_processing_mura import MuraImageProcessor
from ..radiographs import read_levels
from .augmentation import Augmentation, Change

UNKNOWN_PART = -1
"""Stands for a body part that is none of the seven, or not known."""


@dataclass(frozen=True, eq=False)
class PreparedView:
    """A view, read and prepared.

    Attributes:
        plane: uint8 `[h, w]`, of the processor's size.
        shape: Height and width of the file's picture in pixels.
        field: What the processor kept of it: x0, y0, x1, y1 in pixels, half open.
    """

    plane: np.ndarray
    shape: tuple[int, int]
    field: tuple[int, int, int, int]


def prepare_view(source: str | bytes, processor: MuraImageProcessor, name: str | None = None) -> PreparedView:
    """Reads a file, or its bytes, as `StudyPredictor` does, and prepares it.

    Raises:
        RadiographError: If it cannot be read.
    """
    pixels = read_levels(source, name=name)  # the same as the processor's gray_plane makes of a radiograph
    field = processor.find_field(pixels)
    return PreparedView(processor.prepare_plane(pixels), (pixels.shape[0], pixels.shape[1]), field)


class ViewDataset(TorchDataset):
    """Views one by one, read and processed as `StudyPredictor` does it, augmented in between where asked.

    Args:
        rows: A split of `load_mura`, or of another loader.
        processor: The checkpoint's image processor.
        augmentation: None for evaluation.
        seed: Of the augmentation.
        patch_size: Side in pixels of a patch to be cut from the prepared picture, around a finding or where one would
            have been; None for whole pictures.
        cache: Of `build_pixel_cache` with the same processor; what it does not hold is read from its file.
        keys: By row, what augmentation and patch are drawn from beside seed and epoch; the row's number where None.
            Give twins the same key, and the finding is all that tells them apart.
    """

    def __init__(
        self,
        rows: Dataset,
        processor: MuraImageProcessor,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        *,
        patch_size: int | None = None,
        cache: Mapping[str, PreparedView] | None = None,
        keys: Sequence[int] | None = None,
    ) -> None:
        # Files are read by the package's own reader, so the column hands out paths instead of decoded pictures.
        self.rows = rows.cast_column("image", Image(decode=False))
        self.processor = processor
        self.augmentation = augmentation
        self.seed = seed
        self.patch_size = patch_size
        self.cache = cache
        self.keys = keys
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose augmentation is drawn."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A view.

        Returns:
            `pixel_values` float32 `[C, h, w]`, `labels`, `body_parts` (`UNKNOWN_PART` where it is not known), the
            row's `index`; and, where the dataset has a column of boxes, `regions` bool `[h, w]`, True inside them,
            with `regions_known` (False for an abnormal view without a box, whose finding may be anywhere).
        """
        row = self.rows[index]
        view = self._prepare(row["image"])
        label, part = row["label"], row["body_part"]
        marked = self._mark(row, view) if "boxes" in row else None
        key = index if self.keys is None else self.keys[index]
        plane, marked = self._change(view.plane, marked, key)
        item: dict[str, Any] = {
            "labels": label,
            "body_parts": UNKNOWN_PART if part is None else part,
            "index": index,
        }
        if marked is not None:
            item["regions"] = torch.from_numpy((marked > 127) & (label == 1))
            item["regions_known"] = label == 0 or bool(row["boxes"])
        return {"pixel_values": torch.from_numpy(self.processor.to_pixel_values(plane[None])[0]), **item}

    def _prepare(self, picture: dict[str, Any]) -> PreparedView:
        path = picture["path"]
        if picture["bytes"] is not None:
            return prepare_view(picture["bytes"], self.processor, path)
        place = os.path.abspath(path)
        if self.cache is not None and place in self.cache:
            return self.cache[place]
        return prepare_view(path, self.processor)

    def _mark(self, row: dict[str, Any], view: PreparedView) -> np.ndarray:
        """255 where the finding is, or would be, uint8 `[h, w]`."""
        boxes = row["boxes"] or row.get("decoys") or []
        if not boxes:
            return np.zeros_like(view.plane)  # as resizing would have it, at a fraction of the cost
        mask = np.zeros(view.shape, np.uint8)
        for x0, y0, x1, y1 in boxes:
            mask[y0:y1, x0:x1] = 255
        return self.processor.prepare_mask(mask, view.field)

    def _change(self, plane: np.ndarray, marked: np.ndarray | None, key: int) -> tuple[np.ndarray, np.ndarray | None]:
        """The augmented plane and mask, cut to what the model is to see."""
        change = None if self.augmentation is None else self.augmentation.draw(self.seed, self.epoch, key)
        cropped = False
        if change is not None:
            size = None if self.patch_size is not None or change.crop is None else self.processor.output_size
            moved = marked
            if marked is not None:
                moved = change.regions(marked, size) if marked.any() else np.zeros(size or marked.shape, np.uint8)
            # A finding stays in the picture, or the label would be wrong; so does the place of one, for the twin.
            if moved is None or marked is None or (moved > 127).any() or not (marked > 127).any():
                plane, marked, cropped = change.place(plane, size), moved, size is not None
        if self.patch_size is not None:
            window = self._patch(plane, marked, key)
            plane, marked = np.ascontiguousarray(plane[window]), None if marked is None else marked[window]
        elif not cropped:
            plane = self.processor.center_crop(plane)
            marked = None if marked is None else self.processor.center_crop(marked)
        if change is not None:
            plane = _erase(change, change.tone(plane), marked)
        return plane, marked

    def _patch(self, plane: np.ndarray, marked: np.ndarray | None, key: int) -> tuple[slice, slice]:
        """Rows and columns of a patch that holds much of what is marked, or some of the body where nothing is."""
        assert self.patch_size is not None
        rng = np.random.default_rng([self.seed, self.epoch, key, 1])
        side = min(self.patch_size, *plane.shape)
        finding = None if marked is None else np.flatnonzero(marked > 127)
        places = np.flatnonzero(plane > 40) if finding is None or not len(finding) else finding
        centre = np.array(plane.shape) // 2
        if len(places):
            centre = np.array(divmod(int(places[rng.integers(len(places))]), plane.shape[1]))
        start = centre - side // 2 + np.rint(rng.uniform(-0.3, 0.3, 2) * side).astype(int)
        top, left = np.clip(start, 0, np.array(plane.shape) - side)
        return slice(int(top), int(top) + side), slice(int(left), int(left) + side)


def _erase(change: Change, plane: np.ndarray, marked: np.ndarray | None) -> np.ndarray:
    """Blackens the drawn holes, unless they would hide more than half of a finding."""
    if marked is not None and change.holes:
        whole = int((marked > 127).sum())
        if int((change.erase(marked) > 127).sum()) < whole / 2:
            return plane
    return change.erase(plane)


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
