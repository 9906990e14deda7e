import numpy as np
import pytest

from mura_hf.metrics import aggregate_studies


def test_mean_by_study_in_first_seen_order():
    studies, means = aggregate_studies(["b", "a", "b", "c", "a", "b"], [0.1, 0.4, 0.2, 1.0, 0.6, 0.6])
    assert studies == ["b", "a", "c"]
    np.testing.assert_allclose(means, [0.3, 0.5, 1.0])


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("max", [0.6, 0.6, 1.0, 0.0]),
        ("noisy_or", [1 - 0.9 * 0.8 * 0.4, 1 - 0.6 * 0.4, 1.0, 0.0]),
    ],
)
def test_max_and_noisy_or(how, expected):
    studies, pooled = aggregate_studies(
        ["b", "a", "b", "c", "a", "b", "c", "d"], [0.1, 0.4, 0.2, 1.0, 0.6, 0.6, 0.3, 0.0], how
    )
    assert studies == ["b", "a", "c", "d"]
    np.testing.assert_allclose(pooled, expected, atol=1e-12)


def test_noisy_or_keeps_small_probabilities():
    assert aggregate_studies(["a"] * 3, [1e-18] * 3, "noisy_or")[1] == pytest.approx(3e-18, rel=1e-9)


@pytest.mark.parametrize("how", ["max", "noisy_or"])
def test_one_view_is_its_study(how):
    values = np.linspace(0, 1, 11)
    np.testing.assert_allclose(aggregate_studies(range(11), values, how)[1], values, atol=1e-15)
    assert aggregate_studies([], [], how)[1].shape == (0,)


def test_noisy_or_refuses_what_is_no_probability():
    for value in (1.2, -0.1, float("nan")):
        with pytest.raises(ValueError, match="noisy_or needs"):
            aggregate_studies(["a"], [value], "noisy_or")


def test_nothing_gives_nothing():
    studies, means = aggregate_studies([], [])
    assert studies == []
    assert means.shape == (0,)


def test_refuses_mismatch_and_unknown_rule():
    with pytest.raises(ValueError, match="2 study ids"):
        aggregate_studies(["a", "b"], [0.5])
    with pytest.raises(ValueError, match="how is 'median'"):
        aggregate_studies(["a"], [0.5], how="median")
