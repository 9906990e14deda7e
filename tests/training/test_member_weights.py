import numpy as np
import pytest

from mura_hf.training import fit_member_weights


def _loss(weights, probabilities, labels):
    mixed = np.asarray(weights) @ probabilities
    return -np.mean(np.log(np.where(labels == 1, mixed, 1 - mixed)))


def test_no_other_weights_are_better():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    good = np.clip(0.2 + 0.6 * labels + rng.normal(0, 0.3, 200), 0.01, 0.99)
    other = np.clip(0.2 + 0.6 * labels + rng.normal(0, 0.35, 200), 0.01, 0.99)
    noise = rng.uniform(0.02, 0.98, 200)
    probabilities = np.stack([good, other, noise])
    weights = fit_member_weights(probabilities, labels)
    assert sum(weights) == pytest.approx(1)
    assert min(weights) >= 0
    assert weights[0] > weights[1] > max(0.1, weights[2])
    grid = [(a, b, 1 - a - b) for a in np.linspace(0, 1, 51) for b in np.linspace(0, 1 - a, 51)]
    lowest = min(_loss(one, probabilities, labels) for one in grid)
    assert _loss(weights, probabilities, labels) <= lowest + 1e-9


def test_a_member_that_is_always_wrong_gets_nothing():
    labels = np.array([0, 1, 0, 1, 1])
    weights = fit_member_weights(np.stack([1.0 - labels, 0.2 + 0.6 * labels]), labels)
    np.testing.assert_allclose(weights, [0, 1], atol=1e-6)


def test_both_classes_are_needed():
    with pytest.raises(ValueError, match="normal and abnormal"):
        fit_member_weights(np.full((2, 3), 0.5), np.ones(3, int))
