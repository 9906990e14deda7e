import numpy as np
import pytest

from mura_hf.metrics import classification_metrics, constant_baseline, random_baseline, view_count_baseline


def test_random_draws_are_uniform_and_follow_the_seed():
    draws = random_baseline(20_000, seed=1)
    assert 0 <= draws.min() <= draws.max() < 1
    assert draws.mean() == pytest.approx(0.5, abs=0.01)
    assert np.var(draws) == pytest.approx(1 / 12, abs=0.002)
    np.testing.assert_array_equal(draws[:5], random_baseline(5, seed=1))
    assert not np.array_equal(draws[:5], random_baseline(5, seed=2))


def test_constant_equals_the_constant_answers_of_study_c():
    labels = np.r_[np.zeros(235, int), np.ones(230, int)]  # its elbow test set: 50.54 % for always normal
    assert classification_metrics(labels, constant_baseline(465, 0.0))["accuracy"] == pytest.approx(0.5054, abs=5e-5)
    assert classification_metrics(labels, constant_baseline(465, 1.0))["sensitivity"] == 1
    assert classification_metrics(labels, constant_baseline(465, 0.4))["auroc"] == 0.5
    with pytest.raises(ValueError, match=r"probability is 1\.5"):
        constant_baseline(3, 1.5)


def test_view_counts():
    counts, labels = [1, 1, 2, 2, 2, 4], [0, 0, 1, 1, 0, 1]
    np.testing.assert_allclose(  # overall share 1/2; 2 of 3 with two views, and so on; no study has 3
        view_count_baseline(counts, labels, [2, 1, 3, 4, 2], smoothing=2),
        [(2 + 1) / 5, (0 + 1) / 4, 0.5, (1 + 1) / 3, (2 + 1) / 5],
    )
    np.testing.assert_allclose(view_count_baseline(counts, labels, [1, 2, 4], smoothing=0), [0, 2 / 3, 1])
    falls, rises = np.diff(view_count_baseline(np.repeat([1, 2, 3], 100), np.repeat([1, 0, 1], 100), [1, 2, 3]))
    assert falls < -0.5 < 0.5 < rises  # more views need not mean more abnormal


@pytest.mark.parametrize(
    ("train", "labels", "asked", "smoothing", "message"),
    [
        ([1, 2], [1], [1], 10, "one label a study"),
        ([], [], [1], 10, "one label a study"),
        ([1, 2], [1, 0], [0], 10, "1 or above"),
        ([1, 2], [1, 0], [1], -1, "1 or above"),
    ],
)
def test_invalid_view_counts_are_refused(train, labels, asked, smoothing, message):
    with pytest.raises(ValueError, match=message):
        view_count_baseline(train, labels, asked, smoothing)
