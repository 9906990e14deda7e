"""Measures whether anything but the finding reveals the label of phantoms: file size, image size, number of views,
histogram, thumbnail, or the image around the finding.

Topics (10 minutes):
  giveaways  AUROC of each on the held-out studies in data/phantoms that mura-phantom is measured on, after fitting on
             1,500 other studies
"""

import json
import os
import tempfile
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from datasets import Dataset, Image
from harness import DATA, run_benchmark
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from tqdm.auto import tqdm

from mura_hf import load_mura, read_radiograph
from mura_hf.common import BUNDLED
from mura_hf.errors import DatasetError
from mura_hf.metrics import aggregate_studies, bootstrap_confidence_intervals, classification_metrics
from mura_hf.phantoms import phantom_record, write_phantom_mura

LIMITS = {
    "file size": 0.60,
    "image size": 0.60,
    "view count": 0.60,
    "histogram": 0.65,
    "thumbnail": 0.70,
    "surroundings": 0.60,
}
"""Feature -> largest AUROC that its upper 95 % bound may reach."""

_BINS, _THUMBNAIL, _SIDE = 64, 32, 96


def measure_giveaways() -> dict[str, dict[str, float]]:
    """Returns for each feature of `LIMITS` `auroc`, and `low` and `high` of its 95 % interval over patients.

    Raises:
        DatasetError: If data/phantoms is not what mura-phantom was trained on.
    """
    made = json.loads((BUNDLED["mura-phantom"] / "training.json").read_text())["data"]["made_with"]
    tree = DATA / "phantoms"
    if phantom_record(tree) != made:
        raise DatasetError(f"{tree} is not what mura-phantom was trained on; make it with the command on its card")
    with tempfile.TemporaryDirectory() as folder:
        # Other patients, and no twins, which would balance whatever else depends on the label.
        write_phantom_mura(folder, 1501, made["seed"] + 1, valid_fraction=1 / 1501, workers=os.cpu_count() or 1)
        fit, held_out = (load_mura(root, dev_fraction=0.0, calib_fraction=0.0) for root in (folder, tree))
        found = measure_leakage(fit["train"], held_out["valid"])
    return {name: {key: round(row[key], 3) for key in ("auroc", "low", "high")} for name, row in found.items()}


def measure_leakage(train: Dataset, held_out: Dataset, *, seed: int = 0, epochs: int = 8) -> dict[str, dict[str, Any]]:
    """Measures how well features that should not reveal the label of a study predict it.

    File size, image size and number of views are used as scores, in the direction that predicts better. A histogram of
    64 bins and a thumbnail of 32 x 32 pixels go through logistic regression, and images with the finding's box blanked
    ("surroundings") through a small convolutional network; these are fitted on `train`. Scores are averaged over the
    views of a study.

    Args:
        train: Rows of `load_mura` with boxes and decoys, for fitting.
        held_out: Rows of other patients, for measuring.
        seed: Seed of the network.
        epochs: Epochs of the network.

    Returns:
        Feature -> `auroc`, its 95 % interval `low` and `high` from a bootstrap over patients, `limit` and `passed`.

    Raises:
        DatasetError: If the rows have no boxes.
    """
    fit, test = _Features(train, "Reading train"), _Features(held_out, "Reading held out")
    scores = {"file size": test.file_size, "image size": test.image_size, "view count": test.view_count}
    found = {name: _verdict(test, np.asarray(values, float), name, either=True) for name, values in scores.items()}
    for name in ("histogram", "thumbnail"):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=2000))
        model.fit(np.stack(getattr(fit, name)), fit.labels)
        found[name] = _verdict(test, model.predict_proba(np.stack(getattr(test, name)))[:, 1], name)
    found["surroundings"] = _verdict(test, _network_scores(fit, test, seed, epochs), "surroundings")
    return found


class _Features:
    """Features of every view of a split."""

    def __init__(self, rows: Dataset, progress: str) -> None:
        rows = rows.cast_column("image", Image(decode=False))
        if not {"boxes", "decoys"} <= set(rows.column_names):
            raise DatasetError("the rows have no boxes and decoys, so findings cannot be blanked; use phantoms")
        self.labels = np.asarray(rows["label"])
        self.studies, self.patients = list(rows["study_id"]), list(rows["patient_id"])
        counts = dict(zip(*np.unique(self.studies, return_counts=True), strict=True))
        self.view_count = [counts[study] for study in self.studies]
        self.file_size, self.image_size, self.histogram, self.thumbnail = [], [], [], []
        self.images: list[np.ndarray] = []
        self.boxes: list[np.ndarray] = []
        for row in tqdm(rows, desc=progress, leave=False):
            pixels = read_radiograph(row["image"]["path"]).pixels
            height, width = pixels.shape
            self.file_size.append(os.path.getsize(row["image"]["path"]))
            self.image_size.append(height * width)
            self.histogram.append(np.histogram(pixels, _BINS, (0, 1))[0] / pixels.size)
            thumbnail = cv2.resize(pixels, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA)
            self.thumbnail.append(thumbnail.ravel())
            self.images.append(cv2.resize(pixels, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA))
            boxes = np.asarray(row["boxes"] or row["decoys"], float).reshape(-1, 4)
            self.boxes.append(boxes / np.array([width, height, width, height]))

    def blanked(self) -> torch.Tensor:
        """Images with the finding's box blanked, float32 `[n, 1, side, side]`.

        Without a finding its decoy is blanked, the place where a finding would have been.
        """
        blanked = np.stack(self.images)
        for image, boxes in zip(blanked, self.boxes, strict=True):
            for x0, y0, x1, y1 in np.clip(boxes, 0, 1) * _SIDE:
                image[max(int(y0) - 1, 0) : int(np.ceil(y1)) + 1, max(int(x0) - 1, 0) : int(np.ceil(x1)) + 1] = 0.5
        return torch.from_numpy(blanked[:, None].astype(np.float32))


def _verdict(features: _Features, scores: np.ndarray, name: str, *, either: bool = False) -> dict[str, Any]:
    """AUROC of studies; with `either`, in the direction that predicts better."""
    studies, means = aggregate_studies(features.studies, scores)
    first = [features.studies.index(study) for study in studies]
    labels, patients = features.labels[first], [features.patients[row] for row in first]
    ranks = np.searchsorted(np.sort(means), means, side="right") / len(means)  # metrics need values in [0, 1]
    auroc = classification_metrics(labels, ranks)["auroc"]
    if either and auroc is not None and auroc < 0.5:
        ranks, auroc = 1 - ranks, 1 - auroc
    low, high = bootstrap_confidence_intervals(labels, ranks, patients)["auroc"]
    return {"auroc": auroc, "low": low, "high": high, "limit": LIMITS[name], "passed": bool(high <= LIMITS[name])}


def _network_scores(fit: _Features, test: _Features, seed: int, epochs: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for n_in, n_out in ((1, 16), (16, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(n_in, n_out, 3, padding=1), nn.BatchNorm2d(n_out), nn.ReLU(), nn.MaxPool2d(2)]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 1))
    images, labels = fit.blanked(), torch.from_numpy(fit.labels.astype(np.float32))
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=0.02)
    steps = epochs * -(-len(images) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in tqdm(range(epochs), desc="Surroundings", leave=False):
        for chosen in torch.from_numpy(rng.permutation(len(images))).split(64):
            batch = images[chosen]
            batch = batch.flip(-1) if rng.random() < 0.5 else batch
            loss = nn.functional.binary_cross_entropy_with_logits(network(batch)[:, 0], labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()
    with torch.inference_mode():
        return torch.cat([network(batch)[:, 0] for batch in test.blanked().split(256)]).numpy()


TOPICS = {"giveaways": (measure_giveaways, None)}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    return run_benchmark(__doc__, TOPICS, argv)


if __name__ == "__main__":
    main()
