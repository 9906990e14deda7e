import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from sklearn.metrics import roc_auc_score

from mura_hf.metrics import (
    OPERATING_POINTS,
    choose_operating_points,
    classification_metrics,
    confusion_matrix,
    measure_operating_points,
    predictive_values,
)

ROWS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 12)), min_size=2, max_size=40).filter(
    lambda rows: len({label for label, _ in rows}) == 2
)


@settings(max_examples=80, deadline=None)
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

    def is_safe(wrong, right):  # by the binomial distribution itself
        return binom.cdf(wrong, wrong + right, 0.05) <= 0.1 + 1e-9

    others = [at(threshold) for threshold in np.linspace(0, 1, 49)]  # between all values, and at each
    hits, misses, rejections, alarms = at(found["youden"])
    gains = [a / (a + b) + c / (c + d) for a, b, c, d in others]
    assert hits / (hits + misses) + rejections / (rejections + alarms) == pytest.approx(max(gains))
    safe = [rejected for hits, misses, rejected, _ in others if is_safe(misses, hits)]
    assert ("sensitivity_95" in found) == bool(safe)
    if safe:
        hits, misses, rejections, _ = at(found["sensitivity_95"])
        assert is_safe(misses, hits)
        assert rejections == max(safe)
    safe = [hit for hit, _, rejected, alarmed in others if is_safe(alarmed, rejected)]
    assert ("specificity_95" in found) == bool(safe)
    if safe:
        hits, _, rejections, alarms = at(found["specificity_95"])
        assert is_safe(alarms, rejections)
        assert hits == max(safe)


def test_thresholds_lie_between_probabilities_and_are_short():
    labels, values = np.repeat([0, 0, 1, 1], 10), np.repeat([0.1, 0.2, 0.6, 0.8], 10)
    assert choose_operating_points(labels, values) == {"paper": 0.5, "youden": pytest.approx(0.4)}
    values = np.repeat([0.12340001, 0.12340003, 0.9], 50)
    found = choose_operating_points(np.repeat([0, 1, 1], 50), values)["sensitivity_95"]
    assert 0.12340001 <= found < 0.12340003  # four digits would change how a study is called


def test_what_cannot_be_supported_is_not_chosen():
    labels, values = np.repeat([0, 1], 45), np.repeat([0.2, 0.8], 45)
    assert list(choose_operating_points(labels, values)) == list(OPERATING_POINTS)
    assert list(choose_operating_points(labels[1:], values[1:])) == ["paper", "youden", "sensitivity_95"]
    assert list(choose_operating_points(labels[:-1], values[:-1])) == ["paper", "youden", "specificity_95"]
    pairs = np.arange(90) // 2  # two studies of a patient count as one
    assert list(choose_operating_points(labels, values, pairs)) == ["paper", "youden"]
    assert list(choose_operating_points([0, 1], [0.1, 0.9])) == ["paper"]
    for labels, values, message in (
        ([1, 1], [0.2, 0.4], "both normal and abnormal studies"),
        ([0, 0, 1, 1], [0.9, 0.8, 0.2, 0.1], "normal studies have the higher probabilities"),
    ):
        with pytest.raises(ValueError, match=message):
            choose_operating_points(labels, values)


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
