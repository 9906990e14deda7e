"""The mean of each channel of the last feature maps: what tells whether a picture is like those of training.

Whether a study is like those that a checkpoint was trained on, or should better not be answered for.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save

from ..common import replace_file
from ..errors import CheckpointError, DatasetError
from ..models import MuraImageClassifierOutput


def feature_means(output: MuraImageClassifierOutput) -> torch.Tensor:
    """Means over the places of the last feature map, whatever pooling the answer itself rests on.

    A maximum, which some checkpoints pool by, forgets all of a picture but its strongest places; the mean keeps what
    the whole of it looks like. Of FuseNet's branches and of an ensemble's members, one code stands behind the other;
    with `test_time_flip`, it is the mean of both mirror images' codes.

    Args:
        output: Of a model's `classify_views`; of a study, `StudyOutput.views`.

    Returns:
        float32 `[B, D]`, on the model's device, without a graph.

    Raises:
        CheckpointError: If the model has no such map, or views went to models of their own, whose maps do not compare.
    """
    return torch.cat([_mean(one) for one in _maps(output)], dim=1)


def _maps(output: Any) -> list[tuple[torch.Tensor, ...]]:
    """The maps, each with that of the mirror image where there is one."""
    if getattr(output, "rows", None) is not None:
        raise CheckpointError(
            "views are answered by a model for each body part, whose feature maps do not compare, so this checkpoint "
            "cannot tell whether a study is like those of training"
        )
    members = getattr(output, "members", None)
    if members is not None:
        return [one for member in members.values() for one in _maps(member)]
    if output.feature_map is None:
        raise CheckpointError(
            "this checkpoint gives no feature map, so it cannot tell whether a study is like those of training"
        )
    mirrored, local = output.mirrored_feature_map, getattr(output, "local_feature_map", None)
    maps: list[tuple[torch.Tensor, ...]] = [
        (output.feature_map,) if mirrored is None else (output.feature_map, mirrored)
    ]
    return maps if local is None else [*maps, (local,)]


def _mean(maps: tuple[torch.Tensor, ...]) -> torch.Tensor:
    means = [one.detach().float().mean((2, 3) if one.ndim == 4 else 1) for one in maps]
    return torch.stack(means).mean(0)


OOD_FILE = "in_distribution.safetensors"
"""Lies beside the weights of a checkpoint that can tell."""

FALSE_ALARM_RATE = 0.05
"""Share of studies like those of training that may be taken for strange."""

_LEAST_VIEWS_OF_CALIB = 60  # or single ones would decide about the threshold
_LEAST_VIEWS = 20  # of a group, for a mean of its own: that of a few would be the code of a patient
_TOO_FEW = ""
_MOST_DIRECTIONS = 512
_SOFT = 0.03  # of a channel's mean size: where its scale turns from linear to logarithmic


@dataclass(frozen=True)
class OODResult:
    """Whether one study is like those of training.

    Attributes:
        in_distribution: Whether it is.
        percentile: Of studies with as many views, all like calib's, the share whose strangest view is less unusual
            than this study's, in [0, 100].
        views: The same for each view alone, measured by the study's threshold.
    """

    in_distribution: bool
    percentile: float
    views: list[bool]


@dataclass(frozen=True, eq=False)
class OODDetector:
    """How the codes of training lie, and how far off views of `calib` are from them.

    Views are Gaussian around the mean of their group (body part or region), with one covariance for all: the distance
    to the nearest group that the checkpoint is for is Mahalanobis' (Lee et al., arXiv 1807.03888, equation 1). Where
    training also had groups that it is not for, such as legs, the same distance less that to the nearest of those is
    a second score (Ren et al., arXiv 2106.09022, equation 3). Codes are taken through asinh, channel by channel, so
    that rarely used channels count by how often they are used more, not by how much.

    Attributes:
        scales: float32 `[D]`, what a code is divided by before asinh.
        whitening: float32 `[D, d]`, to where the covariance is 1; `d` is at most 512, the directions that vary most.
        means: float32 `[G, d]`, of the groups, there.
        inside: bool `[G]`, which groups the checkpoint is for.
        calib: float32 `[n, K]`, scores of calib's views; K is 2 where some groups are not inside.
        weights: SHA-256 of the weights that gave the codes.
    """

    scales: np.ndarray
    whitening: np.ndarray
    means: np.ndarray
    inside: np.ndarray
    calib: np.ndarray
    weights: str

    @classmethod
    def fit(
        cls,
        codes: np.ndarray,
        groups: Sequence[str],
        outside: Sequence[str],
        calib_codes: np.ndarray,
        weights: str,
    ) -> "OODDetector":
        """Learns from the codes of training, and sets thresholds by those of calib.

        Args:
            codes: float `[n, D]`, of views of `train`, from `feature_means`.
            groups: The group of each.
            outside: The groups that the checkpoint is not for.
            calib_codes: float `[m, D]`, of views of `calib`, none of them of a group outside.
            weights: SHA-256 of the model's weights.

        Raises:
            DatasetError: If training has too few views of what the checkpoint is for, or calib too few views.
        """
        from sklearn.covariance import ledoit_wolf

        known = np.asarray([group in outside for group in groups])
        if (~known).sum() < _LEAST_VIEWS:
            raise DatasetError(
                f"train has {(~known).sum()} views of what the checkpoint is for; what is like them cannot be learned "
                f"from fewer than {_LEAST_VIEWS}"
            )
        if len(calib_codes) < _LEAST_VIEWS_OF_CALIB:
            raise DatasetError(
                f"calib has {len(calib_codes)} views of what the checkpoint is for; a threshold for when not to "
                f"answer needs {_LEAST_VIEWS_OF_CALIB}: give more studies or a larger calib_fraction"
            )
        names = _merge_small(groups, known)
        kept = names != _TOO_FEW
        codes, names = np.asarray(codes, np.float64)[kept], names[kept]
        scales = _SOFT * np.abs(codes).mean(0) + 1e-9
        soft = np.arcsinh(codes / scales)
        kinds = sorted(set(names))
        means = np.stack([soft[names == kind].mean(0) for kind in kinds])
        rest = soft - means[np.searchsorted(kinds, names)]
        deviations = rest.std(0) + 1e-9
        covariance, _ = ledoit_wolf(rest / deviations, assume_centered=True)
        values, vectors = np.linalg.eigh(covariance)
        most = slice(max(0, len(values) - _MOST_DIRECTIONS), None)
        whitening = vectors[:, most] / np.sqrt(values[most]) / deviations[:, None]
        fitted = cls(
            scales=scales.astype(np.float32),
            whitening=whitening.astype(np.float32),
            means=(means @ whitening).astype(np.float32),
            inside=np.asarray([kind.startswith("in:") for kind in kinds]),
            calib=np.zeros((0, 1), np.float32),
            weights=weights,
        )
        return cls(**{**vars(fitted), "calib": fitted.score(calib_codes)})

    def score(self, codes: np.ndarray) -> np.ndarray:
        """How unlike those of training views are, higher is stranger: float32 `[n, K]`.

        Args:
            codes: float `[n, D]`, from `feature_means`.
        """
        places = np.arcsinh(np.asarray(codes, np.float32) / self.scales) @ self.whitening
        squares = np.stack([((places - mean) ** 2).sum(1) for mean in self.means], axis=1)
        near = squares[:, self.inside].min(1)
        if self.inside.all():
            return near[:, None]
        return np.stack([near, near - squares[:, ~self.inside].min(1)], axis=1)

    def thresholds(self, n_views: int = 1) -> np.ndarray:
        """Scores above which a view of a study of so many is strange: float32 `[K]`; see `find_thresholds`."""
        return find_thresholds(self.calib, n_views)

    def detect(self, codes: np.ndarray) -> OODResult:
        """Judges one study by its strangest view.

        Args:
            codes: float `[V, D]`, of its views.
        """
        scores = self.score(codes)
        fine = np.all(scores <= self.thresholds(len(codes)), axis=1).tolist()
        # Of several scores the stranger one counts, for calib as for the study.
        known, found = self._rank(self.calib), self._rank(scores)
        less = float((known < found.max()).mean())
        return OODResult(all(fine), 100.0 * less ** len(codes), fine)

    def _rank(self, scores: np.ndarray) -> np.ndarray:
        """The most of calib's views that score lower than each view by one of its scores, int `[n]`."""
        columns = zip(self.calib.T, scores.T, strict=True)
        return np.max([np.searchsorted(np.sort(known), found) for known, found in columns], axis=0)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes `in_distribution.safetensors` into a checkpoint's folder."""
        tensors = {name: value for name, value in vars(self).items() if name != "weights"}
        tensors["inside"] = tensors["inside"].astype(np.uint8)
        whole = save({name: np.ascontiguousarray(value) for name, value in tensors.items()}, {"weights": self.weights})
        replace_file(Path(folder) / OOD_FILE, whole)

    @classmethod
    def load(cls, file: str | os.PathLike[str], weights: str) -> "OODDetector":
        """Reads what `save` wrote.

        Args:
            file: It.
            weights: SHA-256 of the weights that it is to be used with.

        Raises:
            CheckpointError: If it is damaged, holds something else, or was made for other weights.
        """
        try:
            tensors = load_file(file)
            with safe_open(file, framework="np") as opened:
                told = opened.metadata() or {}
            tensors["inside"] = tensors["inside"].astype(bool)
            found = cls(**tensors, weights=told.get("weights", ""))
            found._check()
        except Exception as error:  # a file may hold anything
            raise CheckpointError(
                f"{file} cannot be read ({error}); run scripts/calibrate.py, which writes it"
            ) from error
        if found.weights != weights:
            raise CheckpointError(f"{file} was made for other weights; run scripts/calibrate.py, which writes it anew")
        return found

    def _check(self) -> None:
        channels, directions = self.whitening.shape
        right = (
            self.scales.shape == (channels,)
            and self.means.shape == (len(self.inside), directions)
            and self.inside.any()
            and self.calib.ndim == 2
            and len(self.calib) > 0
            and self.calib.shape[1] == 2 - int(self.inside.all())
            and all(np.isfinite(one).all() for one in (self.scales, self.whitening, self.means, self.calib))
            and (self.scales > 0).all()
        )
        if not right:
            raise ValueError("its arrays do not belong together")


def find_thresholds(calib: np.ndarray, n_views: int = 1) -> np.ndarray:
    """Scores above which a view, and so its study, is strange.

    Of n + 1 views like calib's, the new one among them, at most a given share has a score above (split conformal
    prediction, Vovk et al. 2005): `FALSE_ALARM_RATE`, less where a study has more views (Šidák, as if views did
    not depend on each other), and shared equally between several scores. Where calib is too small for that, the
    highest of its scores: then up to V K / (n + 1) of the studies of V views are taken for strange.

    Args:
        calib: float `[n, K]`, scores of calib's views, higher is stranger.
        n_views: Of the study.

    Returns:
        `[K]`.
    """
    n, kinds = calib.shape
    kept = (1 - FALSE_ALARM_RATE / kinds) ** (1 / n_views)
    return np.sort(calib, axis=0)[min(n, math.ceil((n + 1) * kept)) - 1]


def _merge_small(groups: Sequence[str], outside: np.ndarray) -> np.ndarray:
    """Names of groups, "in:" or "out:" in front; those with few views are one, on either side, and where that has few
    still, `_TOO_FEW`.
    """
    names = np.asarray([f"{'out' if out else 'in'}:{group}" for group, out in zip(groups, outside, strict=True)])
    for rename in (lambda name: name.partition(":")[0] + ":", lambda name: _TOO_FEW):
        kinds, counts = np.unique(names, return_counts=True)
        small = set(kinds[counts < _LEAST_VIEWS])
        names = np.asarray([rename(name) if name in small else name for name in names])
    return names
