import numpy as np
import pytest
from bootstrap_speed import figures_of_scikit_learn, measure_bootstrap_cost, measure_coverage
from sklearn.metrics import roc_auc_score

from mura_hf.metrics import bootstrap_confidence_intervals, bootstrap_mean, classification_metrics, paired_bootstrap
from mura_hf.metrics.bootstrap import FIGURES, weighted_figures

RNG = np.random.default_rng(2)
LABELS = RNG.integers(0, 2, 120)
PROBABILITIES = np.round(np.clip(0.4 * LABELS + RNG.random(120) * 0.6, 0, 1), 1)  # with ties
OTHERS = np.round(np.clip(0.2 * LABELS + RNG.random(120) * 0.8, 0, 1), 1)  # a little worse
PATIENTS = np.repeat(np.arange(60), 2)


def test_equals_a_loop_over_the_same_resamples():
    found = bootstrap_confidence_intervals(LABELS, PROBABILITIES, PATIENTS, n_resamples=200, seed=4)
    draws = np.random.default_rng(4).multinomial(60, np.full(60, 1 / 60), size=200)
    rows = []
    for draw in draws:
        chosen = np.repeat(np.arange(120), draw[PATIENTS])
        rows.append(classification_metrics(LABELS[chosen], PROBABILITIES[chosen]))
    for name in FIGURES:
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


def test_paired_differences_equal_a_loop_with_scikit_learns_figures():
    found = paired_bootstrap(LABELS, PROBABILITIES, OTHERS, PATIENTS, n_resamples=150, level=0.9, seed=4)
    draws = np.random.default_rng(4).multinomial(60, np.full(60, 1 / 60), size=150)
    rows = []
    for chosen in [np.arange(120), *(np.repeat(np.arange(120), draw[PATIENTS]) for draw in draws)]:
        a, b = (figures_of_scikit_learn(LABELS[chosen], values[chosen]) for values in (PROBABILITIES, OTHERS))
        rows.append({name: a[name] - b[name] for name in a})
    assert list(found) == list(FIGURES)
    for name in rows[0]:
        row = found[name]
        resampled = np.array([row[name] for row in rows[1:]])
        assert row["difference"] == pytest.approx(rows[0][name], abs=1e-9)
        np.testing.assert_allclose([row["low"], row["high"]], np.quantile(resampled, [0.05, 0.95]), atol=1e-9)
        rarer = min((resampled <= 1e-12).sum(), (resampled >= -1e-12).sum())
        assert row["p_value"] == pytest.approx(min(1, 2 * (1 + rarer) / 151))
    assert found["auroc"]["low"] > 0
    assert found["auroc"]["p_value"] < 0.1


def test_swapping_the_two_turns_the_sign():
    one = paired_bootstrap(LABELS, PROBABILITIES, OTHERS, PATIENTS, n_resamples=200)
    other = paired_bootstrap(LABELS, OTHERS, PROBABILITIES, PATIENTS, n_resamples=200)
    for name in FIGURES:
        assert other[name]["difference"] == -one[name]["difference"]
        assert other[name]["low"] == pytest.approx(-one[name]["high"], abs=1e-12)
        assert other[name]["p_value"] == one[name]["p_value"]


def test_the_same_answers_do_not_differ():
    for row in paired_bootstrap(LABELS, OTHERS, OTHERS, PATIENTS, n_resamples=50).values():
        assert row == {"difference": 0, "low": 0, "high": 0, "p_value": 1}


def test_pairing_narrows_the_interval():
    nearly = np.where(np.arange(120) % 20, PROBABILITIES, OTHERS)
    paired = paired_bootstrap(LABELS, PROBABILITIES, nearly, PATIENTS)["auroc"]
    low, high = bootstrap_confidence_intervals(LABELS, PROBABILITIES, PATIENTS)["auroc"]
    assert paired["high"] - paired["low"] < 0.8 * (high - low)  # apart it would be 1.4 times as wide


def test_paired_differences_that_are_not_defined_are_left_out():
    found = paired_bootstrap([0, 0, 0], [0.1, 0.2, 0.7], [0.6, 0.2, 0.7], ["a", "b", "c"], n_resamples=20)
    assert "auroc" not in found
    assert found["specificity"]["difference"] == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="3 labels, 3 and 2 probabilities"):
        paired_bootstrap([0, 0, 1], [0.1, 0.2, 0.7], [0.6, 0.2], ["a", "b", "c"])


def test_several_runs_are_averaged_on_the_same_resamples():
    runs = np.stack([PROBABILITIES, OTHERS])
    twice = paired_bootstrap(LABELS, runs, OTHERS, PATIENTS, n_resamples=200)
    once = paired_bootstrap(LABELS, PROBABILITIES, OTHERS, PATIENTS, n_resamples=200)
    for name in FIGURES:  # the second run of a is b itself, so that half of the difference is left
        for value in ("difference", "low", "high"):
            assert twice[name][value] == pytest.approx(once[name][value] / 2, abs=1e-12)


def test_figures_of_several_runs_are_averaged_on_the_same_resamples():
    runs = [PROBABILITIES, OTHERS]
    found = bootstrap_confidence_intervals(LABELS, runs, PATIENTS, n_resamples=50)
    means = []
    for draw in np.random.default_rng(0).multinomial(60, np.full(60, 1 / 60), size=50):
        chosen = np.repeat(np.arange(120), draw[PATIENTS])
        means.append(np.mean([roc_auc_score(LABELS[chosen], run[chosen]) for run in runs]))
    np.testing.assert_allclose(found["auroc"], np.quantile(means, [0.025, 0.975]), atol=1e-9)
    alike = bootstrap_confidence_intervals(LABELS, [PROBABILITIES] * 3, PATIENTS)
    for name, limits in bootstrap_confidence_intervals(LABELS, PROBABILITIES, PATIENTS).items():
        assert alike[name] == pytest.approx(limits)


def test_each_may_have_its_own_threshold():
    found = paired_bootstrap(LABELS, PROBABILITIES, OTHERS, PATIENTS, (0.3, 0.7), n_resamples=50)
    expected = [
        classification_metrics(LABELS, values, at)["sensitivity"]
        for values, at in ((PROBABILITIES, 0.3), (OTHERS, 0.7))
    ]
    assert found["sensitivity"]["difference"] == pytest.approx(expected[0] - expected[1], abs=1e-12)


@pytest.mark.parametrize("label", [0, 1])
def test_resamples_of_one_class_have_what_a_loop_has(label):
    counts = np.array([[1.0, 2, 0, 1], [0, 0, 0, 3], [1, 1, 1, 1]])
    labels, values = np.array([label, label, 1 - label, label]), np.array([0.2, 0.7, 0.7, 0.9])
    found = weighted_figures(labels == 1, values, counts, 0.5)
    for number, draw in enumerate(counts.astype(int)):
        chosen = np.repeat(np.arange(4), draw)
        for name, value in classification_metrics(labels[chosen], values[chosen]).items():
            if name in FIGURES and value is None:
                assert not np.isfinite(found[name][number]), name
            elif name in FIGURES:
                assert found[name][number] == pytest.approx(value, abs=1e-12), name


def test_many_times_as_fast_as_scikit_learn_and_equal_to_it():
    found = measure_bootstrap_cost(n_resamples=100, progress=False)
    assert found["times_as_fast"] >= 10
    assert found["largest_difference"] <= 1e-9


def test_intervals_hold_the_truth_as_often_as_they_say():
    found = measure_coverage(n_simulations=500, n_resamples=400, progress=False)
    assert found.pop("simulations") == 500
    assert set(found) == set(FIGURES) - {"ece"}
    for name, share in found.items():
        assert 0.92 <= share <= 0.98, name
