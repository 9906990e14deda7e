import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from sklearn.metrics import roc_auc_score

from mura_hf.metrics import (
    BAND_SHARE,
    OPERATING_POINTS,
    choose_bands,
    choose_default,
    choose_operating_points,
    classification_metrics,
    confusion_matrix,
    measure_bands,
    measure_operating_points,
    predictive_values,
)

ROWS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 12)), min_size=2, max_size=40).filter(
    lambda rows: len({label for label, _ in rows}) == 2
)


@settings(max_examples=40, deadline=None)
@given(rows=ROWS)
def test_no_other_threshold_is_better(rows):
    labels, values = np.tile(np.array(rows), (12, 1)).T  # enough for a guarantee
    values = values / 12
    assume(roc_auc_score(labels, values) > 0.5)
    found = choose_operating_points(labels, values)
    assert found["paper"] == 0.5
    assert set(found) <= set(OPERATING_POINTS)
    assert all(0 <= threshold <= 1 for threshold in found.values())

    def at(threshold):
        (rejections, alarms), (misses, hits) = confusion_matrix(labels, values, threshold)
        return hits, misses, rejections, alarms

    def is_safe(wrong, right, most=0.05):  # by the binomial distribution itself
        return binom.cdf(wrong, wrong + right, most) <= 0.1 + 1e-9

    others = [at(threshold) for threshold in np.linspace(0, 1, 49)]  # between all values, and at each
    hits, misses, rejections, alarms = at(found["youden"])
    gains = [a / (a + b) + c / (c + d) for a, b, c, d in others]
    assert hits / (hits + misses) + rejections / (rejections + alarms) == pytest.approx(max(gains))
    for name, most in (("sensitivity_85", 0.15), ("sensitivity_95", 0.05)):
        safe = [rejected for hits, misses, rejected, _ in others if is_safe(misses, hits, most)]
        assert (name in found) == bool(safe)
        if safe:
            hits, misses, rejections, _ = at(found[name])
            assert is_safe(misses, hits, most)
            assert rejections == max(safe)
    safe = [hit for hit, _, rejected, alarmed in others if is_safe(alarmed, rejected)]
    assert ("specificity_95" in found) == bool(safe)
    if safe:
        hits, _, rejections, alarms = at(found["specificity_95"])
        assert is_safe(alarms, rejections)
        assert hits == max(safe)


def test_thresholds_lie_between_probabilities_and_are_short():
    labels, values = np.repeat([0, 0, 1, 1], 7), np.repeat([0.1, 0.2, 0.6, 0.8], 7)
    assert choose_operating_points(labels, values) == {"paper": 0.5, "youden": pytest.approx(0.4)}
    values = np.repeat([0.12340001, 0.12340003, 0.9], 50)
    found = choose_operating_points(np.repeat([0, 1, 1], 50), values)["sensitivity_95"]
    assert 0.12340001 <= found < 0.12340003  # four digits would change how a study is called


def test_what_cannot_be_supported_is_not_chosen():
    labels, values = np.repeat([0, 1], 45), np.repeat([0.2, 0.8], 45)
    assert list(choose_operating_points(labels, values)) == list(OPERATING_POINTS)
    sensitive = ["sensitivity_85", "sensitivity_95"]
    assert list(choose_operating_points(labels[1:], values[1:])) == ["paper", "youden", *sensitive]
    without = ["paper", "youden", "sensitivity_85", "specificity_95"]
    assert list(choose_operating_points(labels[:-1], values[:-1])) == without
    pairs = np.arange(90) // 2  # two studies of a patient count as one
    assert list(choose_operating_points(labels, values, pairs)) == ["paper", "youden", "sensitivity_85"]
    assert "sensitivity_85" not in choose_operating_points(labels[:59], values[:59])  # 14 abnormal ones
    assert "sensitivity_85" in choose_operating_points(labels[:60], values[:60])
    assert list(choose_operating_points([0, 1], [0.1, 0.9])) == ["paper"]
    for labels, values, message in (
        ([1, 1], [0.2, 0.4], "both normal and abnormal studies"),
        ([0, 0, 1, 1], [0.9, 0.8, 0.2, 0.1], "normal studies have the higher probabilities"),
        ([0, 1] * 60, [0.5] * 120, "all studies have the probability 0.5"),
    ):
        with pytest.raises(ValueError, match=message):
            choose_operating_points(labels, values)
    with pytest.raises(ValueError, match="2 studies and 1 groups"):
        choose_operating_points([0, 1], [0.1, 0.9], ["a"])


def test_the_default_is_never_less_sensitive_than_the_rule_of_the_paper():
    assert choose_default({"paper": 0.5, "youden": 0.2}) is None
    assert choose_default({"paper": 0.5, "sensitivity_85": 0.0}) is None  # flags everything
    assert choose_default({"paper": 0.5, "sensitivity_85": 0.2}) == "sensitivity_85"
    assert choose_default({"paper": 0.5, "sensitivity_85": 0.7}) == "paper"


def draw_calibrated(n, prevalence_logit=-1.0, seed=0):
    rng = np.random.default_rng(seed)
    values = 1 / (1 + np.exp(-rng.normal(prevalence_logit, 2.0, n)))
    return (rng.random(n) < values).astype(int), values


@pytest.mark.parametrize("threshold", [0.05, 0.2, 0.5, 0.8])
def test_bands_have_the_lowest_cost_for_their_share(threshold):
    _, values = draw_calibrated(400)
    bands = choose_bands(values, np.arange(400), threshold)
    low, high = bands["low"], bands["suspected"]
    assert 0 <= low < threshold < high <= 1
    n_uncertain = int(((values > low) & (values <= high)).sum())
    assert binom.cdf(n_uncertain, 400, BAND_SHARE) <= 0.1 < binom.cdf(n_uncertain + 1, 400, BAND_SHARE)
    # Moving the band either way, with as many uncertain studies, never lowers the expected cost of the others.
    costs = np.where(values > threshold, (1 - values) * threshold, values * (1 - threshold))
    order, inside = np.argsort(values), np.arange(400)

    def cost(first):
        return costs[order][(inside < first) | (inside >= first + n_uncertain)].sum()

    own = int((values <= low).sum())
    assert cost(own) == pytest.approx(min(cost(first) for first in range(400 - n_uncertain)))


def test_bands_are_for_enough_studies_and_rounding_keeps_how_studies_are_called():
    assert choose_bands([0.1, 0.9] * 3, np.arange(6), 0.5) is None
    assert choose_bands([], [], 0.5) is None
    assert choose_bands([0.1, 0.9] * 50, np.arange(100), 1.0) is None
    assert choose_bands([0.1, 0.9] * 50, np.zeros(100), 0.5) is None  # one patient
    bands = choose_bands([0.5] * 100, np.arange(100), 0.5)  # more than a quarter would be uncertain
    assert bands == {"low": 0.5, "suspected": 0.5}
    values = np.repeat([0.1, 0.30000002, 0.30000006, 0.9], [40, 40, 10, 40])
    bands = choose_bands(values, np.arange(130), 0.4)
    assert 0.30000002 < bands["low"] < 0.30000006


def test_what_bands_achieve():
    labels, values = np.repeat([0, 1, 0, 1, 0, 1], [95, 5, 30, 20, 5, 45]), np.repeat([0.1, 0.4, 0.9], [100, 50, 50])
    rows = measure_bands(labels, values, np.arange(200), (0.1, 0.4))
    assert {name: (row["n"], row["n_abnormal"]) for name, row in rows.items()} == {
        "low": (100, 5), "uncertain": (50, 20), "suspected": (50, 45)
    }  # fmt: skip
    for row, (share, abnormal) in zip(rows.values(), ((0.5, 0.05), (0.25, 0.4), (0.25, 0.9)), strict=True):
        assert row["figures"] == pytest.approx({"share": share, "abnormal": abnormal})
        for name, (low, high) in row["intervals"].items():
            assert low < row["figures"][name] < high
        assert set(row["intervals"]) == {"share", "abnormal"}
    rows = measure_bands(labels, values, np.arange(200), (0.9, 1.0))
    assert rows["suspected"]["figures"] == {"share": 0, "abnormal": None}
    assert set(rows["suspected"]["intervals"]) == {"share"}


def test_figures_of_a_known_confusion_matrix():
    labels, values = np.repeat([0, 0, 1, 1], [80, 20, 10, 90]), np.repeat([0.1, 0.9, 0.1, 0.9], [80, 20, 10, 90])
    row = measure_operating_points(labels, values, np.arange(200), {"mine": 0.5}, 0.1)["mine"]
    assert row["confusion"] == [[80, 20], [10, 90]]
    assert row["threshold"] == 0.5
    figures = row["figures"]
    assert figures["sensitivity"] == pytest.approx(0.9)
    assert figures["positive_predictive_value"] == pytest.approx(0.09 / (0.09 + 0.18))
    assert figures["negative_predictive_value"] == pytest.approx(0.72 / (0.72 + 0.01))
    for name, (low, high) in row["intervals"].items():
        assert low < figures[name] < high
    row = measure_operating_points(np.zeros(20, int), np.full(20, 0.1), np.arange(20), {"paper": 0.5}, 0.1)["paper"]
    assert row["figures"]["sensitivity"] is row["figures"]["positive_predictive_value"] is None
    assert set(row["intervals"]) == {"specificity"}


def test_predictive_values_at_the_prevalence_of_the_data_are_its_shares():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 300)
    values = np.clip(0.3 * labels + 0.7 * rng.random(300), 0, 1)
    figures = classification_metrics(labels, values)
    positive, negative = predictive_values(figures["sensitivity"], figures["specificity"], labels.mean())
    assert positive == pytest.approx(figures["precision"])
    assert negative == pytest.approx(np.mean(labels[values <= 0.5] == 0))
    for prevalence in (0, 1, -0.1):
        with pytest.raises(ValueError, match="between 0 and 1"):
            predictive_values(0.9, 0.9, prevalence)
