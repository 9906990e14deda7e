import numpy as np
import pytest
from bootstrap import _figures_of_scikit_learn

from mura_hf.metrics import bootstrap_confidence_intervals, classification_metrics, paired_bootstrap
from mura_hf.metrics.classification import FIGURES, weighted_figures

RNG = np.random.default_rng(2)
LABELS = RNG.integers(0, 2, 120)
PROBABILITIES = np.round(np.clip(0.4 * LABELS + RNG.random(120) * 0.6, 0, 1), 1)  # with ties
OTHERS = np.round(np.clip(0.2 * LABELS + RNG.random(120) * 0.8, 0, 1), 1)  # a little worse
PATIENTS = np.repeat(np.arange(60), 2)


def _resamples(n, seed):
    """Rows of each resample, drawn in a loop."""
    for draw in np.random.default_rng(seed).multinomial(60, np.full(60, 1 / 60), size=n):
        yield np.repeat(np.arange(120), draw[PATIENTS])


def test_equals_a_loop_over_the_same_resamples():
    found = bootstrap_confidence_intervals(LABELS, PROBABILITIES, PATIENTS, n_resamples=100, seed=4)
    rows = [classification_metrics(LABELS[chosen], PROBABILITIES[chosen]) for chosen in _resamples(100, 4)]
    for name in FIGURES:
        np.testing.assert_allclose(found[name], np.quantile([row[name] for row in rows], [0.025, 0.975]), atol=1e-9)


def test_the_same_seed_gives_the_same_bits():
    """Values of the first edition."""
    found = bootstrap_confidence_intervals(LABELS, PROBABILITIES, PATIENTS)
    assert found["auroc"] == (0.890281171679198, 0.9679129464285714)
    compared = paired_bootstrap(LABELS, PROBABILITIES, OTHERS, PATIENTS)["kappa"]
    assert list(compared) == ["difference", "low", "high", "p_value"]
    assert list(compared.values())[:3] == [0.4600382604632143, 0.22972596969495557, 0.6867261414879023]


def test_undefined_figures_are_left_out():
    found = bootstrap_confidence_intervals([0, 0, 0], [0.1, 0.2, 0.3], ["a", "b", "c"], n_resamples=20)
    assert found["specificity"] == (1, 1)
    compared = paired_bootstrap([0, 0, 0], [0.1, 0.2, 0.7], [0.6, 0.2, 0.7], ["a", "b", "c"], n_resamples=20)
    assert not {"auroc", "sensitivity"} & {*found, *compared}
    assert compared["specificity"]["difference"] == pytest.approx(1 / 3)


def test_mismatches_are_refused():
    for measure, given, message in (
        (bootstrap_confidence_intervals, ([0, 1], [0.5, 0.5], ["a"]), "same length"),
        (paired_bootstrap, ([0, 1], [0.1, 0.7], [0.6], ["a", "b"]), "2 labels, 2 and 1 probabilities"),
    ):
        with pytest.raises(ValueError, match=message):
            measure(*given)


def test_paired_differences_equal_a_loop_with_scikit_learn():
    found = paired_bootstrap(LABELS, PROBABILITIES, OTHERS, PATIENTS, n_resamples=40, level=0.9, seed=4)
    rows = []
    for chosen in [np.arange(120), *_resamples(40, 4)]:
        a, b = (_figures_of_scikit_learn(LABELS[chosen], values[chosen]) for values in (PROBABILITIES, OTHERS))
        rows.append({name: a[name] - b[name] for name in a})
    assert list(found) == list(FIGURES)
    for name in rows[0]:
        row = found[name]
        resampled = np.array([row[name] for row in rows[1:]])
        assert row["difference"] == pytest.approx(rows[0][name], abs=1e-9)
        np.testing.assert_allclose([row["low"], row["high"]], np.quantile(resampled, [0.05, 0.95]), atol=1e-9)
    assert found["auroc"]["low"] > 0
    assert found["auroc"]["p_value"] < 0.1


def test_a_pair_is_symmetric_and_narrower_than_two_intervals():
    one = paired_bootstrap(LABELS, PROBABILITIES, OTHERS, PATIENTS, n_resamples=200)
    other = paired_bootstrap(LABELS, OTHERS, PROBABILITIES, PATIENTS, n_resamples=200)
    for name, row in one.items():
        mirrored = {**row, "difference": -row["difference"], "low": -row["high"], "high": -row["low"]}
        assert other[name] == pytest.approx(mirrored, abs=1e-12)
    for name, row in paired_bootstrap(LABELS, OTHERS, OTHERS, PATIENTS, n_resamples=50).items():
        assert row == {"difference": 0, "low": 0, "high": 0, "p_value": None if name == "ece" else 1}
    nearly = np.where(np.arange(120) % 20, PROBABILITIES, OTHERS)
    paired = paired_bootstrap(LABELS, PROBABILITIES, nearly, PATIENTS)["auroc"]
    low, high = bootstrap_confidence_intervals(LABELS, PROBABILITIES, PATIENTS)["auroc"]
    assert paired["high"] - paired["low"] < 0.8 * (high - low)  # unpaired it would be 1.4 times as wide


def test_each_model_may_have_its_own_threshold():
    found = paired_bootstrap(LABELS, PROBABILITIES, OTHERS, PATIENTS, (0.3, 0.7), n_resamples=50)
    one, other = classification_metrics(LABELS, PROBABILITIES, 0.3), classification_metrics(LABELS, OTHERS, 0.7)
    assert found["sensitivity"]["difference"] == pytest.approx(one["sensitivity"] - other["sensitivity"], abs=1e-12)


@pytest.mark.parametrize("label", [0, 1])
def test_resamples_of_one_class_equal_a_loop(label):
    counts = np.array([[1.0, 2, 0, 1], [0, 0, 0, 3], [1, 1, 1, 1]])
    labels, values = np.array([label, label, 1 - label, label]), np.array([0.2, 0.7, 0.7, 0.9])
    found = weighted_figures(labels == 1, values, counts, 0.5)
    for number, draw in enumerate(counts.astype(int)):
        chosen = np.repeat(np.arange(4), draw)
        expected = classification_metrics(labels[chosen], values[chosen])
        shown = {name: found[name][number] if np.isfinite(found[name][number]) else None for name in FIGURES}
        assert shown == pytest.approx({name: expected[name] for name in FIGURES}, abs=1e-12)
