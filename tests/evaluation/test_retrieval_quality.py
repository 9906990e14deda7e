import json
import shutil

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from mura_hf import CheckpointError, DatasetError, StudyPredictor, load_mura
from mura_hf.data import split_digest
from mura_hf.evaluation import describe_evaluation, evaluate_checkpoint, index_checkpoint, measure_retrieval
from mura_hf.evaluation.retrieval import take_views
from mura_hf.models import BODY_PARTS, LABELS
from mura_hf.phantoms import write_phantom_mura


@pytest.fixture(scope="module")
def indexed(checkpoint, phantom_tree, tmp_path_factory):
    """A checkpoint that was "trained" on the phantoms, with an index of its train."""
    folder = shutil.copytree(checkpoint, tmp_path_factory.mktemp("indexed") / "checkpoint")
    datasets = load_mura(phantom_tree)
    digest = split_digest((name, study) for name, rows in datasets.items() for study in rows["study_id"])
    record = {
        "recipe": {"name": "x"},
        "data": {"key": "phantoms", "split_digest": digest, "cut": {"stratified": True}},
    }
    (folder / "training.json").write_text(json.dumps(record))
    index_checkpoint(folder, phantom_tree, thumbnail_side=24, cpu=True, progress=False)
    return folder


def test_figures_are_those_of_each_study_searched_by_hand(indexed, phantom_tree):
    predictor, rows = StudyPredictor.from_pretrained(indexed, device="cpu"), load_mura(phantom_tree)["valid"]
    studies = {}
    for row in rows:
        studies.setdefault(row["study_id"], row)
    own = {study: number / 100 for number, study in enumerate(studies)}
    found = measure_retrieval(predictor, rows, own, progress=False)
    assert (found["n"], found["index"]["views"]) == (len(studies), len(predictor.index))
    hits, votes, labels = {"label": [], "body_part": []}, [], []
    for study, row in studies.items():
        files = sorted(phantom_tree.glob(f"valid/{study}_*/*.png"))
        near = predictor.index.search(files, k=25, exclude_patient=row["patient_id"])
        assert row["patient_id"] not in {one.patient_id for one in near}
        hits["label"].append(np.mean([one.label == LABELS[row["label"]] for one in near[:5]]))
        hits["body_part"].append(np.mean([one.body_part == BODY_PARTS[row["body_part"]] for one in near[:5]]))
        votes.append(np.mean([one.label == "abnormal" for one in near]))
        labels.append(row["label"])
    for about, shares in hits.items():
        row = found["precision"][about]
        assert row["mean"] == pytest.approx(np.mean(shares))
        assert row["low"] <= row["mean"] <= row["high"]
        assert 0 < row["chance"] < 1
    abnormal = {row["study_id"] for row in studies.values() if row["finding"]}
    assert found["precision"]["finding"]["n"] == len(abnormal)
    votes_auroc = found["classification"]["neighbours"]["auroc"]
    assert votes_auroc == pytest.approx(roc_auc_score(labels, votes))
    assert found["classification"]["classifier"]["auroc"] == pytest.approx(roc_auc_score(labels, list(own.values())))
    difference = found["classification"]["difference"]["auroc"]
    assert difference["difference"] == pytest.approx(votes_auroc - roc_auc_score(labels, list(own.values())))


def test_an_evaluation_searches_the_index_where_there_is_one(indexed, checkpoint, phantom_tree):
    rows = load_mura(phantom_tree)["valid"]
    report = evaluate_checkpoint(indexed, rows, "valid", cpu=True)
    told = "\n".join(describe_evaluation(json.loads((indexed / "evaluation.json").read_text())))
    assert f"label {report['retrieval']['precision']['label']['mean']:.3f}" in told
    classifier = report["retrieval"]["classification"]["classifier"]["auroc"]
    assert classifier == pytest.approx(report["study"]["overall"]["figures"]["auroc"])
    with pytest.raises(CheckpointError, match="has no index"):
        measure_retrieval(StudyPredictor.from_pretrained(checkpoint, device="cpu"), rows, {}, progress=False)


def test_only_what_it_was_trained_on_is_indexed(indexed, tmp_path, phantom_tree):
    other = write_phantom_mura(tmp_path / "other", 30, seed=9, size=64, workers=1, progress=False)
    with pytest.raises(DatasetError, match="is not what"):
        index_checkpoint(indexed, other, cpu=True, progress=False)
    with pytest.raises(CheckpointError, match="is no folder"):
        index_checkpoint(tmp_path / "nowhere", phantom_tree)
    assert not (indexed / "retrieval.unfinished").exists()


def test_whole_studies_are_drawn(phantom_tree):
    rows = load_mura(phantom_tree)["train"]
    taken = take_views(rows, 40)
    counts = {study: list(rows["study_id"]).count(study) for study in taken["study_id"]}
    assert 35 <= len(taken) <= 40
    assert sum(counts.values()) == len(taken)
    assert taken["study_id"] == take_views(rows, 40)["study_id"]
    assert len(take_views(rows, None)) == len(take_views(rows, 10**6)) == len(rows)
    with pytest.raises(ValueError, match="max_views is 0"):
        take_views(rows, 0)
