"""Rows of a dataset as tensors for training and evaluation."""

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
    """

    def __init__(
        self, rows: Dataset, processor: MuraImageProcessor, augmentation: Augmentation | None = None, seed: int = 0
    ) -> None:
        # Files are read by the package's own reader, so the column hands out paths instead of decoded pictures.
        self.rows = rows.cast_column("image", Image(decode=False))
        self.processor = processor
        self.augmentation = augmentation
        self.seed = seed
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
        row = self.rows[index]
        picture = row["image"]
        radiograph = read_radiograph(
            picture["path"] if picture["bytes"] is None else picture["bytes"], name=picture["path"]
        )
        plane = self.processor.resize_plane(self.processor.gray_plane(radiograph.pixels))
        change = None if self.augmentation is None else self.augmentation.draw(self.seed, self.epoch, index)
        item: dict[str, Any] = {"labels": row["label"], "body_parts": row["body_part"], "index": index}
        if "boxes" in row:
            mask = self.processor.resize_plane(_mask(row["boxes"], radiograph.pixels.shape))
            mask = mask if change is None else change.regions(mask)
            item["regions"] = torch.from_numpy(mask > 127)
            item["regions_known"] = bool(row["boxes"]) or row["label"] == 0
        plane = plane if change is None else change.picture(plane)
        return {"pixel_values": torch.from_numpy(self.processor.to_pixel_values(plane[None])[0]), **item}


def _mask(boxes: list[list[int]], shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = 255
    return mask
