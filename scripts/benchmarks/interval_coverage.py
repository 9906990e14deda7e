"""Measures how often the intervals, tests and guarantees of `mura_hf.metrics` hold, on simulated studies.

Topics (together 90 minutes of one core):
  intervals         share of 95 % intervals that contain the truth, and their median width, for 5 to 200 patients with
                    one or 1 to 20 studies, shares of abnormal from .1 to .5 and AUROC from .7 to .99
  comparisons       how often two equally good models differ at p <= .05, and how often intervals contain 0; the
                    same for models of which one is better
  guarantees        how often operating points break their guarantee, for 20 to 200 abnormal studies
  calibration       the same as `intervals` for calibration slope, intercept and observed over expected
  means             the same for means and shares, such as those of heatmaps, neighbours, bands and detections
  shortcut_verdicts how often shifts of different sizes are found, excluded or left open
"""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
from harness import run_benchmark
from scipy.special import expit, logit
from scipy.stats import betabinom, norm
from tqdm.auto import tqdm

from mura_hf.metrics import (
    BAND_SHARE,
    choose_bands,
    choose_default,
    choose_operating_points,
    confidence_intervals,
    mean_interval,
    measure_calibration,
    measure_operating_points,
    paired_comparison,
    predictive_values,
    rate_interval,
)
from mura_hf.metrics.classification import weighted_figures

Studies = tuple[np.ndarray, np.ndarray, np.ndarray]

_THRESHOLD = 0.5
_CORRELATION = 0.3  # of the labels, and of the scores, of two studies of a patient


def simulate(rng: np.random.Generator, patients: int, most: int, prevalence: float, auroc: float) -> Studies:
    """Labels, probabilities and patients of studies; scores of each class are normal.

    Args:
        rng: Source of the numbers.
        patients: Number of patients with 1 to `most` studies each, whose labels and scores are correlated.
        most: Largest number of studies of a patient.
        prevalence: Share of abnormal studies.
        auroc: Of the scores.
    """
    groups = np.repeat(np.arange(patients), rng.integers(1, most + 1, patients))
    shared = np.sqrt(_CORRELATION if most > 1 else 0.0)

    def draw() -> np.ndarray:
        own = np.sqrt(1 - shared**2) * rng.normal(size=len(groups))
        return shared * rng.normal(size=patients)[groups] + own

    labels = (draw() > norm.ppf(1 - prevalence)).astype(int)
    distance = np.sqrt(2) * norm.ppf(auroc)
    margins = distance * (distance * labels + draw() - distance / 2) + logit(prevalence)
    return labels, np.round(expit(margins), 4), groups


class _Counter:
    """Counts by name how often something holds, and collects widths."""

    def __init__(self) -> None:
        self.hits: dict[str, list[bool]] = {}
        self.widths: dict[str, list[float]] = {}

    def add(self, name: str, low: float, high: float, truth: float) -> None:
        self.hits.setdefault(name, []).append(bool(low <= truth <= high))
        self.widths.setdefault(name, []).append(float(high - low))

    def report(self, least: int) -> dict[str, Any]:
        """Name -> share that holds, median width and number, of those with at least `least` intervals."""
        return {
            name: {
                "coverage": round(float(np.mean(hits)), 3),
                "width": round(float(np.median(self.widths[name])), 3),
                "n": len(hits),
            }
            for name, hits in self.hits.items()
            if len(hits) >= least
        }


def measure_intervals(
    n_simulations: int = 1000, patients: Sequence[int] = (5, 10, 20, 50, 200), true_studies: int = 1_000_000
) -> dict[str, Any]:
    """Measures `confidence_intervals`, and predictive values at a prevalence of .1 from `measure_operating_points`.

    Args:
        n_simulations: Number of data sets of each setting.
        patients: Numbers of patients.
        true_studies: Number of studies that the true figures come from, approximately.

    Returns:
        `simulations`; `settings`: a row for each with its `coverage`, `width` and number `n` of intervals by figure
        (figures with fewer intervals than a tenth of the data sets are left out); `by_patients`: lowest and highest
        coverage over the settings.
    """
    rng = np.random.default_rng(0)
    settings = []
    every = list(product(patients, (1, 20), (0.1, 0.3, 0.5), (0.7, 0.9, 0.99)))
    for n, most, prevalence, auroc in tqdm(every, desc="intervals"):
        options = {"most": most, "prevalence": prevalence, "auroc": auroc}
        labels, values, _ = simulate(rng, 2 * true_studies // (1 + most), **options)
        truth = {name: found[0] for name, found in _figures(labels, values).items()}
        positive, negative = predictive_values(truth["sensitivity"], truth["specificity"], 0.1)
        truth |= {"positive_predictive_value": float(positive), "negative_predictive_value": float(negative)}
        counter = _Counter()
        for _ in range(n_simulations):
            data = simulate(rng, n, **options)
            found = confidence_intervals(*data, _THRESHOLD)
            if found:
                point = measure_operating_points(*data, {"half": _THRESHOLD}, 0.1)["half"]["intervals"]
                found |= {name: pair for name, pair in point.items() if name.endswith("value")}
            for name, (low, high) in found.items():
                if np.isfinite(truth[name]):
                    counter.add(name, low, high, truth[name])
        settings.append({"patients": n, **options, "figures": counter.report(max(1, n_simulations // 10))})
    return {"simulations": n_simulations, "settings": settings, "by_patients": _ranges(settings, patients)}


def _figures(labels: np.ndarray, values: np.ndarray) -> dict[str, np.ndarray]:
    return weighted_figures(labels == 1, values, np.ones((1, len(labels))), _THRESHOLD)


def _ranges(settings: list[dict[str, Any]], patients: Sequence[int]) -> dict[str, Any]:
    """Number of patients -> figure -> lowest and highest coverage; "none" if no interval was given."""
    report: dict[str, Any] = {}
    for n in patients:
        rows = [setting["figures"] for setting in settings if setting["patients"] == n]
        names = sorted({name for row in rows for name in row})
        ranges = {name: [row[name]["coverage"] for row in rows if name in row] for name in names}
        report[str(n)] = {name: [min(found), max(found)] for name, found in ranges.items()} or "none"
    return report


def measure_comparisons(n_simulations: int = 1000, patients: Sequence[int] = (5, 10, 20, 50, 200)) -> dict[str, Any]:
    """Compares pairs of models of which none is better, in all figures or, for "other curve", in AUROC.

    Args:
        n_simulations: Number of data sets of each setting.
        patients: Numbers of patients, with one or 1 to 20 studies.

    Returns:
        `simulations`, and by kind of pair (see `_PAIRS`), number of patients and studies: share of `p_value` at or
        below .05 by figure, `family` (any `adjusted_p_value` at or below .05 apart from the primary figure's) and
        `coverage` of the intervals. Figures with fewer values than a tenth of the data sets are left out. `power`:
        the same shares for models with an AUROC of .84 and .68.
    """
    rng = np.random.default_rng(1)
    report: dict[str, Any] = {"simulations": n_simulations}
    settings = [
        (kind, n, most)
        for kind, n, most in product(_PAIRS, patients, (1, 20))
        if kind == "interchangeable" or n <= 50  # the others differ from it with few patients only, and take long
    ]
    for kind, n, most in tqdm(settings, desc="comparisons"):
        rejected: dict[str, list[bool]] = {}
        covered: dict[str, list[bool]] = {}
        for _ in range(n_simulations):
            labels, values, groups = simulate(rng, n, most, 0.4, 0.85)
            found = paired_comparison(labels, *_PAIRS[kind](rng, labels, values, groups), groups)
            if kind == "other curve":
                found = {name: row for name, row in found.items() if name == "auroc"}
            for name, row in found.items():
                if row["p_value"] is not None:
                    rejected.setdefault(name, []).append(row["p_value"] <= 0.05)
                if row["low"] is not None and row["high"] is not None:
                    covered.setdefault(name, []).append(row["low"] <= 0 <= row["high"])
            others = [row["adjusted_p_value"] for name, row in found.items() if name != "auroc"]
            if others:
                rejected.setdefault("family", []).append(any(p is not None and p <= 0.05 for p in others))
        rates, coverage = (
            {name: round(float(np.mean(one)), 3) for name, one in rows.items() if len(one) >= 0.1 * n_simulations}
            for rows in (rejected, covered)
        )
        row = rates if kind == "power" else {**rates, "coverage": coverage}
        report.setdefault(kind, {})[f"{n} patients, 1 to {most} studies"] = row
    return report


def _blur(rng: np.random.Generator, values: np.ndarray, groups: np.ndarray, strength: float) -> np.ndarray:
    """Adds noise to the logits, half of whose variance is common to a patient's studies."""
    margins = logit(np.clip(values, 1e-4, 1 - 1e-4))
    return expit(margins + strength * (rng.normal(size=groups.max() + 1)[groups] + rng.normal(size=len(groups))))


def _other_curve(rng: np.random.Generator, labels: np.ndarray, values: np.ndarray, groups: np.ndarray) -> Any:
    """Scores with an AUROC of .85, one pair with equal variances, one with 2.5 times the spread if abnormal."""
    count, shared = groups.max() + 1, np.sqrt(_CORRELATION)

    def draw() -> np.ndarray:
        return shared * rng.normal(size=count)[groups] + np.sqrt(1 - shared**2) * rng.normal(size=len(groups))

    common, spread, gap = draw(), np.where(labels == 1, 2.5, 1.0), norm.ppf(0.85)
    first, second = (0.7 * common + np.sqrt(1 - 0.7**2) * draw() for _ in range(2))
    return expit(first + np.sqrt(2) * gap * labels - 1), expit(spread * second + np.hypot(1, 2.5) * gap * labels - 1)


def _clustered_errors(rng: np.random.Generator, labels: np.ndarray, values: np.ndarray, groups: np.ndarray) -> Any:
    """Equally good scores whose noise has a correlation of .1 and of .6 within a patient."""
    distance = np.sqrt(2) * norm.ppf(0.85)

    def draw(correlation: float) -> np.ndarray:
        common, own = rng.normal(size=groups.max() + 1)[groups], rng.normal(size=len(groups))
        noise = np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own
        return expit(distance * (distance * (labels - 0.5) + noise) + logit(0.4))

    return draw(0.1), draw(0.6)


_PAIRS: dict[str, Callable[[np.random.Generator, np.ndarray, np.ndarray, np.ndarray], Any]] = {
    "interchangeable": lambda rng, labels, values, groups: [_blur(rng, values, groups, 0.8) for _ in range(2)],
    "three runs each": lambda rng, labels, values, groups: [
        [_blur(rng, values, groups, 0.3 + 0.5 * rng.random()) for _ in range(3)] for _ in range(2)
    ],
    "other curve": _other_curve,
    "clustered errors": _clustered_errors,
    "power": lambda rng, labels, values, groups: [_blur(rng, values, groups, noise) for noise in (0.3, 2.0)],
}
"""Kind of pair -> function that draws two models from labels, probabilities and patients of studies."""


_GUARANTEED = {"sensitivity_85": (0.85, 0), "sensitivity_95": (0.95, 0), "specificity_95": (0.95, 1)}
"""Operating point -> its guaranteed figure, and whether that is the sensitivity (0) or the specificity (1)."""


def measure_guarantees(
    n_simulations: int = 1000, abnormal: Sequence[int] = (20, 31, 60, 200), auroc: float = 0.9
) -> dict[str, Any]:
    """Chooses operating points and bands on few studies, and computes their true sensitivity, specificity and share.

    Args:
        n_simulations: Number of data sets of each size.
        abnormal: Number of abnormal studies; there are three times as many normal ones.
        auroc: Of the scores.

    Returns:
        `simulations`, and by number of abnormal studies and point: share of data sets with the point (`given`), share
        of these whose true figure is below that in the name (`broken`), mean true figure, and mean of the other
        figure. `uncertain`: the same for the share of the uncertain band around the default point, `broken` if it is
        above `BAND_SHARE`.
    """
    rng = np.random.default_rng(2)
    distance = np.sqrt(2) * norm.ppf(auroc)
    report: dict[str, Any] = {"simulations": n_simulations}
    for n in tqdm(abnormal, desc="guarantees"):
        labels = np.repeat([0, 1], [3 * n, n])
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in _GUARANTEED}
        shares: list[float] = []
        for _ in range(n_simulations):
            scores = rng.normal(size=len(labels)) + distance * labels
            points = choose_operating_points(labels, expit(scores))
            for name in found.keys() & points.keys():
                cut = logit(points[name])
                found[name].append((float(norm.sf(cut - distance)), float(norm.cdf(cut))))
            default = choose_default(points)
            bands = default and choose_bands(expit(scores), np.arange(len(scores)), points[default])
            if bands:
                low, high = logit([bands["low"], bands["suspected"]])
                normal, abnormal = (norm.cdf(high - mean) - norm.cdf(low - mean) for mean in (0, distance))
                shares.append(float(0.75 * normal + 0.25 * abnormal))
        report[str(n)] = {"uncertain": {"given": round(len(shares) / n_simulations, 3)}}
        if shares:
            broken = float((np.asarray(shares) > BAND_SHARE).mean())
            report[str(n)]["uncertain"] |= {"broken": round(broken, 3), "mean": round(float(np.mean(shares)), 3)}
        for name, rows in found.items():
            target, place = _GUARANTEED[name]
            row: dict[str, float] = {"given": round(len(rows) / n_simulations, 3)}
            if rows:
                true, other = np.asarray(rows)[:, place], np.asarray(rows)[:, 1 - place]
                row |= {
                    "broken": round(float((true < target).mean()), 3),
                    "mean": round(float(true.mean()), 3),
                    "other": round(float(other.mean()), 3),
                }
            report[str(n)][name] = row
    return report


def measure_calibration_coverage(
    n_simulations: int = 1000, patients: Sequence[int] = (20, 50, 200), true_patients: int = 300_000
) -> dict[str, Any]:
    """Measures the intervals of `measure_calibration` for probabilities that are too moderate and too low.

    Returns:
        `simulations`, and coverage of `slope`, `intercept` and `observed_expected`, by number of patients and studies;
        "bent" if the true curve is no logistic one.
    """
    rng = np.random.default_rng(3)
    report: dict[str, Any] = {"simulations": n_simulations}
    settings = list(product(patients, (1, 5), (0.0, 0.2)))
    for n, most, bend in tqdm(settings, desc="calibration"):
        spread = 0.7 if most > 1 else 0.0

        def true_margin(margins: np.ndarray, bend: float = bend) -> np.ndarray:
            return 1.3 * margins + 0.3 + bend * (margins**2 - 2)

        def draw(count: int, most: int = most, spread: float = spread, shape: Any = true_margin) -> Studies:
            groups = np.repeat(np.arange(count), rng.integers(1, most + 1, count))
            margins = rng.normal(-0.5, 1.5, len(groups))
            true = shape(margins) + spread * rng.normal(size=count)[groups]
            return (rng.random(len(groups)) < expit(true)).astype(int), expit(margins), groups

        truth, counter = measure_calibration(*draw(true_patients)), _Counter()
        for _ in range(n_simulations):
            found = measure_calibration(*draw(n))
            for name in ("slope", "intercept", "observed_expected"):
                if found[name] is not None:
                    counter.add(name, found[name]["low"], found[name]["high"], truth[name]["value"])
        name = f"{n} patients, 1 to {most} studies" + (", bent" if bend else "")
        report[name] = counter.report(max(1, n_simulations // 10))
    return report


_MEANS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    **{f"share of {share:g}": lambda u, share=share: u < share for share in (0.02, 0.1, 0.5, 0.9, 0.98)},
    "neighbours": lambda u: np.searchsorted(betabinom.cdf(range(5), 5, 4.5, 0.5), u) / 5,  # 90 % of five
    "overlap": lambda u: np.maximum(u - 0.3, 0.0),
    "absolute change": lambda u: np.minimum(0.02 * np.exp(norm.ppf(u)), 1.0),
    "difference": lambda u: norm.ppf(u, 0.05, 0.15),
    "changed decisions": lambda u: np.where(u > 0.96, 1.0, np.where(u < 0.02, -1.0, 0.0)),
}
"""Kind of value -> function of a uniform variable that has its distribution."""


def measure_means(n_simulations: int = 1000, patients: Sequence[int] = (20, 50, 200)) -> dict[str, Any]:
    """Measures `mean_interval`, and `rate_interval` for shares of a part of the studies, such as those in a band.

    Returns:
        `simulations`, and coverage by number of patients and studies, for each of `_MEANS`, and for shares of 10 and
        50 % among 30 % of the studies.
    """
    rng = np.random.default_rng(5)
    every = (np.arange(1_000_000) + 0.5) / 1_000_000
    truth = {name: float(shape(every).mean()) for name, shape in _MEANS.items()}
    report: dict[str, Any] = {"simulations": n_simulations}
    for n, most in tqdm(list(product(patients, (1, 20))), desc="means"):
        counter, shared = _Counter(), np.sqrt(_CORRELATION if most > 1 else 0.0)
        for _ in range(n_simulations):
            groups = np.repeat(np.arange(n), rng.integers(1, most + 1, n))
            first, second = (
                norm.cdf(shared * rng.normal(size=n)[groups] + np.sqrt(1 - shared**2) * rng.normal(size=len(groups)))
                for _ in range(2)
            )
            found = {name: (mean_interval(shape(first), groups), truth[name]) for name, shape in _MEANS.items()}
            for share in (0.1, 0.5):
                found[f"share of {share:g} in a band"] = rate_interval(first < share, second < 0.3, groups), share
            for name, (interval, true) in found.items():
                if interval is not None:
                    counter.add(name, *interval, true)
        report[f"{n} patients, 1 to {most} studies"] = counter.report(max(1, n_simulations // 10))
    return report


_SCENARIOS: dict[str, tuple[int, Callable[[np.random.Generator, int], np.ndarray]]] = {
    "no shift, 38 studies": (38, lambda rng, n: np.zeros(n)),
    "no shift, 200 studies": (200, lambda rng, n: np.zeros(n)),
    **{
        f".06 in 12 % of {count} studies": (count, lambda rng, n: 0.06 * (rng.random(n) < 0.12))
        for count in (5, 10, 38, 200)
    },
    ".05 in all of 100 studies": (100, lambda rng, n: np.full(n, 0.05)),  # at the limit: to be excluded in at most 5 %
    ".07 in all of 200 studies": (200, lambda rng, n: np.full(n, 0.07)),
    ".08 in all of 200 studies": (200, lambda rng, n: np.full(n, 0.08)),
    ".08 in all of 38 studies": (38, lambda rng, n: np.full(n, 0.08)),
}


def measure_shortcut_verdicts(n_simulations: int = 1000) -> dict[str, Any]:
    """Judges simulated shifts. The change and its control both have noise with a mean absolute value of .044.

    Returns:
        `simulations`, and by scenario the share of each verdict.
    """
    from mura_hf.evaluation.shortcuts import Shift, ShiftCollection

    rng = np.random.default_rng(4)
    report: dict[str, Any] = {"simulations": n_simulations}
    for name, (n, draw) in tqdm(_SCENARIOS.items(), desc="shortcut verdicts"):
        verdicts: dict[str, int] = {}
        for _ in range(n_simulations):
            shifts, noise = ShiftCollection(), 0.044 * np.sqrt(np.pi / 2)
            for number, shift in enumerate(draw(rng, n)):
                before = float(rng.uniform(0.2, 0.6))
                after, control = before + shift + rng.normal(0, noise), before + rng.normal(0, noise)
                label = number % 2
                shifts.add(Shift("marker", str(number), str(number), label, before, after, 0.9, control))
            verdict = shifts.report()["marker"]["verdict"]
            verdicts[verdict] = verdicts.get(verdict, 0) + 1
        report[name] = {verdict: round(count / n_simulations, 3) for verdict, count in verdicts.items()}
    return report


TOPICS = {
    "intervals": (measure_intervals, {"n_simulations": 20, "patients": (5, 20), "true_studies": 20_000}),
    "comparisons": (measure_comparisons, {"n_simulations": 10, "patients": (5, 20)}),
    "guarantees": (measure_guarantees, {"n_simulations": 20, "abnormal": (20, 60)}),
    "calibration": (
        measure_calibration_coverage,
        {"n_simulations": 20, "patients": (50,), "true_patients": 20_000},
    ),
    "means": (measure_means, {"n_simulations": 10, "patients": (20,)}),
    "shortcut_verdicts": (measure_shortcut_verdicts, {"n_simulations": 10}),
}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    return run_benchmark(__doc__, TOPICS, argv)


if __name__ == "__main__":
    main()
