"""Cache of predictions and measurements: evaluating the same checkpoint and split again needs no forward pass."""

import hashlib
import io
import json
import os
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from datasets import Dataset, Image
from transformers import AutoModelForImageClassification

from ..common import home_folder, replace_file
from ..data import UNKNOWN_PART, ViewDataset
from ..models import MuraImageProcessor
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
        cache_dir: Folder of the cache; default `predictions` in `home_folder()`. Its files may be deleted at any time.
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
        self.cache_dir = Path(cache_dir) if cache_dir is not None else home_folder() / "predictions"
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
