import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve

from mura_hf.metrics import (
    aggregate_studies,
    classification_metrics,
    confusion_matrix,
    measure_curves,
    measure_reliability,
    view_count_baseline,
)

ROWS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 10)), min_size=1, max_size=60)


@settings(max_examples=30, deadline=None)
@given(rows=ROWS, threshold=st.sampled_from([0.3, 0.5]))
def test_equals_scikit_learn(rows, threshold):
    labels = np.array([label for label, _ in rows])
    probabilities = np.array([tenths / 10 for _, tenths in rows])
    called = probabilities > threshold
    both = 0 < labels.sum() < len(labels)
    expected = {
        "n": len(rows),
        "n_abnormal": labels.sum(),
        "accuracy": reference.accuracy_score(labels, called),
        "brier": reference.brier_score_loss(labels, probabilities, pos_label=1),
        "sensitivity": reference.recall_score(labels, called) if labels.any() else None,
        "specificity": reference.recall_score(1 - labels, ~called) if not labels.all() else None,
        "precision": reference.precision_score(labels, called) if called.any() else None,
        "f1": reference.f1_score(labels, called) if labels.any() or called.any() else None,
        "auroc": reference.roc_auc_score(labels, probabilities) if both else None,
        "auprc": reference.average_precision_score(labels, probabilities) if both else None,
        "kappa": reference.cohen_kappa_score(labels, called.astype(int)) if both else None,
    }
    found = classification_metrics(labels, probabilities, threshold)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    matrix = reference.confusion_matrix(labels, called, labels=[0, 1])
    assert confusion_matrix(labels, probabilities, threshold) == matrix.tolist()


def test_undefined_metrics_are_none():
    assert classification_metrics([1, 0], [0.5, 0.2])["sensitivity"] == 0  # the threshold itself is not abnormal
    for probabilities in ([0.1, 0.2], [0.9, 0.8], [0.1, 0.9]):
        for label, undefined in enumerate(("sensitivity", "specificity")):
            found = classification_metrics([label, label], probabilities)
            assert found["kappa"] is found["auroc"] is found["auprc"] is found[undefined] is None
    assert measure_curves(np.zeros(2), np.array([0.1, 0.2])) == {"roc": None, "precision_recall": None}
    found = classification_metrics([], [])
    assert found.pop("n") == found.pop("n_abnormal") == 0
    assert set(found.values()) == {None}


def test_calibration_error_and_reliability():
    labels, probabilities = [0, 1, 1, 1], [0.01, 0.02, 0.97, 1.0]
    assert classification_metrics(labels, probabilities)["ece"] == pytest.approx((abs(1 - 0.03) + abs(2 - 1.97)) / 4)
    rng = np.random.default_rng(5)
    labels, values = rng.integers(0, 2, 200), rng.random(200)
    bins = measure_reliability(labels, values)
    shares, means = calibration_curve(labels, values, n_bins=15)
    np.testing.assert_allclose([row["share"] for row in bins], shares)
    np.testing.assert_allclose([row["mean"] for row in bins], means)
    ece = sum(row["n"] * abs(row["mean"] - row["share"]) for row in bins) / 200
    assert ece == pytest.approx(classification_metrics(labels, values)["ece"])


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [([0, 1], [0.5], "shape"), ([0, 2], [0.5, 0.5], "0 .normal. or 1"), ([0, 1], [0.5, 1.5], r"\[0, 1\]")],
)
def test_invalid_predictions_are_refused(labels, probabilities, message):
    with pytest.raises(ValueError, match=message):
        classification_metrics(labels, probabilities)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("mean", [0.3, 0.5, 0.65, 0.0]),
        ("max", [0.6, 0.6, 1.0, 0.0]),
        ("noisy_or", [1 - 0.9 * 0.8 * 0.4, 1 - 0.6 * 0.4, 1.0, 0.0]),
    ],
)
def test_studies_are_pooled_in_first_seen_order(how, expected):
    studies, pooled = aggregate_studies(
        ["b", "a", "b", "c", "a", "b", "c", "d"], [0.1, 0.4, 0.2, 1.0, 0.6, 0.6, 0.3, 0.0], how
    )
    assert studies == ["b", "a", "c", "d"]
    np.testing.assert_allclose(pooled, expected, atol=1e-12)
    values = np.linspace(0, 1, 11)  # one view each
    np.testing.assert_allclose(aggregate_studies(range(11), values, how)[1], values, atol=1e-15)
    studies, pooled = aggregate_studies([], [], how)
    assert (studies, pooled.shape) == ([], (0,))


def test_pooling_keeps_small_probabilities_and_refuses_invalid_input():
    assert aggregate_studies(["a"] * 3, [1e-18] * 3, "noisy_or")[1] == pytest.approx(3e-18, rel=1e-9)
    for studies, values, how, message in (
        *((["a"], [value], "noisy_or", "noisy_or needs") for value in (1.2, -0.1, float("nan"))),
        (["a", "b"], [0.5], "mean", "2 study ids"),
        (["a"], [0.5], "median", "how is 'median'"),
    ):
        with pytest.raises(ValueError, match=message):
            aggregate_studies(studies, values, how)


def test_view_counts():
    counts, labels = [1, 1, 2, 2, 2, 4], [0, 0, 1, 1, 0, 1]
    np.testing.assert_allclose(  # overall share 1/2; 2 of 3 with two views, and so on; no study has 3
        view_count_baseline(counts, labels, [2, 1, 3, 4, 2], smoothing=2),
        [(2 + 1) / 5, (0 + 1) / 4, 0.5, (1 + 1) / 3, (2 + 1) / 5],
    )
    np.testing.assert_allclose(view_count_baseline(counts, labels, [1, 2, 4], smoothing=0), [0, 2 / 3, 1])
    falls, rises = np.diff(view_count_baseline(np.repeat([1, 2, 3], 100), np.repeat([1, 0, 1], 100), [1, 2, 3]))
    assert falls < -0.5 < 0.5 < rises  # more views need not mean more abnormal
