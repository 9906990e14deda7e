"""Rows of a dataset as tensors for training and evaluation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Image
from torch.utils.data import Dataset as TorchDataset

from ..models.image_processing_mura import MuraImageProcessor
from ..radiographs import read_radiograph
from .augmentation import Augmentation


class ViewDataset(TorchDataset):
    """Views one by one, read and processed as `StudyPredictor` does it, augmented in between where asked.

    Args:
        rows: A split of `load_mura`.
        processor: The checkpoint's image processor.
        augmentation: None for evaluation.
        seed: Of the augmentation.
        patch_size: Side in pixels of a patch to be cut from the processed picture, around a finding or where one
            would have been; None for whole pictures.
        kept: Planes that were read and resized before, by row; what is read is added. Share one between datasets of
            the same rows and processor to read files once; None reads them each time.
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
        kept: dict[int, dict[str, Any]] | None = None,
        keys: Sequence[int] | None = None,
    ) -> None:
        # Files are read by the package's own reader, so the column hands out paths instead of decoded pictures.
        self.rows = rows.cast_column("image", Image(decode=False))
        self.processor = processor
        self.augmentation = augmentation
        self.seed = seed
        self.patch_size = patch_size
        self.kept = kept
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
            `pixel_values` float32 `[C, h, w]`, `labels` and `body_parts`, the row's `index`; and, where the
            dataset has a column of boxes, `regions` bool `[h, w]`, True inside them, with `regions_known` (False for
            an abnormal view without a box, whose finding may be anywhere).
        """
        view = (self.kept or {}).get(index) or self._read(index)
        if self.kept is not None:
            self.kept[index] = view
        plane, marked, label = view["plane"], view["marked"], view["label"]
        key = index if self.keys is None else self.keys[index]
        change = None if self.augmentation is None else self.augmentation.draw(self.seed, self.epoch, key)
        if change is not None:
            moved = None if marked is None else change.regions(marked)
            # A finding stays in the picture, or the label would be wrong; so does the place of one, for the twin.
            if moved is None or marked is None or (moved > 127).any() or not (marked > 127).any():
                plane, marked = change.place(plane), moved
        if self.patch_size is not None:
            window = self._patch(plane, marked, key)
            plane, marked = np.ascontiguousarray(plane[window]), None if marked is None else marked[window]
        else:
            plane = self.processor.center_crop(plane)
            marked = None if marked is None else self.processor.center_crop(marked)
        if change is not None:
            plane = change.tone(plane)
        item: dict[str, Any] = {"labels": label, "body_parts": view["body_part"], "index": index}
        if marked is not None:
            item["regions"] = torch.from_numpy((marked > 127) & (label == 1))
            item["regions_known"] = label == 0 or view["located"]
        return {"pixel_values": torch.from_numpy(self.processor.to_pixel_values(plane[None])[0]), **item}

    def _read(self, index: int) -> dict[str, Any]:
        """The processed plane, uint8 `[h, w]`; likewise 255 where the finding is or would be, None if not known."""
        row = self.rows[index]
        picture = row["image"]
        radiograph = read_radiograph(
            picture["path"] if picture["bytes"] is None else picture["bytes"], name=picture["path"]
        )
        view = {"label": row["label"], "body_part": row["body_part"], "marked": None}
        original = self.processor.gray_plane(radiograph.pixels)
        view["plane"] = self.processor.prepare_plane(original)
        if "boxes" in row:
            boxes = row["boxes"] or row.get("decoys") or []
            view["located"] = bool(row["boxes"])
            field = self.processor.find_field(original)
            view["marked"] = self.processor.prepare_mask(_mask(boxes, original.shape), field)
        return view

    def _patch(self, plane: np.ndarray, marked: np.ndarray | None, key: int) -> tuple[slice, slice]:
        """Rows and columns of a patch that holds much of what is marked, or some of the body where nothing is."""
        assert self.patch_size is not None
        rng = np.random.default_rng([self.seed, self.epoch, key, 1])
        side = min(self.patch_size, *plane.shape)
        places = np.argwhere(plane > 40 if marked is None or not (marked > 127).any() else marked > 127)
        centre = places[rng.integers(len(places))] if len(places) else np.array(plane.shape) // 2
        start = centre - side // 2 + np.rint(rng.uniform(-0.3, 0.3, 2) * side).astype(int)
        top, left = np.clip(start, 0, np.array(plane.shape) - side)
        return slice(int(top), int(top) + side), slice(int(left), int(left) + side)


def _mask(boxes: list[list[int]], shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = 255
    return mask
