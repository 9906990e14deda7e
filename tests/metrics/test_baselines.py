import numpy as np
import pytest

from mura_hf.metrics import classification_metrics, constant_baseline, random_baseline, view_count_baseline


def test_random_draws_are_uniform_and_the_seeds():
    draws = random_baseline(20_000, seed=1)
    assert draws.min() >= 0
    assert draws.max() < 1
    assert draws.mean() == pytest.approx(0.5, abs=0.01)
    assert np.var(draws) == pytest.approx(1 / 12, abs=0.002)
    np.testing.assert_array_equal(draws[:5], random_baseline(5, seed=1))
    assert not np.array_equal(draws[:5], random_baseline(5, seed=2))


def test_random_is_as_good_as_study_es():
    labels = np.r_[np.ones(4000, int), np.zeros(6000, int)]
    figures = classification_metrics(labels, random_baseline(10_000))
    for name in ("accuracy", "sensitivity", "specificity", "auroc"):
        assert figures[name] == pytest.approx(0.5, abs=0.03)


def test_constant_is_the_answers_of_study_c():
    labels = np.r_[np.zeros(235, int), np.ones(230, int)]  # its elbow test set: 50.54 % for always normal
    assert classification_metrics(labels, constant_baseline(465, 0.0))["accuracy"] == pytest.approx(0.5054, abs=5e-5)
    assert classification_metrics(labels, constant_baseline(465, 1.0))["sensitivity"] == 1
    assert classification_metrics(labels, constant_baseline(465, 0.4))["auroc"] == 0.5
    with pytest.raises(ValueError, match=r"probability is 1\.5"):
        constant_baseline(3, 1.5)


def test_view_counts_by_hand():
    counts, labels = [1, 1, 2, 2, 2, 4], [0, 0, 1, 1, 0, 1]
    np.testing.assert_allclose(  # overall share 1/2; 2 of 3 with two views, and so on; nothing has 3
        view_count_baseline(counts, labels, [2, 1, 3, 4, 2], smoothing=2),
        [(2 + 1) / 5, (0 + 1) / 4, 0.5, (1 + 1) / 3, (2 + 1) / 5],
    )
    np.testing.assert_allclose(view_count_baseline(counts, labels, [1, 2, 4], smoothing=0), [0, 2 / 3, 1])


def test_view_counts_need_not_rise():
    counts, labels = np.repeat([1, 2, 3], 100), np.repeat([1, 0, 1], 100)
    falls, rises = np.diff(view_count_baseline(counts, labels, [1, 2, 3]))
    assert falls < -0.5
    assert rises > 0.5


def test_view_counts_refuse_what_is_none():
    with pytest.raises(ValueError, match="one label a study"):
        view_count_baseline([1, 2], [1], [1])
    with pytest.raises(ValueError, match="one label a study"):
        view_count_baseline([], [], [1])
    with pytest.raises(ValueError, match="1 or above"):
        view_count_baseline([1, 2], [1, 0], [0])
    with pytest.raises(ValueError, match="1 or above"):
        view_count_baseline([1, 2], [1, 0], [1], smoothing=-1)
