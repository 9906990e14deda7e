import numpy as np
import pytest

from mura_hf.evaluation import bootstrap_confidence_intervals, bootstrap_mean, classification_metrics
from mura_hf.evaluation.bootstrap import BOOTSTRAPPED

RNG = np.random.default_rng(2)
LABELS = RNG.integers(0, 2, 120)
PROBABILITIES = np.round(np.clip(0.4 * LABELS + RNG.random(120) * 0.6, 0, 1), 1)  # with ties
PATIENTS = np.repeat(np.arange(60), 2)


def test_equals_a_loop_over_the_same_resamples():
    found = bootstrap_confidence_intervals(LABELS, PROBABILITIES, PATIENTS, n_resamples=200, seed=4)
    draws = np.random.default_rng(4).multinomial(60, np.full(60, 1 / 60), size=200)
    rows = []
    for draw in draws:
        chosen = np.repeat(np.arange(120), draw[PATIENTS])
        rows.append(classification_metrics(LABELS[chosen], PROBABILITIES[chosen]))
    for name in BOOTSTRAPPED:
        expected = np.quantile([row[name] for row in rows], [0.025, 0.975])
        np.testing.assert_allclose(found[name], expected, atol=1e-9)


def test_patients_are_drawn_not_rows():
    copies = 8  # the same rows again and again say nothing new
    alone = bootstrap_confidence_intervals(LABELS, PROBABILITIES, np.arange(120))
    repeated = bootstrap_confidence_intervals(
        np.tile(LABELS, copies), np.tile(PROBABILITIES, copies), np.tile(np.arange(120), copies)
    )
    np.testing.assert_allclose(alone["auroc"], repeated["auroc"], atol=1e-9)


def test_undefined_figures_are_left_out():
    found = bootstrap_confidence_intervals([0, 0, 0], [0.1, 0.2, 0.3], ["a", "b", "c"], n_resamples=20)
    assert "auroc" not in found
    assert "sensitivity" not in found
    assert found["specificity"] == (1, 1)


def test_refuses_a_mismatch():
    with pytest.raises(ValueError, match="same number"):
        bootstrap_confidence_intervals([0, 1], [0.5, 0.5], ["a"])


def test_the_interval_of_a_mean_equals_a_loop_over_the_same_resamples():
    draws = np.random.default_rng(4).multinomial(60, np.full(60, 1 / 60), size=200)
    means = [PROBABILITIES[np.repeat(np.arange(120), draw[PATIENTS])].mean() for draw in draws]
    found = bootstrap_mean(PROBABILITIES, PATIENTS, n_resamples=200, seed=4)
    np.testing.assert_allclose(found, np.quantile(means, [0.025, 0.975]), atol=1e-12)
    with pytest.raises(ValueError, match="same number"):
        bootstrap_mean([0.5], [])
