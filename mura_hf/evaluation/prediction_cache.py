"""Rows to look at, and the files of their views.

What a checkpoint says of a split, kept on this machine: a second look costs no forward pass.
The golden check of a checkpoint: made of a phantom, so that it can be passed on whatever the weights have seen.
"""

import hashlib
import io
import json
import os
from collections.abc import Callable
from functools import cache, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from datasets import Dataset, Image
from transformers import AutoModelForImageClassification

from ..common import replace_file
from ..data import UNKNOWN_PART, ViewDataset, home_folder
from ..models import BODY_PARTS, MuraImageProcessor, write_golden
from ..models.golden_mura import digest_files, digest_weights
from ..phantoms import render_phantom
from ..training import SplitPredictions, predict_views


def spread(n: int, most: int) -> np.ndarray:
    """Places in `range(n)`, at most so many, spread evenly: int64, each once and in order."""
    return np.unique(np.linspace(0, n - 1, min(most, n)).astype(int))


def file_of(image: dict[str, Any]) -> Any:
    """What a reader takes of a view that is not decoded: its path, or its content where it has none.

    Args:
        image: Of the column `image`, cast to `Image(decode=False)`.
    """
    return image["path"] if image["bytes"] is None else image["bytes"]


_LATER = ("study_slope", "study_intercept", "operating_points", "positive_class_description", "abnormal_means")
"""Of a config: what acts on answers, not on predictions."""

_LIBRARIES = (
    "torch", "torchvision", "timm", "transformers", "numpy", "scipy", "pillow", "opencv-python-headless", "captum",
    "pydicom", "imagecodecs", "numba",
)  # fmt: skip


class KeptAnswers:
    """A checkpoint and a split of data.

    Answers lie under a digest of all that they depend on: weights, config, processor, the split's files (their paths,
    sizes and times) and labels, this package's code and the libraries that compute them, and the kind of device.

    Args:
        checkpoint: Folder of the checkpoint.
        rows: The split.
        accelerator: Where it runs.
        batch_size: Views a step.
        cache_dir: Where answers are kept; `answers` in `home_folder()` where None. Old ones may be removed at any
            time.
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
        self.weights = digest_weights(self.checkpoint)
        self._split = digest_rows(rows)

    def predict(self, *, temperature: float | None = None, progress: str = "Predicting") -> SplitPredictions:
        """What the checkpoint says of each view.

        Args:
            temperature: Instead of the config's.
            progress: Text of the progress bar.
        """
        config = json.loads((self.checkpoint / "config.json").read_text())
        if temperature is not None:
            config["temperature"] = temperature
        file = self._file("predictions", {name: value for name, value in config.items() if name not in _LATER}, "npz")
        if file.is_file():
            return _read(file, self.rows)
        model = AutoModelForImageClassification.from_pretrained(self.checkpoint)
        if temperature is not None:
            model.config.temperature = temperature
        found = predict_views(
            self.accelerator.prepare_model(model, evaluation_mode=True),
            ViewDataset(self.rows, MuraImageProcessor.from_pretrained(self.checkpoint)),
            self.accelerator,
            batch_size=self.batch_size,
            progress=progress,
        )
        if self.accelerator.is_main_process:
            _write(file, found)
        return found

    def record(self, name: str, settings: dict[str, Any], measure: Callable[[], Any]) -> Any:
        """What `measure` gives, plain values; from before where the same was measured with the same settings.

        Args:
            name: Of what is measured.
            settings: All that it depends on beside checkpoint and split.
            measure: Computes it.
        """
        config = json.loads((self.checkpoint / "config.json").read_text())
        file = self._file(name, {"config": config, **settings}, "json")
        if file.is_file():
            return json.loads(file.read_text())
        found = json.loads(json.dumps(measure()))
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, json.dumps(found).encode())
        return found

    def _file(self, what: str, settings: dict[str, Any], ending: str) -> Path:
        known = {
            "what": what,
            "settings": settings,
            "weights": self.weights,
            "processor": digest_files([self.checkpoint / "preprocessor_config.json"]),
            "split": self._split,
            "code": _digest_code(),
            "libraries": {name: version(name) for name in _LIBRARIES},
            "device": self.accelerator.device.type,
        }
        digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
        return self.cache_dir / f"{what}-{digest[:32]}.{ending}"


def digest_rows(rows: Dataset) -> str:
    """A digest of a split: its files, by path, size and time (by content where they have no path), and its columns."""
    digest = hashlib.sha256()
    plain = [name for name in rows.column_names if name != "image"]
    for values in zip(*(rows[name] for name in plain), strict=True):
        digest.update(repr(values).encode())
    for image in rows.select_columns(["image"]).cast_column("image", Image(decode=False)):
        path, content = image["image"]["path"], image["image"]["bytes"]
        if content is None:
            found = os.stat(path)
            digest.update(repr((os.path.abspath(path), found.st_size, found.st_mtime_ns)).encode())
        else:
            digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


@cache
def _digest_code() -> str:
    """Of this package: whatever of it changes may change what is measured."""
    return digest_files(sorted(Path(__file__).parents[1].rglob("*.py")))


def _write(file: Path, found: SplitPredictions) -> None:
    arrays: dict[str, Any] = {"probabilities": found.probabilities}
    if found.found_parts is not None:
        arrays["found_parts"] = found.found_parts
    if found.pooled is not None:
        arrays["single_view_probabilities"] = found.single_view_probabilities
        arrays |= {"studies": np.asarray(list(found.pooled)), "pooled": np.asarray(list(found.pooled.values()))}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, buffer.getvalue())


def _read(file: Path, rows: Dataset) -> SplitPredictions:
    with np.load(file) as arrays:
        pooled = None
        if "pooled" in arrays:
            pooled = dict(zip(arrays["studies"].tolist(), arrays["pooled"].tolist(), strict=True))
        return SplitPredictions(
            probabilities=arrays["probabilities"],
            labels=np.asarray(rows["label"]),
            study_ids=list(rows["study_id"]),
            patient_ids=list(rows["patient_id"]),
            body_parts=np.asarray([UNKNOWN_PART if part is None else part for part in rows["body_part"]]),
            found_parts=arrays.get("found_parts"),
            pooled=pooled,
            single_view_probabilities=arrays.get("single_view_probabilities"),
        )


GOLDEN_SEED = 820_000
_PART = "wrist"


@lru_cache(maxsize=len(BODY_PARTS))
def golden_picture(body_part: str = _PART) -> np.ndarray:
    """The phantom of every golden check, uint8 `[H, W]`, not to be written to."""
    picture = render_phantom(GOLDEN_SEED, body_part=body_part, finding="displaced_fracture").pixels
    picture.setflags(write=False)  # kept for the next one who asks
    return picture


def make_golden(folder: str | Path) -> None:
    """Writes `golden.safetensors` beside a checkpoint's weights; to be done again when weights or calibration change.

    Args:
        folder: The checkpoint.
    """
    model = AutoModelForImageClassification.from_pretrained(folder)
    # Of a part that every model knows: one for single parts may lack the others.
    part = next(iter(getattr(model, "members", None) or [_PART])) if model.NEEDS_PART else _PART
    processor = MuraImageProcessor.from_pretrained(folder)
    write_golden(folder, model, processor, golden_picture(part).copy(), BODY_PARTS.index(part))
