"""Rows of a dataset as tensors: `ViewDataset` for views, `StudyDataset` for studies, `Augmentation` for both."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch
from datasets import Dataset, Image
from torch.utils.data import Dataset as TorchDataset

from ..errors import DatasetError
from ..models.image_processing_mura import MuraImageProcessor
from ..radiographs import read_levels

UNKNOWN_PART = -1
"""Number of a body part that is unknown or none of the seven."""

_SHOWN = 127  # a pixel of a resized mask belongs to it above this value
_BODY = 40  # gray level above which a pixel may show the body


@dataclass(frozen=True, eq=False)
class PreparedView:
    """A view after the deterministic part of preprocessing.

    Attributes:
        plane: uint8 `[h, w]` gray levels in the processor's size.
        shape: Height and width of the file in pixels.
        field: Part of the file that the processor kept: x0, y0, x1, y1 in pixels, x1 and y1 exclusive.
    """

    plane: np.ndarray
    shape: tuple[int, int]
    field: tuple[int, int, int, int]


def prepare_view(source: str | bytes, processor: MuraImageProcessor, name: str | None = None) -> PreparedView:
    """Reads a file or its content as `StudyPredictor` does, and applies the deterministic part of the processor.

    Raises:
        RadiographError: If it cannot be read.
    """
    pixels = read_levels(source, name=name)  # equals `MuraImageProcessor.gray_plane` of the radiograph
    field = processor.find_field(pixels)
    return PreparedView(processor.prepare_plane(pixels), (pixels.shape[0], pixels.shape[1]), field)


@dataclass(frozen=True)
class Change:
    """One drawn change. Its geometry applies to an image and to its mask.

    Attributes:
        flipped: Whether left and right are swapped.
        degrees: Rotation around the centre, counterclockwise.
        scale: Scaling factor around the centre.
        shift: Shift to the right and down, relative to width and height.
        gain: Factor of the contrast.
        offset: Change of brightness in gray levels.
        crop: Relative position of the crop, down and across, each in [0, 1). None for no crop.
        window: Relative area and aspect ratio (width over height) of a crop that is resized, or None.
        holes: Relative centre (down, across) and side of each square hole.
    """

    flipped: bool
    degrees: float
    scale: float
    shift: tuple[float, float]
    gain: float
    offset: float
    crop: tuple[float, float] | None = None
    window: tuple[float, float] | None = None
    holes: tuple[tuple[float, float, float], ...] = ()

    def place(
        self, plane: np.ndarray, size: tuple[int, int] | None = None, interpolation: int = cv2.INTER_LINEAR
    ) -> np.ndarray:
        """Applies the geometry to an image or mask, uint8 `[h, w]`; `size` is that of the crop, if one was drawn."""
        height, width = plane.shape
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), self.degrees, self.scale)
        matrix[:, 2] += self.shift[0] * width, self.shift[1] * height
        if self.crop is not None and size is not None:
            matrix = self._crop_matrix(plane.shape, size, self.crop) @ np.vstack([matrix, (0, 0, 1)])
            height, width = size
        flipped = np.ascontiguousarray(plane[:, ::-1] if self.flipped else plane)
        return cv2.warpAffine(flipped, matrix, (width, height), flags=interpolation)

    def _crop_matrix(self, shape: tuple[int, ...], size: tuple[int, int], crop: tuple[float, float]) -> np.ndarray:
        """Returns the matrix that maps the crop of an image to the output size, float64 `[2, 3]`."""
        if self.window is None:
            top, left = (int(place * (room + 1)) for place, room in zip(crop, np.subtract(shape, size), strict=True))
            return np.array([[1.0, 0, -left], [0, 1, -top]])
        area, aspect = self.window
        rows = min(shape[0], np.sqrt(area * shape[0] * shape[1] / aspect))
        columns = min(shape[1], np.sqrt(area * shape[0] * shape[1] * aspect))
        top, left = crop[0] * (shape[0] - rows), crop[1] * (shape[1] - columns)
        zoom = np.diag([size[1] / columns, size[0] / rows])
        return np.hstack([zoom, zoom @ [[0.5 - left], [0.5 - top]] - 0.5])  # centres of pixels, not corners

    def tone(self, plane: np.ndarray) -> np.ndarray:
        """Applies brightness and contrast to an image, uint8 `[h, w]`."""
        values = np.arange(256, dtype=np.float32) * np.float32(self.gain) + np.float32(self.offset)
        return cv2.LUT(plane, np.clip(np.rint(values), 0, 255).astype(np.uint8))

    def erase(self, plane: np.ndarray) -> np.ndarray:
        """Sets the holes in an image or mask, uint8 `[h, w]`, to 0."""
        if not self.holes:
            return plane
        erased, (height, width) = plane.copy(), plane.shape
        for down, across, side in self.holes:
            half = side * min(height, width) / 2
            rows = slice(max(0, round(down * height - half)), round(down * height + half))
            erased[rows, max(0, round(across * width - half)) : round(across * width + half)] = 0
        return erased


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes to a training image.

    Raises:
        ValueError: If a value is out of its range, or both ways to crop are chosen.
    """

    flip: float = field(default=0.5, metadata={"help": "Probability of a lateral inversion."})
    rotation: float = field(
        default=30.0, metadata={"help": "Largest rotation to either side, in degrees (MURA paper: 30)."}
    )
    scale: float = field(default=0.1, metadata={"help": "Largest relative change of size; .1 means .9 to 1.1."})
    shift: float = field(default=0.0, metadata={"help": "Largest shift, as a share of the side."})
    brightness: float = field(
        default=0.0, metadata={"help": "Largest change of brightness, as a share of the full range."}
    )
    contrast: float = field(default=0.0, metadata={"help": "Largest relative change of contrast."})
    random_crop: bool = field(
        default=False, metadata={"help": "Crop anywhere instead of in the center, if images are resized to more."}
    )
    resized_crop: float = field(
        default=1.0,
        metadata={"help": "Smallest share of the area that is cropped and resized (arXiv 1409.4842: .08); 1 is off."},
    )
    resized_crop_aspect: float = field(default=4 / 3, metadata={"help": "Largest change of its aspect ratio."})
    erasing: float = field(
        default=0.0, metadata={"help": "Probability that holes are blackened (cutout, arXiv 1708.04552)."}
    )
    erasing_holes: int = field(default=4, metadata={"help": "Largest number of holes."})
    erasing_side: float = field(
        default=0.2, metadata={"help": "Largest side of a hole, as a share of the image's shorter side."}
    )

    def __post_init__(self) -> None:
        ranges = {
            "flip": (0, 1), "rotation": (0, 180), "scale": (0, 0.9), "shift": (0, 1), "brightness": (0, 1),
            "contrast": (0, 1), "resized_crop": (0.01, 1), "resized_crop_aspect": (1, 4), "erasing": (0, 1),
            "erasing_holes": (1, 64), "erasing_side": (0.01, 1),
        }  # fmt: skip
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:  # also catches NaN
                raise ValueError(f"{name} is {getattr(self, name)}: it must lie in [{low}, {high}]")
        if self.random_crop and self.resized_crop < 1:
            raise ValueError("random_crop and resized_crop exclude each other; choose one")

    def draw(self, seed: int, epoch: int, index: int) -> Change:
        """Draws the change of an image, given by its row or key, equally in every worker."""
        rng = np.random.default_rng([seed, epoch, index])
        flip, *rest = rng.random(7)
        rotation, scale, right, down, brightness, contrast = (2 * value - 1 for value in rest)
        # Every number is drawn whether it is used or not, so that enabling one change does not affect the others.
        place, area, aspect, erased, holes = tuple(rng.random(2)), *rng.random(4)
        resized = self.resized_crop < 1
        centres = rng.random((self.erasing_holes, 3)) * (1, 1, self.erasing_side)
        n_holes = 1 + int(holes * self.erasing_holes) if erased < self.erasing else 0
        window = None
        if resized:
            share = self.resized_crop + area * (1 - self.resized_crop)
            window = (share, float(self.resized_crop_aspect ** (2 * aspect - 1)))
        return Change(
            flipped=bool(flip < self.flip),
            degrees=rotation * self.rotation,
            scale=1 + scale * self.scale,
            shift=(right * self.shift, down * self.shift),
            gain=1 + contrast * self.contrast,
            offset=brightness * self.brightness * 255,
            crop=(float(place[0]), float(place[1])) if resized or self.random_crop else None,
            window=window,
            holes=tuple((float(down), float(across), float(side)) for down, across, side in centres[:n_holes]),
        )


class ViewDataset(TorchDataset):
    """Single views, read and processed as `StudyPredictor` does it, with optional augmentation.

    Args:
        rows: A split of `load_mura` or another loader.
        processor: Image processor of the checkpoint.
        augmentation: Random changes for training.
        seed: Seed of the augmentation.
        patch_size: Side in pixels of a patch around a finding, or where one could be. Whole images if None.
        cache: Result of `build_pixel_cache` with the same processor. Files that it does not contain are read.
        keys: Key of each row, from which augmentation and patch are drawn together with seed and epoch. Defaults to
            the row index. Counterfactual pairs with the same key differ in the finding only.

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
        keys: Sequence[int] | None = None,
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
        self.keys = keys
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
        plane, mask = self._augment(view.plane, mask, index if self.keys is None else self.keys[index])
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
        return self.processor.prepare_mask(mask, view.field)

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
        if self.patch_size is not None:
            window = self._draw_patch(plane, mask, key)
            plane, mask = np.ascontiguousarray(plane[window]), None if mask is None else mask[window]
        elif not cropped:
            plane = self.processor.center_crop(plane)
            mask = None if mask is None else self.processor.center_crop(mask)
        if change is not None:
            plane = change.tone(plane)
            # Holes must not hide more than half of a finding.
            if mask is None or (change.erase(mask) > _SHOWN).sum() >= (mask > _SHOWN).sum() / 2:
                plane = change.erase(plane)
        return plane, mask

    def _draw_patch(self, plane: np.ndarray, mask: np.ndarray | None, key: int) -> tuple[slice, slice]:
        """Returns rows and columns of a patch with a large part of the mask, or of the body if the mask is empty."""
        assert self.patch_size is not None
        rng = np.random.default_rng([self.seed, self.epoch, key, 1])
        side = min(self.patch_size, *plane.shape)
        shown = None if mask is None else np.flatnonzero(mask > _SHOWN)
        candidates = np.flatnonzero(plane > _BODY) if shown is None or not len(shown) else shown
        centre = np.array(plane.shape) // 2
        if len(candidates):
            centre = np.array(divmod(int(candidates[rng.integers(len(candidates))]), plane.shape[1]))
        start = centre - side // 2 + np.rint(rng.uniform(-0.3, 0.3, 2) * side).astype(int)
        top, left = np.clip(start, 0, np.array(plane.shape) - side)
        return slice(int(top), int(top) + side), slice(int(left), int(left) + side)


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
