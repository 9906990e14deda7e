import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mura_hf.metrics import (
    OPERATING_POINTS,
    choose_operating_points,
    classification_metrics,
    confusion_matrix,
    matrix_metrics,
    measure_operating_points,
    predictive_values,
)

ROWS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 12)), min_size=2, max_size=40).filter(
    lambda rows: len({label for label, _ in rows}) == 2
)


@settings(max_examples=80, deadline=None)
@given(rows=ROWS)
def test_no_other_threshold_is_better(rows):
    labels, values = np.array(rows).T
    values = values / 12
    found = choose_operating_points(labels, values)
    assert list(found) == list(OPERATING_POINTS)
    assert found["paper"] == 0.5
    assert all(0 <= threshold <= 1 for threshold in found.values())

    def at(threshold):
        figures = matrix_metrics(confusion_matrix(labels, values, threshold))
        return figures["sensitivity"], figures["specificity"]

    others = [at(threshold) for threshold in np.linspace(0, 1, 49)]  # between all values, and at each
    sensitive, specific = at(found["sensitivity_95"]), at(found["specificity_95"])
    assert sum(at(found["youden"])) == pytest.approx(max(map(sum, others)))
    if max(one for one, _ in others) >= 0.95:  # a probability of 0 is never above a threshold
        assert sensitive[0] >= 0.95
        assert sensitive[1] >= max(two for one, two in others if one >= 0.95) - 1e-12
    assert specific[1] >= 0.95
    assert specific[0] >= max(one for one, two in others if two >= 0.95) - 1e-12


def test_thresholds_lie_between_probabilities_and_are_short():
    assert choose_operating_points([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.8])["youden"] == pytest.approx(0.4)
    found = choose_operating_points([0, 1, 1], [0.12340001, 0.12340003, 0.9])["sensitivity_95"]
    assert 0.12340001 <= found < 0.12340003  # four digits would change how a study is called
    with pytest.raises(ValueError, match="both normal and abnormal studies"):
        choose_operating_points([1, 1], [0.2, 0.4])


def test_figures_of_a_known_confusion_matrix():
    labels, values = np.repeat([0, 0, 1, 1], [80, 20, 10, 90]), np.repeat([0.1, 0.9, 0.1, 0.9], [80, 20, 10, 90])
    row = measure_operating_points(labels, values, np.arange(200), {"mine": 0.5}, 0.1, n_resamples=500)["mine"]
    assert row["confusion"] == [[80, 20], [10, 90]]
    assert row["threshold"] == 0.5
    figures = row["figures"]
    assert figures["sensitivity"] == pytest.approx(0.9)
    assert figures["positive_predictive_value"] == pytest.approx(0.09 / (0.09 + 0.18))
    assert figures["negative_predictive_value"] == pytest.approx(0.72 / (0.72 + 0.01))
    for name, (low, high) in row["intervals"].items():
        assert low < figures[name] < high
    row = measure_operating_points([0, 0], [0.1, 0.2], ["a", "b"], {"paper": 0.5}, 0.1, n_resamples=20)["paper"]
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
