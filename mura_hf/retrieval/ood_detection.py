"""Out-of-distribution detection: does a study look like those that the checkpoint was trained on?"""

import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save

from ..common import replace_file, require_extra
from ..errors import CheckpointError, DatasetError

OOD_FILE = "in_distribution.safetensors"
"""File of the detector, beside the weights of a checkpoint."""

FALSE_ALARM_RATE = 0.05
"""Share of studies like those of training that may be called out of distribution."""

MIN_CALIB_VIEWS = 60  # with fewer, single views would determine the threshold
_MIN_GROUP_VIEWS = 20  # with fewer, a group mean would be the code of a single patient
_MAX_DIRECTIONS = 512
_SOFTENING = 1.0  # share of a channel's mean size at which its scale turns from linear to logarithmic


@dataclass(frozen=True)
class OODResult:
    """Whether one study is like those of training."""

    in_distribution: bool  # whether it is
    # How unusual the study is: the share of in-distribution studies with as many views whose most unusual view is
    # less unusual than that of this study, in [0, 100]
    percentile: float
    views: list[bool]  # whether each view is like those of training, at the threshold of a study of this view alone
    # Whether the views that are not are like those of groups that the checkpoint is not made for
    like_outside: bool = False


@dataclass(frozen=True, eq=False)
class OODDetector:
    """Distribution of the codes of training, and scores of the views of `calib`.

    The views of each group (body part or region) are modelled as a Gaussian, with one covariance for all groups. The
    first score is the Mahalanobis distance to the nearest group that the checkpoint is made for (Lee et al., arXiv
    1807.03888, equation 1). If training also had groups that it is not made for, such as legs, the second score is
    that distance minus the distance to the nearest of those (Ren et al., arXiv 2106.09022, equation 3). Codes are
    transformed by asinh per channel, so that rarely active channels do not dominate by their size.
    """

    scales: np.ndarray  # divisor of each channel before asinh, float32 `[D]`
    whitening: np.ndarray  # projection to at most 512 directions with unit covariance, float32 `[D, d]`
    means: np.ndarray  # projected group means, float32 `[G, d]`
    inside: np.ndarray  # whether the checkpoint is made for each group, bool `[G]`
    calib: np.ndarray  # scores of the views of calib, float32 `[n, K]`; K is 2 if some groups are not inside, else 1
    weights: str  # SHA-256 of the weights that gave the codes

    @classmethod
    def fit(
        cls,
        codes: np.ndarray,
        groups: Sequence[str],
        outside: Sequence[str],
        calib_codes: np.ndarray,
        weights: str,
    ) -> "OODDetector":
        """Fits the distribution to views of training, and the thresholds to views of calib.

        Args:
            codes: `feature_means` of views of `train`, float `[n, D]`.
            groups: Group of each view.
            outside: Groups that the checkpoint is not made for.
            calib_codes: `feature_means` of views of `calib`, float `[m, D]`, none of them from a group in `outside`.
            weights: SHA-256 of the model's weights.

        Raises:
            DatasetError: If train or calib have too few views.
            ImportError: If scikit-learn is not installed (extra `train`).
        """
        require_extra("train", "sklearn")
        from sklearn.covariance import ledoit_wolf

        is_outside = np.asarray([group in outside for group in groups])
        if (~is_outside).sum() < _MIN_GROUP_VIEWS:
            raise DatasetError(
                f"train has {(~is_outside).sum()} views of what the checkpoint is for; out-of-distribution detection "
                f"needs at least {_MIN_GROUP_VIEWS}"
            )
        if len(calib_codes) < MIN_CALIB_VIEWS:
            raise DatasetError(
                f"calib has {len(calib_codes)} views of what the checkpoint is for; an out-of-distribution threshold "
                f"needs at least {MIN_CALIB_VIEWS}: give more studies or a larger calib_fraction"
            )
        # Small groups of either side are merged; if the merged group is small as well, it is left out.
        sizes, names = Counter(groups), []
        for group in groups:
            side = "out:" if group in outside else "in:"
            names.append(side + group if sizes[group] >= _MIN_GROUP_VIEWS else side)
        sizes = Counter(names)
        kept = np.asarray([sizes[name] >= _MIN_GROUP_VIEWS for name in names])
        codes, names = np.asarray(codes, np.float64)[kept], np.asarray(names)[kept]
        scales = _SOFTENING * np.abs(codes).mean(0) + 1e-9
        transformed = np.arcsinh(codes / scales)
        kinds = sorted(set(names))
        means = np.stack([transformed[names == kind].mean(0) for kind in kinds])
        residuals = transformed - means[np.searchsorted(kinds, names)]
        deviations = residuals.std(0) + 1e-9
        covariance, _ = ledoit_wolf(residuals / deviations, assume_centered=True)
        values, vectors = np.linalg.eigh(covariance)
        largest = slice(max(0, len(values) - _MAX_DIRECTIONS), None)
        whitening = vectors[:, largest] / np.sqrt(values[largest]) / deviations[:, None]
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
        """Returns how unusual views with these `feature_means` are, float32 `[n, K]`; higher is more unusual."""
        projected = np.arcsinh(np.asarray(codes, np.float32) / self.scales) @ self.whitening
        squares = np.stack([((projected - mean) ** 2).sum(1) for mean in self.means], axis=1)
        near = squares[:, self.inside].min(1)
        if self.inside.all():
            return near[:, None]
        return np.stack([near, near - squares[:, ~self.inside].min(1)], axis=1)

    def thresholds(self, n_views: int = 1) -> np.ndarray:
        """Returns the largest scores `[K]` that are in distribution, for a view of a study with `n_views` views."""
        return find_thresholds(self.calib, n_views)

    def detect(self, codes: np.ndarray) -> OODResult:
        """Classifies one study by the most unusual of its views, from their `feature_means` `[V, D]`.

        The thresholds of a study rise with the number of its views, for the same share of false alarms per study. A
        view above those of a single view is therefore named although the study may be in distribution; if all views
        are, the study is not.
        """
        scores = self.score(codes)
        alone, limits = self.thresholds(), self.thresholds(len(codes))
        usual, views = (np.all(scores <= one, axis=1) for one in (alone, limits))
        like_outside = False
        if not self.inside.all():
            outside = scores[:, 0] - scores[:, 1]  # distance to the nearest of these groups
            like_outside = bool((views | (outside <= limits[0])).all())
        # Of several scores the more unusual one counts, for calib as for the study.
        known, found = (
            np.max([np.searchsorted(np.sort(column), one) for column, one in zip(self.calib.T, of.T, strict=True)], 0)
            for of in (self.calib, scores)
        )
        share = float((known < found.max()).mean())
        in_distribution = bool(views.all() and usual.any())
        return OODResult(in_distribution, 100.0 * share ** len(codes), usual.tolist(), like_outside)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes the detector into the folder of a checkpoint, and marks its config.json (`has_ood_detector`)."""
        tensors = {name: value for name, value in vars(self).items() if name != "weights"}
        tensors["inside"] = tensors["inside"].astype(np.uint8)
        content = save(
            {name: np.ascontiguousarray(value) for name, value in tensors.items()}, {"weights": self.weights}
        )
        replace_file(Path(folder) / OOD_FILE, content)
        config = Path(folder) / "config.json"
        if config.is_file():
            values = {**json.loads(config.read_text(encoding="utf-8")), "has_ood_detector": True}
            replace_file(config, (json.dumps(values, indent=2, sort_keys=True) + "\n").encode())

    @classmethod
    def load(cls, file: str | os.PathLike[str], weights: str) -> "OODDetector":
        """Reads the file of `save`, for a checkpoint whose weights have the SHA-256 `weights`.

        Raises:
            CheckpointError: If it is damaged, or was made for other weights.
        """
        try:
            tensors = load_file(file)
            with safe_open(file, framework="np") as opened:
                metadata = opened.metadata() or {}
            tensors["inside"] = tensors["inside"].astype(bool)
            detector = cls(**tensors, weights=metadata.get("weights", ""))
            (channels, directions), inside = detector.whitening.shape, detector.inside
            shapes = {
                "scales": (channels,),
                "means": (len(inside), directions),
                "calib": (len(detector.calib), 2 - int(inside.all())),
            }
            fits = all(tensors[name].shape == shape for name, shape in shapes.items())
            usable = inside.any() and len(detector.calib) and (detector.scales > 0).all()
            if not (fits and usable and all(np.isfinite(one).all() for one in tensors.values())):
                raise ValueError("its arrays do not fit each other")
        except Exception as error:  # a file may hold anything
            raise CheckpointError(
                f"{file} cannot be read ({error}); write it again with scripts/calibrate.py"
            ) from error
        if detector.weights != weights:
            raise CheckpointError(f"{file} was made for other weights; write it again with scripts/calibrate.py")
        return detector


def find_thresholds(calib: np.ndarray, n_views: int = 1) -> np.ndarray:
    """Returns the scores `[K]` above which a view, and with it its study of `n_views` views, is out of distribution.

    Split conformal prediction (Vovk et al. 2005): of n + 1 exchangeable views, at most a given share scores above the
    threshold. The share is `FALSE_ALARM_RATE` per study, divided between its views (Šidák, as if they were
    independent) and equally between several scores. If calib is too small for that share, the threshold is its highest
    score, and up to V K / (n + 1) of the in-distribution studies with V views are called out of distribution.

    Args:
        calib: Scores of calib's views, float `[n, K]`; higher is more unusual.
        n_views: Number of views of the study.
    """
    n, kinds = calib.shape
    kept = (1 - FALSE_ALARM_RATE / kinds) ** (1 / n_views)
    return np.sort(calib, axis=0)[min(n, math.ceil((n + 1) * kept)) - 1]
