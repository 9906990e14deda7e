"""Rows of a dataset as tensors: `ViewDataset` for views, `StudyDataset` for studies."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from datasets import Dataset, Image
from torch.utils.data import Dataset as TorchDataset

from ..errors import DatasetError
from ..models.image_processing_mura import MuraImageProcessor
from ..radiographs import read_levels
from .augmentation import Augmentation

UNKNOWN_PART = -1
"""Number of a body part that is unknown or none of the seven."""

_SHOWN = 127  # a pixel of a resized mask belongs to it above this value
_BODY = 40  # gray level above which a pixel may show the body


@dataclass(frozen=True, eq=False)
class PreparedView:
    """A view after the deterministic part of preprocessing."""

    plane: np.ndarray  # uint8 `[h, w]` gray levels in the processor's size
    shape: tuple[int, int]  # height and width of the file in pixels


def prepare_view(source: str | bytes, processor: MuraImageProcessor, name: str | None = None) -> PreparedView:
    """Reads a file or its content as `StudyPredictor` does, and applies the deterministic part of the processor.

    Raises:
        RadiographError: If it cannot be read.
    """
    pixels = read_levels(source, name=name)  # equals `MuraImageProcessor.gray_plane` of the radiograph
    return PreparedView(processor.prepare_plane(pixels), (pixels.shape[0], pixels.shape[1]))


class ViewDataset(TorchDataset):
    """Single views, read and processed as `StudyPredictor` does it, with optional augmentation.

    Args:
        rows: A split of `load_mura` or another loader.
        processor: Image processor of the checkpoint.
        augmentation: Random changes for training.
        seed: Seed of the augmentation.
        patch_size: Side in pixels of a patch around a finding, or where one could be. Whole images if None.
        cache: Result of `build_pixel_cache` with the same processor. Files that it does not contain are read.
        augmentation_keys: Key of each row, from which augmentation and patch are drawn together with seed and epoch.
            Defaults to the row index. Counterfactual pairs with the same key differ in the finding only.

    Raises:
        DatasetError: If two patients share a value of `study_id`.
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
        augmentation_keys: Sequence[int] | None = None,
    ) -> None:
        # Files are read by `read_levels`, so the column must give paths instead of decoded images.
        self.rows = rows.cast_column("image", Image(decode=False))
        if {"study_id", "patient_id"} <= set(rows.column_names):
            _check_study_ids(rows)
        self.processor = processor
        self.augmentation = augmentation
        self.seed = seed
        self.patch_size = patch_size
        self.cache = cache
        self.augmentation_keys = augmentation_keys
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, from which the augmentation is drawn."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns a view.

        Returns:
            `pixel_values` float32 `[C, h, w]`, `labels`, `body_parts` (`UNKNOWN_PART` if unknown) and `index`. If the
            dataset has boxes, also `regions` bool `[h, w]`, True inside the boxes of an abnormal view, and
            `regions_known`, False for an abnormal view without boxes, whose finding may be anywhere.
        """
        row = self.rows[index]
        view = self._read(row["image"])
        mask = self._make_mask(row, view) if "boxes" in row else None
        key = index if self.augmentation_keys is None else self.augmentation_keys[index]
        plane, mask = self._augment(view.plane, mask, key)
        item: dict[str, Any] = {
            "pixel_values": torch.from_numpy(self.processor.to_pixel_values(plane[None])[0]),
            "labels": row["label"],
            "body_parts": UNKNOWN_PART if row["body_part"] is None else row["body_part"],
            "index": index,
        }
        if mask is not None:
            item["regions"] = torch.from_numpy((mask > _SHOWN) & (row["label"] == 1))
            item["regions_known"] = row["label"] == 0 or bool(row["boxes"])
        return item

    def _read(self, image: dict[str, Any]) -> PreparedView:
        path = image["path"]
        if image["bytes"] is not None:
            return prepare_view(image["bytes"], self.processor, path)
        cached = None if self.cache is None else self.cache.get(os.path.abspath(path))
        return prepare_view(path, self.processor, path) if cached is None else cached

    def _make_mask(self, row: dict[str, Any], view: PreparedView) -> np.ndarray:
        """Returns uint8 `[h, w]`, 255 where the finding is, or would be in a normal view of a counterfactual pair."""
        boxes = row["boxes"] or row.get("decoys") or []
        if not boxes:
            return np.zeros_like(view.plane)  # the result of resizing an empty mask, at a fraction of its cost
        mask = np.zeros(view.shape, np.uint8)
        for x0, y0, x1, y1 in boxes:
            mask[y0:y1, x0:x1] = 255
        return self.processor.prepare_mask(mask)

    def _augment(self, plane: np.ndarray, mask: np.ndarray | None, key: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns the augmented plane and mask, cropped to the input size of the model."""
        change = None if self.augmentation is None else self.augmentation.draw(self.seed, self.epoch, key)
        cropped = False
        if change is not None:
            size = None if self.patch_size is not None or change.crop is None else self.processor.output_size
            moved = mask
            if mask is not None:
                moved = np.zeros(size or mask.shape, np.uint8)
                if mask.any():
                    moved = change.place(mask, size, cv2.INTER_NEAREST)
            # The change must keep a finding in the image, or the label would be wrong.
            if moved is None or mask is None or (moved > _SHOWN).any() or not (mask > _SHOWN).any():
                plane, mask, cropped = change.place(plane, size), moved, size is not None
        zoom = 1.0 if change is None else change.zoom
        if self.patch_size is not None or zoom != 1:
            plane, mask = self._frame(plane, mask, key, zoom)
        elif not cropped:
            plane = self.processor.center_crop(plane)
            mask = None if mask is None else self.processor.center_crop(mask)
        if change is not None:
            plane = change.degrade(change.tone(plane))
        return plane, mask

    def _frame(
        self, plane: np.ndarray, mask: np.ndarray | None, key: int, zoom: float
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns a window of a view and its mask, enlarged by `zoom`: a patch, or a view that is framed differently.

        The window has a large part of the mask, or of the body if the mask is empty. With a zoom below 1, the whole
        view lies anywhere in it.
        """
        height, width = (self.patch_size,) * 2 if self.patch_size is not None else self.processor.output_size
        rng = np.random.default_rng([self.seed, self.epoch, key, 1])
        sides = np.minimum((np.array([height, width]) / zoom).round().astype(int), plane.shape)
        shown = None if mask is None else np.flatnonzero(mask > _SHOWN)
        candidates = np.flatnonzero(plane > _BODY) if shown is None or not len(shown) else shown
        centre = np.array(plane.shape) // 2
        if len(candidates):
            centre = np.array(divmod(int(candidates[rng.integers(len(candidates))]), plane.shape[1]))
        start = centre - sides // 2 + np.rint(rng.uniform(-0.3, 0.3, 2) * sides).astype(int)
        top, left = np.clip(start, 0, np.array(plane.shape) - sides)
        window = slice(int(top), int(top) + int(sides[0])), slice(int(left), int(left) + int(sides[1]))
        plane, mask = np.ascontiguousarray(plane[window]), None if mask is None else np.ascontiguousarray(mask[window])
        if zoom == 1:
            return plane, mask
        room = np.array([height, width]) - np.rint(sides * zoom)
        down, across = np.maximum(room, 0) * rng.random(2)
        matrix = np.array([[zoom, 0, across + (zoom - 1) / 2], [0, zoom, down + (zoom - 1) / 2]])
        if zoom < 1:
            plane = cv2.GaussianBlur(plane, (0, 0), 0.5 / zoom - 0.4)  # else details fold into each other
        moved = cv2.warpAffine(plane, matrix, (width, height), flags=cv2.INTER_LINEAR)
        return moved, None if mask is None else cv2.warpAffine(mask, matrix, (width, height), flags=cv2.INTER_NEAREST)


def _check_study_ids(rows: Dataset) -> None:
    patients: dict[str, str] = {}
    for study, patient in zip(rows["study_id"], rows["patient_id"], strict=True):
        if patients.setdefault(study, patient) != patient:
            raise DatasetError(
                f"study_id {study} belongs to the patients {patients[study]} and {patient}; make it unique, such as "
                "patient/study"
            )


class StudyDataset(TorchDataset):
    """Studies with all their views.

    Attributes:
        study_ids: Study ids in the order of their first views.
        members: Row indices of the views of each study.
    """

    def __init__(self, views: ViewDataset) -> None:
        self.views = views
        members = group_studies(views.rows["study_id"])
        self.study_ids = list(members)
        self.members = list(members.values())

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, from which the augmentation is drawn."""
        self.views.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns a study: `pixel_values` float32 `[V, C, h, w]`, `labels`, `body_parts` and `index`."""
        views = [self.views[row] for row in self.members[index]]
        return {
            "pixel_values": torch.stack([view["pixel_values"] for view in views]),
            "labels": views[0]["labels"],
            "body_parts": views[0]["body_parts"],
            "index": index,
        }


def group_studies(study_ids: Iterable[str]) -> dict[str, list[int]]:
    """Returns study id -> row indices of its views, in the order of first views."""
    members: dict[str, list[int]] = {}
    for row, study in enumerate(study_ids):
        members.setdefault(study, []).append(row)
    return members


def labels_and_patients(rows: Dataset) -> tuple[list[int], list[str]]:
    """Returns label and patient of each study, in the order of first views."""
    first = [members[0] for members in group_studies(rows["study_id"]).values()]
    labels, patients = rows["label"], rows["patient_id"]
    return [labels[row] for row in first], [patients[row] for row in first]


def collate_studies(studies: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Collates items of a `StudyDataset`, padded to the largest number of views.

    Returns:
        `pixel_values` float32 `[B, V, C, h, w]`, padded with zeros; `view_mask` bool `[B, V]`, False for padding;
        `labels`, `body_parts` and `index` int64 `[B]`.
    """
    pixel_values = torch.nn.utils.rnn.pad_sequence([study["pixel_values"] for study in studies], batch_first=True)
    n_views = torch.tensor([len(study["pixel_values"]) for study in studies])
    numbers = {name: torch.tensor([study[name] for study in studies]) for name in ("labels", "body_parts", "index")}
    return {
        "pixel_values": pixel_values,
        "view_mask": torch.arange(pixel_values.shape[1]) < n_views[:, None],
        **numbers,
    }
