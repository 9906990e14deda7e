"""Which score tells best that a view is unlike those of training."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict, Image
from scipy.special import logsumexp
from sklearn.neighbors import NearestNeighbors
from tqdm.auto import tqdm

from mura_hf.evaluation.ood_detection import groups_of, in_scope, is_outside, strange_pictures
from mura_hf.evaluation.prediction_cache import file_of, spread
from mura_hf.inference import StudyPredictor
from mura_hf.radiographs import read_radiograph
from mura_hf.retrieval import OODDetector, feature_means, view_codes
from mura_hf.retrieval.ood_detection import find_thresholds

_NEIGHBOUR = 5
_BATCH = 16
_FIRST_SEED = 9_000_000  # other pictures than those that refusals are counted on
_MOST = {"train": 2000, "calib": 800, "dev": 600}


def compare_refusal_scores(
    checkpoint: str, datasets: DatasetDict, others: Mapping[str, str | Path] | None = None
) -> dict[str, Any]:
    """Compares scores, each with its own threshold from calib for the same share of false alarms, view by view.

    Scores are the Mahalanobis distance of `OODDetector`, the distance to the fifth nearest view of training (Sun et
    al., arXiv 2204.06507: codes divided by their length), both of the last maps' means (`feature_means`) and of the
    code that the answer rests on (`view_codes`), and the energy of the logits (Liu et al., arXiv 2010.03759).

    Args:
        checkpoint: Name of one of the package's own, a folder, or a Hub name.
        datasets: Splits that it was trained with; at most 2,000 views of train, 800 of calib and 600 of dev are
            taken, spread evenly.
        others: As for `measure_refusal`.

    Returns:
        Score -> `alarms` (share of dev's views that are refused), `least` (the lowest share of a kind) and `kinds`
        (name -> share refused).
    """
    predictor = StudyPredictor.from_pretrained(checkpoint)
    rows = {name: _thin(datasets[name], most) for name, most in _MOST.items()}
    strange = in_scope(rows["dev"], inside=False)
    rows |= {name: in_scope(rows[name]) for name in ("calib", "dev")}
    seen = {name: _look(predictor, _files(split), name) for name, split in rows.items()}
    kinds = {
        name: _look(predictor, pictures, name)
        for name, pictures in strange_pictures(predictor, rows["dev"], strange, others, first_seed=_FIRST_SEED).items()
    }
    scores: dict[str, Any] = {"energy": lambda one: -logsumexp(one["logits"], axis=1)[:, None]}
    groups = groups_of(rows["train"])
    outside = sorted({group for group in groups if is_outside(group)})
    inside = np.asarray([group not in outside for group in groups])
    for name in ("map", "code"):
        fitted = OODDetector.fit(seen["train"][name], groups, outside, seen["calib"][name], "")
        near = NearestNeighbors(n_neighbors=_NEIGHBOUR).fit(_unit(seen["train"][name][inside]))
        scores[f"mahalanobis, {name}"] = lambda one, fitted=fitted, name=name: fitted.score(one[name])
        scores[f"neighbour, {name}"] = lambda one, near=near, name=name: near.kneighbors(_unit(one[name]))[0][:, -1:]
    return {name: _judge(score, seen, kinds) for name, score in scores.items()}


def _judge(score: Any, seen: dict[str, Any], kinds: dict[str, Any]) -> dict[str, Any]:
    threshold = find_thresholds(score(seen["calib"]))
    refused = {name: float((score(one) > threshold).any(1).mean()) for name, one in kinds.items()}
    return {
        "alarms": float((score(seen["dev"]) > threshold).any(1).mean()),
        "least": min(refused.values()),
        "kinds": refused,
    }


def _unit(codes: np.ndarray) -> np.ndarray:
    return codes / np.linalg.norm(codes, axis=1, keepdims=True).clip(1e-12)


def _thin(rows: Dataset, most: int) -> Dataset:
    return rows.select(spread(len(rows), most))


def _files(rows: Dataset) -> list[Any]:
    pictures = rows.cast_column("image", Image(decode=False))["image"]
    return [file_of(one) for one in pictures]


@torch.no_grad()
def _look(predictor: StudyPredictor, pictures: Iterable[Any], name: str) -> dict[str, np.ndarray]:
    """Codes of the last maps, codes and logits of each picture."""
    found: dict[str, list[np.ndarray]] = {"map": [], "code": [], "logits": []}
    pictures = list(pictures)
    for first in tqdm(range(0, len(pictures), _BATCH), desc=f"Looking at {name}"):
        batch = [
            one if isinstance(one, np.ndarray) else read_radiograph(one).to_uint8()
            for one in pictures[first : first + _BATCH]
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
