import numpy as np
import pytest

from mura_hf.evaluation import aggregate_studies


def test_mean_by_study_in_first_seen_order():
    studies, means = aggregate_studies(["b", "a", "b", "c", "a", "b"], [0.1, 0.4, 0.2, 1.0, 0.6, 0.6])
    assert studies == ["b", "a", "c"]
    np.testing.assert_allclose(means, [0.3, 0.5, 1.0])


def test_nothing_gives_nothing():
    studies, means = aggregate_studies([], [])
    assert studies == []
    assert means.shape == (0,)


def test_refuses_mismatch_and_unknown_rule():
    with pytest.raises(ValueError, match="2 study ids"):
        aggregate_studies(["a", "b"], [0.5])
    with pytest.raises(ValueError, match="how is 'median'"):
        aggregate_studies(["a"], [0.5], how="median")
