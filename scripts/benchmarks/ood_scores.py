"""Compares scores for detecting images that are out of distribution.

Topics (20 minutes):
  refusal  for mura-phantom (with data/phantoms) and mura-film (with data/fracatlas): share of out-of-distribution
           images that each score detects at the same share of false alarms, by kind of image
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict, Image
from harness import DATA, ROOT, run_benchmark
from scipy.special import logsumexp
from sklearn.neighbors import NearestNeighbors
from tqdm.auto import tqdm

from mura_hf import StudyPredictor, read_radiograph
from mura_hf.common import BUNDLED
from mura_hf.errors import DatasetError
from mura_hf.evaluation import load_splits
from mura_hf.evaluation.ood_detection import N_IMAGES, ood_images
from mura_hf.evaluation.splits import (
    groups_of,
    image_source,
    is_outside,
    rows_in_scope,
    rows_out_of_scope,
    spread_indices,
)
from mura_hf.retrieval import OODDetector, feature_means, find_thresholds, view_codes

sys.path.append(str(ROOT / "scripts"))
from unrelated.images import KINDS, render_unrelated

_NEIGHBOUR = 5
_BATCH = 16
_FIRST_SEED = 9_000_000  # other images than those of the evaluation
_MOST = {"train": 2000, "calib": 800, "dev": 600}


def measure_ood_scores() -> dict[str, Any]:
    """Compares the scores for each bundled checkpoint whose training data are there.

    Raises:
        DatasetError: If neither is.
    """
    films = {"FracAtlas": DATA / "fracatlas" / "images"} if (DATA / "fracatlas").is_dir() else {}
    report = {}
    for name, tree, others in (("mura-phantom", "phantoms", films), ("mura-film", "fracatlas", {})):
        if (DATA / tree).is_dir():
            datasets, _ = load_splits(BUNDLED[name], DATA / tree, "calib")
            report[name] = compare_scores(name, datasets, others)
    if not report:
        raise DatasetError(f"{DATA} holds neither phantoms nor fracatlas; put the training data of a checkpoint there")
    return report


def compare_scores(
    checkpoint: str, datasets: DatasetDict, others: Mapping[str, str | Path] | None = None
) -> dict[str, Any]:
    """Compares scores view by view. Each has its own threshold, from calib, for the same share of false alarms.

    Scores are the Mahalanobis distance of `OODDetector`, the distance to the fifth nearest view of training (Sun et
    al., arXiv 2204.06507: codes of length 1), both of the means of the last feature map (`feature_means`) and of the
    code that the classifier uses (`view_codes`), and the energy of the logits (Liu et al., arXiv 2010.03759).

    Args:
        checkpoint: Bundled name, folder, or Hub name.
        datasets: The splits that it was trained with. At most 2,000 views of train, 800 of calib and 600 of dev are
            taken, evenly spread.
        others: Folders of further out-of-distribution images by name.

    Returns:
        Score -> `alarms` (share of dev's views detected), `least` (lowest share of a kind) and `kinds` (name -> share
        detected).
    """
    predictor = StudyPredictor.from_pretrained(checkpoint)
    rows = {name: datasets[name].select(spread_indices(len(datasets[name]), most)) for name, most in _MOST.items()}
    outside_scope = rows_out_of_scope(rows["dev"])
    rows |= {name: rows_in_scope(rows[name]) for name in ("calib", "dev")}
    inside = {name: _compute_codes(predictor, _files(split), name) for name, split in rows.items()}
    foreign = ood_images(predictor, rows["dev"], outside_scope, others, first_seed=_FIRST_SEED)
    seeds = range(_FIRST_SEED, _FIRST_SEED + N_IMAGES)
    foreign |= {kind: [render_unrelated(seed, kind) for seed in seeds] for kind in KINDS}
    kinds = {name: _compute_codes(predictor, images, name) for name, images in foreign.items()}
    groups = groups_of(rows["train"])
    outside_groups = sorted({group for group in groups if is_outside(group)})
    in_scope_rows = np.asarray([group not in outside_groups for group in groups])
    scores: dict[str, Any] = {"energy": lambda codes: -logsumexp(codes["logits"], axis=1)[:, None]}
    for name in ("map", "code"):
        fitted = OODDetector.fit(inside["train"][name], groups, outside_groups, inside["calib"][name], "")
        nearest = NearestNeighbors(n_neighbors=_NEIGHBOUR).fit(_unit(inside["train"][name][in_scope_rows]))
        scores[f"mahalanobis, {name}"] = lambda codes, fitted=fitted, name=name: fitted.score(codes[name])
        scores[f"neighbour, {name}"] = lambda codes, nearest=nearest, name=name: nearest.kneighbors(
            _unit(codes[name])
        )[0][:, -1:]
    report = {}
    for name, score in scores.items():
        threshold = find_thresholds(score(inside["calib"]))
        detected = {kind: float((score(codes) > threshold).any(1).mean()) for kind, codes in kinds.items()}
        alarms = float((score(inside["dev"]) > threshold).any(1).mean())
        report[name] = {"alarms": alarms, "least": min(detected.values()), "kinds": detected}
    return report


def _unit(codes: np.ndarray) -> np.ndarray:
    return codes / np.linalg.norm(codes, axis=1, keepdims=True).clip(1e-12)


def _files(rows: Dataset) -> list[Any]:
    return [image_source(image) for image in rows.cast_column("image", Image(decode=False))["image"]]


@torch.no_grad()
def _compute_codes(predictor: StudyPredictor, images: Iterable[Any], name: str) -> dict[str, np.ndarray]:
    """Means of the last feature map (`map`), codes (`code`) and `logits` of each image."""
    found: dict[str, list[np.ndarray]] = {"map": [], "code": [], "logits": []}
    images = list(images)
    for first in tqdm(range(0, len(images), _BATCH), desc=f"Codes of {name}"):
        batch = [
            image if isinstance(image, np.ndarray) else read_radiograph(image).to_uint8()
            for image in images[first : first + _BATCH]
        ]
        pixel_values = predictor.processor(images=batch, return_tensors="pt")["pixel_values"]
        output = predictor.model.classify_views(pixel_values.to(predictor.model.device))
        for key, values in (
            ("map", feature_means(output)),
            ("code", view_codes(predictor.model, output)),
            ("logits", output.logits),
        ):
            found[key].append(values.float().cpu().numpy())
    return {key: np.concatenate(values) for key, values in found.items()}


TOPICS = {"refusal": (measure_ood_scores, None)}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    return run_benchmark(__doc__, TOPICS, argv)


if __name__ == "__main__":
    main()
