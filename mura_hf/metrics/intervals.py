"""Confidence intervals and paired tests that hold for few patients, each of whom may have several studies.

Studies of one patient are not independent. All variances are therefore those of the jackknife that leaves out one
patient at a time (Efron and Stein, Ann. Stat. 9, 1981), and quantiles are those of Student's t. Its degrees of freedom
are the effective number of patients minus one: a few patients with most of the studies count as few (Kish, "Survey
sampling", 1965). `scripts/benchmarks/interval_coverage.py` measures how often intervals and tests hold.
"""

from collections.abc import Sequence

import numpy as np

from .classification import FIGURES, Groups, Numbers, check_runs, cluster_index, weighted_figures

MIN_CLUSTERS = 20
"""Fewer patients give no interval."""

MIN_STUDIES = 10
"""Fewer studies of a kind that a figure counts, such as abnormal ones for the sensitivity, give no interval."""

PRIMARY_FIGURE = "auroc"
"""The figure of a comparison whose test is not corrected for the others."""

_CHUNK = 256  # patients that are left out at a time, which bounds the memory
_EXACT = 12  # up to this number of patients, all sign flips are counted
_N_FLIPS = 9999
_FEW_EVENTS = 3  # with fewer effective events, Wilson's bound on this side, or Hall's, is too narrow


def confidence_intervals(
    labels: Numbers, probabilities: Numbers, groups: Groups, threshold: float = 0.5, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """Computes confidence intervals of the metrics that reports show, except `ece`, whose estimate is biased.

    Proportions: the score interval of Wilson (J. Am. Stat. Assoc. 22, 1927) with the effective number of studies
    (Korn and Graubard, Surv. Methodol. 24, 1998), beside 0 and 1 that of Clopper and Pearson (Biometrika 26, 1934).
    F1 is a function of the proportion hits / (hits + false alarms + misses). AUROC and average precision: Student's t
    on the logit (Obuchowski, Biometrics 53, 1997); a perfect ranking has the bound of a proportion over the patients
    of the rarer class. Kappa: Student's t on Fisher's z; a kappa of 1 has the bound that follows from that of the
    accuracy. Brier score: Student's t with the correction for skewness of Hall (J. R. Stat. Soc. B 54, 1992), or the
    upper bound of a proportion if most of the score comes from fewer than three patients.

    Args:
        labels: `[n]`, 0 normal and 1 abnormal.
        probabilities: `[n]`, P(abnormal), or `[runs, n]` of several runs whose metrics are averaged. The variance
            between the runs, divided by their number, is added to that between patients.
        groups: `[n]`, the patient of each row.
        threshold: A row is called abnormal strictly above it.
        level: Coverage of the interval.

    Returns:
        Metric -> (low, high). Left out are all metrics if there are fewer than `MIN_CLUSTERS` patients, those that
        count fewer than `MIN_STUDIES` studies: normal, abnormal, called normal or called abnormal ones, and AUROC,
        average precision and kappa if one patient has all of these, so that nothing shows how patients differ. The
        AUROC of a constant, .5 by definition, has none either.

    Raises:
        ValueError: If lengths differ, there are no rows, or a value is not a probability.
    """
    truth, runs = check_runs(labels, np.atleast_2d(np.asarray(probabilities, np.float64)), groups)
    index, n_clusters = cluster_index(groups)
    if n_clusters < MIN_CLUSTERS:
        return {}
    estimates, left_out = _leave_one_out(truth, runs, [threshold] * len(runs), index, n_clusters)
    counted = _count_studies(truth, np.mean([values > threshold for values in runs], axis=0), index, n_clusters)
    intervals: dict[str, tuple[float, float]] = {}
    for name, sizes in counted.items():
        if min(size.sum() for size in sizes) < MIN_STUDIES or not np.isfinite(estimates[name]).all():
            continue
        value, without = float(estimates[name].mean()), left_out[name].mean(0)
        if name in ("auroc", "auprc", "kappa") and not np.isfinite(without).all():
            continue
        variance, degrees = _add_runs(_variance(without), effective_degrees(sizes), estimates[name])
        quantile = t_quantile(level, degrees)
        if name == "f1":
            overlap, slope = value / (2 - value), 2 / (2 - value) ** 2
            bounds = np.asarray(share_interval(overlap, variance * slope**2, sizes[0], level, degrees))
            intervals[name] = _pair(2 * bounds / (1 + bounds))
        elif name == "brier":
            low, high = _skewed_interval(value, without, variance, level, degrees)
            losses = np.bincount(index, np.mean([(values - truth) ** 2 for values in runs], axis=0), n_clusters)
            if _effective_number(losses) < _FEW_EVENTS:
                high = max(high, share_interval(value, variance, sizes[0] + sizes[1], level, degrees)[1])
            intervals[name] = (max(low, 0.0), min(high, 1.0))
        elif name == "kappa" and abs(value) == 1:  # a share of wrong studies lowers kappa by share / (1 - chance)
            wrong = 1 - share_interval(1.0, 0.0, sizes[0] + sizes[1], level)[0]
            bound = max(-1.0, float(1 - wrong / (2 * truth.mean() * (1 - truth.mean()))))
            intervals[name] = (bound, 1.0) if value == 1 else (-1.0, -bound)
        elif name == "kappa":
            half = quantile * np.sqrt(variance) / (1 - value**2)
            intervals[name] = _pair(np.tanh(np.arctanh(value) + np.asarray([-half, half])))
        elif name in ("auroc", "auprc") and variance > 0:
            half, middle = quantile * np.sqrt(variance) / (value * (1 - value)), np.log(value / (1 - value))
            intervals[name] = _pair(1 / (1 + np.exp(-middle - np.asarray([-half, half]))))
        elif name in ("auroc", "auprc") and value in (0, 1):
            bound = _unseen_share(quantile, degrees)
            intervals[name] = (1 - bound, 1.0) if value == 1 else (0.0, bound)
        elif name not in ("auroc", "auprc"):
            intervals[name] = share_interval(value, variance, sizes[0], level, degrees)
    return intervals


def rate_interval(
    hits: np.ndarray, counted: np.ndarray, groups: Groups, level: float = 0.95
) -> tuple[float, float] | None:
    """Computes the interval (low, high) of the share of hits among the rows that count, such as a sensitivity.

    Args:
        hits, counted: bool `[n]`.
        groups: `[n]`, the patient of each row.
        level: Coverage of the interval.

    Returns:
        None if there are fewer than `MIN_CLUSTERS` patients, or fewer than `MIN_STUDIES` rows count.
    """
    index, n_clusters = cluster_index(groups)
    sizes = np.bincount(index, counted, n_clusters)
    if n_clusters < MIN_CLUSTERS or sizes.sum() < MIN_STUDIES:
        return None
    return _share_over_patients(np.bincount(index, hits & counted, n_clusters), sizes, level)


def mean_interval(
    values: Numbers, groups: Groups, level: float = 0.95, *, least: float = -1.0
) -> tuple[float, float] | None:
    """Computes the interval (low, high) of a mean, or of a share if the values are bool.

    Args:
        values: `[n]`, in [least, 1].
        groups: `[n]`, the patient of each value.
        level: Coverage of the interval.
        least: The smallest possible value: -1, or 0 if values cannot be negative.

    Returns:
        None if there are fewer than `MIN_CLUSTERS` patients. The interval lies in [least, 1]. Values of -1, 0 and 1
        alone, such as changes of a decision, are the difference of two shares, whose intervals are combined (Zou and
        Donner, Stat. Med. 27, 2008). If all values are equal, those of unseen patients may differ by 1, in as large a
        share of them as a proportion with no events allows.

    Raises:
        ValueError: If lengths differ, there are no values, or one is outside [least, 1] or NaN.
    """
    numbers = np.asarray(values, np.float64)
    if len(numbers) != len(groups) or not len(numbers):
        raise ValueError(f"{len(numbers)} values and {len(groups)} groups: they must have the same length, above 0")
    if not (numbers.min() >= least - 1e-9 and numbers.max() <= 1 + 1e-9):
        raise ValueError(f"values must lie in [{least:g}, 1], but range from {numbers.min():g} to {numbers.max():g}")
    index, n_clusters = cluster_index(groups)
    if n_clusters < MIN_CLUSTERS:
        return None
    sizes, mean = np.bincount(index, np.ones(len(numbers)), n_clusters), float(numbers.mean())
    if np.asarray(values).dtype == bool or (least == 0 and np.isin(numbers, (0, 1)).all()):
        return _share_over_patients(np.bincount(index, numbers, n_clusters), sizes, level)
    if np.isin(numbers, (-1, 0, 1)).all():
        rises, falls = (np.bincount(index, numbers == sign, n_clusters) for sign in (1, -1))
        (low, high), (fall_low, fall_high) = (_share_over_patients(found, sizes, level) for found in (rises, falls))
        rise, fall = rises.sum() / sizes.sum(), falls.sum() / sizes.sum()
        below, above = float(np.hypot(rise - low, fall_high - fall)), float(np.hypot(high - rise, fall - fall_low))
        return max(mean - below, -1.0), min(mean + above, 1.0)
    sums = np.bincount(index, numbers, n_clusters)
    left_out = (sums.sum() - sums) / (sizes.sum() - sizes)
    low, high = _skewed_interval(mean, left_out, _variance(left_out), level, effective_degrees([sizes]))
    return max(low, least), min(high, 1.0)


def mean_with_interval(values: Numbers, groups: Groups, *, least: float = -1.0) -> dict[str, float | None]:
    """Returns the `mean` of values `[n]`, and `low` and `high` from `mean_interval`, None if it gives none."""
    low, high = mean_interval(values, groups, least=least) or (None, None)
    return {"mean": float(np.mean(np.asarray(values, np.float64))), "low": low, "high": high}


def share_interval(
    share: float, variance: float, sizes: np.ndarray, level: float = 0.95, degrees: float | None = None
) -> tuple[float, float]:
    """Computes the interval (low, high) of a proportion from its variance over patients.

    Args:
        share: The proportion.
        variance: Of the proportion. The effective number of studies is `share * (1 - share) / variance`, at most the
            real one. A share of 0 or 1 has no variance: studies of one patient then count as one.
        sizes: `[clusters]`, number of studies that count for each patient.
        level: Coverage of the interval.
        degrees: Degrees of freedom of the variance; by default the effective number of patients minus one.
    """
    from scipy.stats import beta

    n, plain = sizes.sum(), share * (1 - share)
    effective = min(n, plain / variance) if variance > 0 and plain > 0 else _effective_number(sizes)
    t = t_quantile(level, effective_degrees([sizes]) if degrees is None else degrees)
    middle = (share + t**2 / (2 * effective)) / (1 + t**2 / effective)
    half = t * np.sqrt(plain / effective + t**2 / (4 * effective**2)) / (1 + t**2 / effective)
    low, high = middle - half, middle + half
    events, tail = effective * share, (1 - level) / 2
    if events < _FEW_EVENTS:
        low = min(low, beta.ppf(tail, events, effective - events + 1) if events > 0 else 0.0)
    if effective - events < _FEW_EVENTS:
        high = max(high, beta.ppf(1 - tail, events + 1, effective - events) if events < effective else 1.0)
    return float(max(low, 0.0)), float(min(high, 1.0))


def _share_over_patients(found: np.ndarray, sizes: np.ndarray, level: float) -> tuple[float, float]:
    """`share_interval` from the number of events and of studies of each patient, `[clusters]`."""
    with np.errstate(invalid="ignore"):
        left_out = (found.sum() - found) / (sizes.sum() - sizes)
    return share_interval(float(found.sum() / sizes.sum()), _variance(left_out), sizes, level)


def paired_comparison(
    labels: Numbers,
    probabilities_a: Numbers,
    probabilities_b: Numbers,
    groups: Groups,
    threshold: float | tuple[float, float] = 0.5,
    level: float = 0.95,
) -> dict[str, dict[str, float | None]]:
    """Compares two models on the same rows: the difference a - b of each metric in `FIGURES`, except `ece`.

    The p-value is the larger of two. One exchanges the two models' predictions of patients at random (Fisher, "The
    design of experiments", 1935); for AUROC and average precision it compares ranks, since scales may differ. It
    holds for any number of patients if the models are interchangeable, and counts all exchanges up to 12 patients.
    The other is that of Student's t, as in the interval; it also holds if models differ, but not in the metric. With
    several runs of a model, only the latter is used, and the variance between runs, divided by their number, is added
    (degrees of freedom: Welch, Biometrika 34, 1947).

    Args:
        labels: `[n]`, 0 normal and 1 abnormal.
        probabilities_a: `[n]`, P(abnormal) by model a, or `[runs, n]` of several runs whose metrics are averaged.
        probabilities_b: `[n]` or `[runs, n]`, P(abnormal) by model b.
        groups: `[n]`, the patient of each row.
        threshold: A row is called abnormal strictly above it; a pair gives a and b different thresholds.
        level: Coverage of the interval.

    Returns:
        Metric -> `difference`; its interval `low` and `high`, None where `confidence_intervals` gives none for one of
        the models, and as wide as `mean_interval` says if no patient changes the difference; the two-sided `p_value`;
        and `adjusted_p_value`, which equals it for `PRIMARY_FIGURE` and is corrected over all other metrics
        (`adjust_p_values`). All are None if the metric is undefined without one of the patients, or if that patient's
        predictions are exchanged. A metric that is undefined on the data is left out. For `brier`, lower is better.

    Raises:
        ValueError: If lengths differ, there are no rows, or a value is not a probability.
    """
    runs_a, runs_b = (np.atleast_2d(np.asarray(values, np.float64)) for values in (probabilities_a, probabilities_b))
    truth, runs = check_runs(labels, [*runs_a, *runs_b], groups)
    index, n_clusters = cluster_index(groups)
    threshold_a, threshold_b = threshold if isinstance(threshold, tuple) else (threshold, threshold)
    thresholds = [threshold_a] * len(runs_a) + [threshold_b] * len(runs_b)
    estimates, left_out = _leave_one_out(truth, runs, thresholds, index, n_clusters)
    called = [values > at for values, at in zip(runs, thresholds, strict=True)]
    counted = [_count_studies(truth, one, index, n_clusters) for one in called]
    n_a, single = len(runs_a), len(runs) == 2
    exchanged = _exchange_patients(truth, runs, thresholds, index, n_clusters) if single else {}
    compared: dict[str, dict[str, float | None]] = {}
    contributions: dict[str, np.ndarray] = {}
    p_values: dict[str, float] = {}
    for name in counted[0]:
        without = left_out[name][:n_a].mean(0) - left_out[name][n_a:].mean(0)
        difference = float(estimates[name][:n_a].mean() - estimates[name][n_a:].mean())
        if not np.isfinite(difference):
            continue
        row = compared[name] = {"difference": difference, "low": None, "high": None}
        if n_clusters < 2 or not np.isfinite([*without, *exchanged.get(name, ())]).all():
            continue
        degrees = min(effective_degrees(sizes[name]) for sizes in counted)
        variance, degrees = _add_runs(_variance(without), degrees, estimates[name][:n_a], estimates[name][n_a:])
        n_studies = min(size.sum() for sizes in counted for size in sizes[name])
        if n_clusters >= MIN_CLUSTERS and n_studies >= MIN_STUDIES:
            quantile = t_quantile(level, degrees)
            half = quantile * np.sqrt(variance) if variance > 0 else _unseen_share(quantile, degrees)
            most = 2.0 if name == "kappa" else 1.0
            row["low"], row["high"] = max(difference - half, -most), min(difference + half, most)
        # No exchange is more significant than one in which all patients with studies that count agree.
        n_informative = sum(np.any([size > 0 for sizes in counted for size in sizes[name]], axis=0))
        p_values[name] = max(_p_of_t(difference, np.sqrt(variance), degrees), min(1.0, 2.0 ** (1 - n_informative)))
        if single:
            contributions[name] = (difference - exchanged[name]) / 2
    if contributions:
        exact = sign_flip_test(np.stack(list(contributions.values()), 1))
        p_values = {name: max(p_values[name], float(p)) for name, p in zip(contributions, exact, strict=True)}
    others = [name for name in p_values if name != PRIMARY_FIGURE]
    adjusted = p_values | dict(zip(others, adjust_p_values([p_values[name] for name in others]), strict=True))
    for name, row in compared.items():
        row["p_value"], row["adjusted_p_value"] = p_values.get(name), adjusted.get(name)
    return compared


def sign_flip_test(contributions: np.ndarray, seed: int = 0) -> np.ndarray:
    """Computes two-sided p-values that the mean contribution of independent patients is 0.

    Args:
        contributions: float64 `[clusters, figures]`.
        seed: Seed of the random flips.

    Returns:
        float64 `[figures]`: share of the sign flips whose sum is at least as far from 0. Without flips among random
        ones, the data count as one.
    """
    n, observed = len(contributions), np.abs(contributions.sum(0))
    reached = observed - 1e-9 * np.abs(contributions).sum(0)  # sums in another order differ by rounding
    if n <= _EXACT:
        signs = 1 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return (np.abs(signs @ contributions) >= reached).mean(0)
    rng, count, drawn = np.random.default_rng(seed), np.ones(contributions.shape[1]), 1
    while drawn <= _N_FLIPS:
        signs = 1 - 2.0 * rng.integers(0, 2, (min(1000, _N_FLIPS + 1 - drawn), n), np.int8)
        count += (np.abs(signs @ contributions) >= reached).sum(0)
        drawn += len(signs)
    return count / drawn


def adjust_p_values(p_values: Sequence[float]) -> list[float]:
    """Corrects p-values for their number by the method of Holm (Scand. J. Stat. 6, 1979)."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def _leave_one_out(
    truth: np.ndarray, runs: list[np.ndarray], thresholds: list[float], index: np.ndarray, n_clusters: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Each metric on all rows, `[runs]`, and without each patient, `[runs, clusters]`."""
    parts: list[list[dict[str, np.ndarray]]] = []
    for values, threshold in zip(runs, thresholds, strict=True):
        parts.append([weighted_figures(truth, values, np.ones((1, len(truth))), threshold)])
        for start in range(0, n_clusters, _CHUNK):
            others = index != np.arange(start, min(start + _CHUNK, n_clusters))[:, None]
            parts[-1].append(weighted_figures(truth, values, others.astype(np.float64), threshold))
    estimates = {name: np.asarray([run[0][name][0] for run in parts]) for name in FIGURES}
    left_out = {
        name: np.stack([np.concatenate([part[name] for part in run[1:]]) for run in parts]) for name in FIGURES
    }
    return estimates, left_out


def _exchange_patients(
    truth: np.ndarray, runs: list[np.ndarray], thresholds: list[float], index: np.ndarray, n_clusters: int
) -> dict[str, np.ndarray]:
    """The difference of each metric if two models exchange their predictions of one patient, `[clusters]`."""
    from scipy.stats import rankdata

    n, twice = len(truth), np.tile(truth, 2)
    ranks = np.concatenate([rankdata(values) / n for values in runs])
    cuts = np.repeat([(np.sum(values <= at) + 0.5) / n for values, at in zip(runs, thresholds, strict=True)], n)
    differences: dict[str, list[np.ndarray]] = {name: [] for name in FIGURES}
    for start in range(0, n_clusters, _CHUNK):
        chosen = index == np.arange(start, min(start + _CHUNK, n_clusters))[:, None]
        counts = np.hstack([~chosen, chosen]).astype(np.float64)
        first, second = (weighted_figures(twice, ranks, weights, cuts) for weights in (counts, 1 - counts))
        for name in FIGURES:
            differences[name].append(first[name] - second[name])
    found = {name: np.concatenate(parts) for name, parts in differences.items()}
    losses = (runs[0] - truth) ** 2 - (runs[1] - truth) ** 2  # not of ranks
    return found | {"brier": losses.mean() - 2 * np.bincount(index, losses, n_clusters) / n}


def _count_studies(
    truth: np.ndarray, called: np.ndarray, index: np.ndarray, n_clusters: int
) -> dict[str, list[np.ndarray]]:
    """Metric -> number of studies of each kind that it counts, `[clusters]` each.

    Args:
        truth: bool `[n]`, True for abnormal.
        called: `[n]`, whether a row is called abnormal, or the share of runs that do so.
        index: `[n]`, number of the patient.
        n_clusters: Number of patients.
    """
    kinds = {"accuracy": truth >= 0, "precision": called, "f1": np.maximum(truth, called)}
    kinds |= {"sensitivity": truth, "specificity": ~truth, "not called": 1 - called}
    sizes = {name: np.bincount(index, kind, n_clusters) for name, kind in kinds.items()}
    classes = [sizes["sensitivity"], sizes["specificity"]]
    counted = {name: [size] for name, size in sizes.items()} | dict.fromkeys(("auroc", "auprc", "brier"), classes)
    counted["f1"] = [sizes["f1"], sizes["sensitivity"]]
    counted["kappa"] = [*classes, sizes["precision"], sizes["not called"]]
    return {name: counted[name] for name in FIGURES if name != "ece"}


def _effective_number(sizes: np.ndarray) -> float:
    """Number of equally large patients that are worth as much as these, `[clusters]` (Kish); 0 if all are 0."""
    return float(sizes.sum() ** 2 / max(sizes @ sizes, 1e-300))


def effective_degrees(sizes: Sequence[np.ndarray]) -> float:
    """Degrees of freedom of a variance over patients: the effective number of patients minus one.

    Args:
        sizes: `[clusters]` each, number of studies of each patient, of one or several kinds. The smaller number of the
            first two kinds counts.
    """
    return min(_effective_number(size) for size in sizes[:2]) - 1


def _variance(left_out: np.ndarray) -> float:
    """Variance of a figure by the jackknife; 0 if it is undefined without one of the patients, or only rounding."""
    n = len(left_out)
    found = float((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum())
    return found if np.isfinite(found) and found > 1e-20 else 0.0


def _add_runs(variance: float, degrees: float, *models: np.ndarray) -> tuple[float, float]:
    """Adds the variance between the runs of each model, divided by their number; returns degrees of freedom too."""
    parts = [(variance, max(degrees, 1.0))]
    parts += [(float(runs.var(ddof=1)) / len(runs), len(runs) - 1.0) for runs in models if len(runs) > 1]
    total = sum(part for part, _ in parts)
    spread = sum(part**2 / each for part, each in parts)
    return total, total**2 / spread if spread > 0 else parts[0][1]


def t_quantile(level: float, degrees: float) -> float:
    """Quantile of Student's t that bounds the central share `level`, with at least one degree of freedom."""
    from scipy.stats import t

    return float(t.ppf((1 + level) / 2, max(degrees, 1)))


def _p_of_t(difference: float, error: float, degrees: float) -> float:
    from scipy.stats import t

    return float(2 * t.sf(abs(difference) / error, max(degrees, 1))) if error > 0 else float(difference == 0)


def _unseen_share(quantile: float, degrees: float) -> float:
    """Upper bound of the share of patients who differ from all others, if none was seen to (Wilson)."""
    return float(quantile**2 / (max(degrees, 1.0) + 1 + quantile**2))


def _pair(bounds: np.ndarray) -> tuple[float, float]:
    return float(bounds[0]), float(bounds[1])


def _skewed_interval(
    mean: float, left_out: np.ndarray, variance: float, level: float, degrees: float
) -> tuple[float, float]:
    """Student's t with Hall's cubic correction for the skewness of the patients' contributions."""
    n, t, error = len(left_out), t_quantile(level, degrees), np.sqrt(variance)
    contributions = -(n - 1) * (left_out - left_out.mean())
    spread = np.sqrt((contributions**2).mean())
    skewness = (contributions**3).mean() / spread**3 if spread > 1e-9 else 0.0
    if abs(skewness) < 1e-6:
        half = error * t if variance > 0 else _unseen_share(t, degrees)
        return mean - half, mean + half
    root = np.sqrt(n)
    quantiles = 3 / skewness * root * (np.cbrt(1 + skewness * (np.asarray([t, -t]) / root - skewness / (6 * n))) - 1)
    return _pair(mean - error * quantiles)
