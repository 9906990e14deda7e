"""Cache of predictions and measurements: evaluating the same checkpoint and split again needs no forward pass."""

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from datasets import Dataset, Image
from transformers import AutoModelForImageClassification

from ..common import LOWER_LIMB, home_folder, replace_file
from ..data import UNKNOWN_PART, ViewDataset
from ..data.open_data import REGION_GROUPS
from ..models import BODY_PARTS, MuraImageProcessor
from ..models.golden_mura import digest_files, digest_weights
from ..training import SplitPredictions, predict_views

_POSTPROCESSING_FIELDS = (
    "study_slope", "study_intercept", "operating_points", "default_operating_point", "bands",
    "positive_class_description", "abnormal_means", "has_ood_detector",
)  # fmt: skip
"""Config fields that do not affect the predictions of views."""

_LIBRARIES = (
    "torch", "torchvision", "timm", "transformers", "numpy", "scipy", "pillow", "opencv-python-headless", "captum",
    "pydicom", "imagecodecs", "numba",
)  # fmt: skip

_SCOPE = REGION_GROUPS["upper limb"]
_UNKNOWN = "any"

_ARRAYS = ("probabilities", "predicted_parts", "predicted_regions", "single_view_probabilities")


class PredictionCache:
    """Predictions of one checkpoint on one split.

    Entries are stored under a digest of everything that they depend on: weights, config and processor, the split's
    files (path, size and time) and labels, the code of this package, the versions of libraries, and the type of
    device.

    Args:
        checkpoint: Folder of the checkpoint.
        rows: The split.
        accelerator: Where the model runs.
        batch_size: Number of views per step.
        cache_dir: Folder of the cache; default `answers` in `home_folder()`. Its files may be deleted at any time.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        rows: Dataset,
        accelerator: Accelerator,
        *,
        batch_size: int = 32,
        cache_dir: str | Path | None = None,
    ) -> None:
        self.checkpoint = Path(checkpoint)
        self.rows = rows
        self.accelerator = accelerator
        self.batch_size = batch_size
        self.cache_dir = Path(cache_dir) if cache_dir is not None else home_folder() / "answers"
        self.weights_sha256 = digest_weights(self.checkpoint)
        self._split = digest_rows(rows)

    def predict(self, *, temperature: float | None = None, progress: str = "Predicting") -> SplitPredictions:
        """Returns the predictions for all views.

        `temperature` replaces the temperature in the config; `progress` is the text of the progress bar.
        """
        config = self._config()
        if temperature is not None:
            config["temperature"] = temperature
        for name in _POSTPROCESSING_FIELDS:
            config.pop(name, None)
        file = self._file("predictions", config, "npz")
        if file.is_file():
            return _read(file, self.rows)
        model = AutoModelForImageClassification.from_pretrained(self.checkpoint)
        if temperature is not None:
            model.config.temperature = temperature
        predictions = predict_views(
            self.accelerator.prepare_model(model, evaluation_mode=True),
            ViewDataset(self.rows, MuraImageProcessor.from_pretrained(self.checkpoint)),
            self.accelerator,
            batch_size=self.batch_size,
            progress=progress,
        )
        if self.accelerator.is_main_process:
            arrays: dict[str, Any] = {name: getattr(predictions, name) for name in _ARRAYS}
            if predictions.pooled is not None:
                arrays |= {"studies": list(predictions.pooled), "pooled": list(predictions.pooled.values())}
            buffer = io.BytesIO()
            np.savez(buffer, **{name: values for name, values in arrays.items() if values is not None})
            _store(file, buffer.getvalue())
        return predictions

    def measure_once(self, name: str, settings: dict[str, Any], measure: Callable[[], Any]) -> Any:
        """Returns the JSON-serialisable result of `measure`, from the cache if it was measured before.

        `settings` is everything that it depends on besides checkpoint and split.
        """
        file = self._file(name, {"config": self._config(), **settings}, "json")
        if file.is_file():
            return json.loads(file.read_text())
        result = json.loads(json.dumps(measure()))
        _store(file, json.dumps(result).encode())
        return result

    def _config(self) -> dict[str, Any]:
        return json.loads((self.checkpoint / "config.json").read_text())

    def _file(self, name: str, settings: dict[str, Any], suffix: str) -> Path:
        key = {
            "name": name,
            "settings": settings,
            "weights": self.weights_sha256,
            "processor": digest_files([self.checkpoint / "preprocessor_config.json"]),
            "split": self._split,
            "code": _digest_code(),
            "libraries": {name: _version(name) for name in _LIBRARIES},
            "device": self.accelerator.device.type,
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return self.cache_dir / f"{name}-{digest[:32]}.{suffix}"


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def digest_rows(rows: Dataset) -> str:
    """Computes a digest of a split: its columns, and its files by path, size and time (by content if in memory)."""
    digest = hashlib.sha256()
    plain = [name for name in rows.column_names if name != "image"]
    for values in zip(*(rows[name] for name in plain), strict=True):
        digest.update(repr(values).encode())
    for image in rows.select_columns(["image"]).cast_column("image", Image(decode=False)):
        path, content = image["image"]["path"], image["image"]["bytes"]
        if content is None:
            status = os.stat(path)
            digest.update(repr((os.path.abspath(path), status.st_size, status.st_mtime_ns)).encode())
        else:
            digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


@cache
def _digest_code() -> str:
    return digest_files(sorted(Path(__file__).parents[1].rglob("*.py")))


def _store(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, content)


def _read(file: Path, rows: Dataset) -> SplitPredictions:
    with np.load(file) as arrays:
        pooled = None
        if "pooled" in arrays:
            pooled = dict(zip(arrays["studies"].tolist(), arrays["pooled"].tolist(), strict=True))
        return SplitPredictions(
            labels=np.asarray(rows["label"]),
            study_ids=list(rows["study_id"]),
            patient_ids=list(rows["patient_id"]),
            body_parts=np.asarray([UNKNOWN_PART if part is None else part for part in rows["body_part"]]),
            pooled=pooled,
            **{name: arrays.get(name) for name in _ARRAYS},
        )


def spread_indices(n: int, most: int) -> np.ndarray:
    """Returns at most `most` different indices below `n`, evenly spaced and ascending: int64."""
    return np.unique(np.linspace(0, n - 1, min(most, n)).astype(int))


def body_part_of(row: dict[str, Any]) -> str | None:
    """Returns the name of a row's body part; None if it is unknown."""
    return None if row["body_part"] is None else BODY_PARTS[row["body_part"]]


def image_source(image: dict[str, Any]) -> Any:
    """Returns the path of an image of the column `image` with `Image(decode=False)`, or its bytes if it has these."""
    return image["path"] if image["bytes"] is None else image["bytes"]


def has_regions(rows: Dataset) -> bool:
    """Returns whether the rows say which regions of the body they show."""
    return "region" in rows.column_names and any(rows["region"])


def region_members(shown: Iterable[str | None]) -> dict[str, np.ndarray]:
    """Returns name in `REGION_GROUPS` -> which of `shown` (regions joined by "+") have a region of it, bool `[n]`."""
    sets = [set((regions or "").split("+")) for regions in shown]
    return {name: np.asarray([bool(one & set(group)) for one in sets]) for name, group in REGION_GROUPS.items()}


def groups_of(rows: Dataset) -> list[str]:
    """Returns the group of each row: the first region of the upper limb that it shows, else the first of all regions.

    Rows without regions are grouped by body part.
    """
    if has_regions(rows):
        shown = [(region or _UNKNOWN).split("+") for region in rows["region"]]
        return [next((region for region in regions if region in _SCOPE), regions[0]) for regions in shown]
    return [body_part_of({"body_part": part}) or _UNKNOWN for part in rows["body_part"]]


def is_outside(group: str) -> bool:
    """Returns whether a group from `groups_of` shows nothing of the upper limb."""
    return group in LOWER_LIMB


def in_scope(rows: Dataset, *, inside: bool = True) -> Dataset:
    """Selects the rows that checkpoints of this package are for, or the other rows if not `inside`.

    They show something of the upper limb. If the rows do not say which region they show, all are in scope.
    """
    return rows.select([index for index, group in enumerate(groups_of(rows)) if is_outside(group) != inside])


def scope_of(rows: Dataset) -> Dataset:
    """Selects the rows that figures and calibration are for: those `in_scope`, or all rows if none is."""
    inside = in_scope(rows)
    return inside if len(inside) else rows
