import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from mura_hf.metrics import classification_metrics, confusion_matrix, matrix_metrics

ROWS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 10)), min_size=1, max_size=60)


@settings(max_examples=100, deadline=None)
@given(rows=ROWS, threshold=st.sampled_from([0.3, 0.5]))
def test_equals_scikit_learn(rows, threshold):
    labels = np.array([label for label, _ in rows])
    probabilities = np.array([tenths / 10 for _, tenths in rows])
    called = probabilities > threshold
    found = classification_metrics(labels, probabilities, threshold)
    assert found["n"] == len(rows)
    assert found["n_abnormal"] == labels.sum()
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(labels, called), abs=1e-12)
    assert found["brier"] == pytest.approx(reference.brier_score_loss(labels, probabilities, pos_label=1), abs=1e-12)
    if labels.any():
        assert found["sensitivity"] == pytest.approx(reference.recall_score(labels, called), abs=1e-12)
    else:
        assert found["sensitivity"] is None
    if not labels.all():
        assert found["specificity"] == pytest.approx(reference.recall_score(1 - labels, ~called), abs=1e-12)
    else:
        assert found["specificity"] is None
    if called.any():
        assert found["precision"] == pytest.approx(reference.precision_score(labels, called), abs=1e-12)
    else:
        assert found["precision"] is None
    if labels.any() or called.any():
        assert found["f1"] == pytest.approx(reference.f1_score(labels, called), abs=1e-12)
    if 0 < labels.sum() < len(labels):
        assert found["auroc"] == pytest.approx(reference.roc_auc_score(labels, probabilities), abs=1e-12)
        assert found["auprc"] == pytest.approx(reference.average_precision_score(labels, probabilities), abs=1e-12)
        assert found["kappa"] == pytest.approx(reference.cohen_kappa_score(labels, called.astype(int)), abs=1e-12)
    else:
        assert found["auroc"] is found["auprc"] is found["kappa"] is None
    matrix = reference.confusion_matrix(labels, called, labels=[0, 1])
    assert confusion_matrix(labels, probabilities, threshold) == matrix.tolist()


def test_a_known_confusion_matrix():
    labels = np.repeat([0, 0, 1, 1], [1414, 253, 467, 1063])
    probabilities = np.repeat([0.0, 1.0, 0.0, 1.0], [1414, 253, 467, 1063])
    matrix = [[1414, 253], [467, 1063]]
    assert confusion_matrix(labels, probabilities) == matrix
    found = classification_metrics(labels, probabilities)
    assert matrix_metrics(matrix).items() <= found.items()
    assert found["accuracy"] == pytest.approx(0.77479, abs=5e-6)
    assert found["kappa"] == pytest.approx(0.54614, abs=5e-6)
    assert found["sensitivity"] == pytest.approx(0.69477, abs=5e-6)
    assert found["specificity"] == pytest.approx(0.84823, abs=5e-6)


def test_the_threshold_itself_is_not_abnormal():
    assert classification_metrics([1, 0], [0.5, 0.2])["sensitivity"] == 0


@pytest.mark.parametrize("label", [0, 1])
def test_what_compares_classes_is_not_defined_for_one(label):
    for probabilities in ([0.1, 0.2], [0.9, 0.8], [0.1, 0.9]):
        found = classification_metrics([label, label], probabilities)
        assert found["kappa"] is found["auroc"] is found["auprc"] is None
        assert found["sensitivity" if label == 0 else "specificity"] is None


def test_calibration_error_by_hand():
    labels, probabilities = [0, 1, 1, 1], [0.01, 0.02, 0.97, 1.0]
    assert classification_metrics(labels, probabilities)["ece"] == pytest.approx((abs(1 - 0.03) + abs(2 - 1.97)) / 4)


def test_nothing_is_nothing():
    found = classification_metrics([], [])
    assert found.pop("n") == found.pop("n_abnormal") == 0
    assert set(found.values()) == {None}


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [([0, 1], [0.5], "shape"), ([0, 2], [0.5, 0.5], "0 .normal. or 1"), ([0, 1], [0.5, 1.5], r"\[0, 1\]")],
)
def test_refuses_what_is_no_prediction(labels, probabilities, message):
    with pytest.raises(ValueError, match=message):
        classification_metrics(labels, probabilities)
