import json
import shutil

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from mura_hf import CheckpointError, DatasetError, StudyPredictor
from mura_hf.data import split_digest
from mura_hf.evaluation import (
    describe_evaluation,
    describe_index,
    evaluate_checkpoint,
    index_checkpoint,
    measure_retrieval,
)
from mura_hf.evaluation.retrieval import take_views
from mura_hf.models import BODY_PARTS, LABELS
from mura_hf.phantoms import write_phantom_mura


@pytest.fixture(scope="module")
def indexed(checkpoint, phantom_tree, datasets, tmp_path_factory):
    """A checkpoint that claims to be trained on the phantoms, with an index of its train."""
    folder = shutil.copytree(checkpoint, tmp_path_factory.mktemp("indexed") / "checkpoint")
    digest = split_digest((name, study) for name, rows in datasets.items() for study in rows["study_id"])
    cut = {"dev_fraction": 0.1, "calib_fraction": 0.4, "seed": 0, "stratified": True}
    record = {"recipe": {"name": "x"}, "data": {"key": "phantoms", "split_digest": digest, "cut": cut}}
    (folder / "training.json").write_text(json.dumps(record))
    index = index_checkpoint(folder, phantom_tree, thumbnail_side=24, cpu=True, progress=False)
    assert f"{len(datasets['train'])} views of train" in describe_index(index)[0]
    assert not (folder / "retrieval.unfinished").exists()
    return folder


def test_figures_are_those_of_each_study_searched_alone(indexed, phantom_tree, rows):
    predictor, studies = StudyPredictor.from_pretrained(indexed, device="cpu"), {}
    for row in rows.remove_columns("image"):
        studies.setdefault(row["study_id"], row)
    own = {study: number / 100 for number, study in enumerate(studies)}
    found = measure_retrieval(predictor, rows, own, progress=False)
    assert (found["n"], found["index"]["views"]) == (len(studies), len(predictor.index))
    same, votes, labels = {"label": [], "body_part": []}, [], []
    for study, row in studies.items():
        files = sorted(phantom_tree.glob(f"valid/{study}_*/*.png"))
        near = predictor.index.search(files, k=25, exclude_patient=row["patient_id"])
        assert row["patient_id"] not in {one.patient_id for one in near}
        same["label"].append(np.mean([one.label == LABELS[row["label"]] for one in near[:5]]))
        same["body_part"].append(np.mean([one.body_part == BODY_PARTS[row["body_part"]] for one in near[:5]]))
        votes.append(np.mean([one.label == "abnormal" for one in near]))
        labels.append(row["label"])
    for name, shares in same.items():
        row = found["precision"][name]
        assert row["mean"] == pytest.approx(np.mean(shares))
        assert row["low"] <= row["mean"] <= row["high"]
        assert 0 < row["chance"] < 1
    assert found["precision"]["finding"]["n"] == len([row for row in studies.values() if row["finding"]])
    classification = found["classification"]
    votes_auroc, own_auroc = roc_auc_score(labels, votes), roc_auc_score(labels, list(own.values()))
    assert classification["neighbours"]["auroc"] == pytest.approx(votes_auroc)
    assert classification["classifier"]["auroc"] == pytest.approx(own_auroc)
    assert classification["difference"]["auroc"]["difference"] == pytest.approx(votes_auroc - own_auroc)


def test_an_evaluation_searches_the_index_if_there_is_one(indexed, checkpoint, rows):
    report = evaluate_checkpoint(indexed, rows, "valid", cpu=True)
    lines = "\n".join(describe_evaluation(json.loads((indexed / "evaluation.json").read_text())))
    assert f"label {report['retrieval']['precision']['label']['mean']:.3f}" in lines
    classifier = report["retrieval"]["classification"]["classifier"]["auroc"]
    assert classifier == pytest.approx(report["study"]["overall"]["figures"]["auroc"])
    with pytest.raises(CheckpointError, match="has no index"):
        measure_retrieval(StudyPredictor.from_pretrained(checkpoint, device="cpu"), rows, {}, progress=False)


def test_only_the_training_data_are_indexed(indexed, tmp_path, phantom_tree):
    other = write_phantom_mura(tmp_path / "other", 30, seed=9, size=64, workers=1, progress=False)
    with pytest.raises(DatasetError, match="is not what"):
        index_checkpoint(indexed, other, cpu=True, progress=False)
    with pytest.raises(CheckpointError, match="is not a folder"):
        index_checkpoint(tmp_path / "nowhere", phantom_tree)


def test_whole_studies_are_drawn(train_rows):
    taken = take_views(train_rows, 40)
    counts = {study: list(train_rows["study_id"]).count(study) for study in taken["study_id"]}
    assert 35 <= len(taken) <= 40
    assert sum(counts.values()) == len(taken)
    assert taken["study_id"] == take_views(train_rows, 40)["study_id"]
    assert len(take_views(train_rows, None)) == len(take_views(train_rows, 10**6)) == len(train_rows)
    with pytest.raises(ValueError, match="max_views is 0"):
        take_views(train_rows, 0)
