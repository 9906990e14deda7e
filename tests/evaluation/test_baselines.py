import pytest
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from mura_hf import load_mura
from mura_hf.evaluation import measure_baselines


def test_baselines_of_phantoms(phantom_tree):
    datasets = load_mura(phantom_tree, dev_fraction=0.2, calib_fraction=0.2)
    found = measure_baselines(datasets["train"], datasets["valid"])
    assert list(found) == ["random", "constant", "view_count"]
    counts, labels = {}, {}
    for study, label in zip(datasets["valid"]["study_id"], datasets["valid"]["label"], strict=True):
        counts[study] = counts.get(study, 0) + 1
        labels[study] = label
    constant = found["constant"]["figures"]
    assert constant["n"] == len(labels)
    assert constant["auroc"] == 0.5
    assert constant["kappa"] == pytest.approx(0, abs=1e-12)
    # By hand: the smoothed share of abnormal studies with as many views.
    train, truth = {}, {}
    for study, label in zip(datasets["train"]["study_id"], datasets["train"]["label"], strict=True):
        train[study], truth[study] = train.get(study, 0) + 1, label
    overall = sum(truth.values()) / len(truth)
    answers = []
    for count in counts.values():
        same = [truth[study] for study, views in train.items() if views == count]
        answers.append((sum(same) + 10 * overall) / (len(same) + 10))
    figures = found["view_count"]["figures"]
    assert figures["auroc"] == pytest.approx(roc_auc_score(list(labels.values()), answers))
    called = [answer > 0.5 for answer in answers]
    assert figures["kappa"] == pytest.approx(cohen_kappa_score(list(labels.values()), called))
    low, high = found["view_count"]["intervals"]["auroc"]
    assert low <= figures["auroc"] <= high
