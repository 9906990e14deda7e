"""Does anything but the finding tell the label? Small classifiers that must fail on honest pictures."""

import os
from typing import Any

import cv2
import numpy as np
import torch
from datasets import Dataset, Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from tqdm.auto import tqdm

from ..errors import DatasetError
from ..metrics import bootstrap_confidence_intervals, classification_metrics
from ..radiographs import read_radiograph
from ..training.prediction import SplitPredictions

LIMITS = {
    "file size": 0.60,
    "image size": 0.60,
    "view count": 0.60,
    "histogram": 0.65,
    "thumbnail": 0.70,
    "surroundings": 0.60,
}
"""Give-away -> the AUROC that its upper 95 % bound must not pass."""

_BINS, _THUMBNAIL, _SIDE = 64, 32, 96


class _Facts:
    """What the give-aways are made of, for every view of a split."""

    def __init__(self, rows: Dataset, progress: str) -> None:
        rows = rows.cast_column("image", Image(decode=False))
        if not {"boxes", "decoys"} <= set(rows.column_names):
            raise DatasetError("the rows have no boxes and decoys, so that findings cannot be blanked; use phantoms")
        self.labels = np.asarray(rows["label"])
        self.studies, self.patients = list(rows["study_id"]), list(rows["patient_id"])
        self.parts = np.asarray(rows["body_part"])
        counts = dict(zip(*np.unique(self.studies, return_counts=True), strict=True))
        self.file_size, self.image_size, self.histogram, self.thumbnail = [], [], [], []
        self.pictures: list[np.ndarray] = []
        self.boxes: list[np.ndarray | None] = []
        for row in tqdm(rows, desc=progress, leave=False):
            pixels = read_radiograph(row["image"]["path"]).pixels
            height, width = pixels.shape
            self.file_size.append(os.path.getsize(row["image"]["path"]))
            self.image_size.append(height * width)
            self.histogram.append(np.histogram(pixels, _BINS, (0, 1))[0] / pixels.size)
            thumbnail = cv2.resize(pixels, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA)
            self.thumbnail.append(thumbnail.ravel())
            self.pictures.append(cv2.resize(pixels, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA))
            whole = np.array([width, height, width, height])
            boxes = row["boxes"] or row["decoys"]
            self.boxes.append(np.asarray(boxes) / whole if boxes else None)
        self.view_count = [counts[study] for study in self.studies]

    def by_study(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Mean scores, labels and patients of the studies."""
        views = SplitPredictions(scores, self.labels, self.studies, self.patients, self.parts, None)
        means, labels, patients, _ = zip(*views.by_study().values(), strict=True)
        return np.asarray(means), np.asarray(labels), list(patients)

    def blanked(self) -> np.ndarray:
        """Pictures with the finding's box blanked, float32 `[n, 1, side, side]`; where there is none, its decoy: the
        place where a finding would have been.
        """
        blanked = np.stack(self.pictures)
        for picture, boxes in zip(blanked, self.boxes, strict=True):
            for x0, y0, x1, y1 in np.clip([] if boxes is None else boxes, 0, 1) * _SIDE:
                picture[max(int(y0) - 1, 0) : int(np.ceil(y1)) + 1, max(int(x0) - 1, 0) : int(np.ceil(x1)) + 1] = 0.5
        return blanked[:, None].astype(np.float32)


def measure_giveaways(
    train: Dataset, held_out: Dataset, *, seed: int = 0, epochs: int = 8
) -> dict[str, dict[str, Any]]:
    """Measures how well a study's label can be told from what should not tell it.

    File size, image size and view count are ranked as they are, in whichever direction tells more. A 64-bin histogram
    and a thumbnail of 32 x 32 pixels go through logistic regression, and pictures with the finding's box blanked
    through a small convolutional network; they are fitted on `train`. All scores are averaged over a study's views.

    Args:
        train: Rows of `load_mura` with boxes and decoys, for fitting.
        held_out: Rows of other patients, for measuring.
        seed: Of the network.
        epochs: Of the network.

    Returns:
        Name -> `auroc`, its 95 % interval `low` and `high` from a bootstrap over patients, `limit`, `passed`.

    Raises:
        DatasetError: If the rows have no boxes.
    """
    fit, test = _Facts(train, "Reading train"), _Facts(held_out, "Reading held out")
    scores = {
        name: np.asarray(getattr(test, name.replace(" ", "_")), float)
        for name in ("file size", "image size", "view count")
    }
    for name in ("histogram", "thumbnail"):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=2000))
        model.fit(np.stack(getattr(fit, name)), fit.labels)
        scores[name] = model.predict_proba(np.stack(getattr(test, name)))[:, 1]
    scores["surroundings"] = _network_scores(fit, test, seed, epochs)
    return {
        name: _verdict(test, values, LIMITS[name], direct=name.endswith(("size", "count")))
        for name, values in scores.items()
    }


def _verdict(facts: _Facts, scores: np.ndarray, limit: float, *, direct: bool) -> dict[str, Any]:
    means, labels, patients = facts.by_study(scores)
    ranks = np.searchsorted(np.sort(means), means, side="right") / len(means)  # figures want values in [0, 1]
    auroc = classification_metrics(labels, ranks)["auroc"]
    if direct and auroc is not None and auroc < 0.5:
        ranks = 1 - ranks
        auroc = 1 - auroc
    low, high = bootstrap_confidence_intervals(labels, ranks, patients)["auroc"]
    return {"auroc": auroc, "low": low, "high": high, "limit": limit, "passed": bool(high <= limit)}


def _network_scores(fit: _Facts, test: _Facts, seed: int, epochs: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inside, out in ((1, 16), (16, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(inside, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(), nn.MaxPool2d(2)]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 1))
    pictures, labels = torch.from_numpy(fit.blanked()), torch.from_numpy(fit.labels.astype(np.float32))
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=0.02)
    steps = epochs * -(-len(pictures) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in tqdm(range(epochs), desc="Surroundings", leave=False):
        for chosen in torch.from_numpy(rng.permutation(len(pictures))).split(64):
            batch = pictures[chosen]
            batch = batch.flip(-1) if rng.random() < 0.5 else batch
            loss = nn.functional.binary_cross_entropy_with_logits(network(batch)[:, 0], labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()
    with torch.inference_mode():
        return torch.cat([network(batch)[:, 0] for batch in torch.from_numpy(test.blanked()).split(256)]).numpy()
