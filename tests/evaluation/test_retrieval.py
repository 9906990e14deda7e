import shutil

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from mura_hf import CheckpointError, RetrievalIndex, StudyPredictor
from mura_hf.data import load_folder
from mura_hf.evaluation import (
    describe_index,
    index_checkpoint,
    measure_retrieval,
)
from mura_hf.models import BODY_PARTS, LABELS


def test_figures_are_those_of_each_study_searched_alone(evaluated, phantom_tree, rows):
    predictor, studies = StudyPredictor.from_pretrained(evaluated[0], device="cpu"), {}
    for row in rows.remove_columns("image"):
        studies.setdefault(row["study_id"], row)
    own = {study: number / 100 for number, study in enumerate(studies)}
    found = measure_retrieval(predictor, rows, own)
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


def test_near_duplicates_are_no_neighbours(evaluated, tmp_path, monkeypatch):
    """Forty films without patient ids, each of them twice: a copy of the query is never found."""
    rng = np.random.default_rng(2)
    for number in range(40):
        films = tmp_path / "films" / ("normal", "abnormal")[number % 2]
        films.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (64, 64)).astype(np.uint8)).save(films / f"{number}_a.png")
        shutil.copy(films / f"{number}_a.png", films / f"{number}_b.png")
    rows = load_folder(tmp_path / "films")["train"]
    predictor = StudyPredictor.from_pretrained(evaluated[0], device="cpu")
    source = {"data": {"key": "folder"}, "split": "train", "progress": False}
    index = RetrievalIndex.build(rows, predictor.model, predictor.processor, **source)
    monkeypatch.setattr(StudyPredictor, "index", index)
    asked, search = [], RetrievalIndex.search_codes

    def record(index, codes, k, **options):
        asked.append(search(index, codes, k, **options))
        return asked[-1]

    monkeypatch.setattr(RetrievalIndex, "search_codes", record)
    measure_retrieval(predictor, rows, dict.fromkeys(rows["study_id"], 0.5))
    assert len(asked) == len(rows) > 30
    for study, found in zip(sorted(rows["study_id"]), asked, strict=True):
        assert len(found) == 25
        assert study[: -len("_a.png")] not in {one.study_id[: -len("_a.png")] for one in found}


def test_the_index_is_that_of_the_training_data(evaluated, checkpoint, datasets, rows, phantom_tree):
    predictor = StudyPredictor.from_pretrained(evaluated[0], device="cpu")
    assert f"{len(datasets['train'])} views of train" in describe_index(predictor.index)[0]
    with pytest.raises(CheckpointError, match="has no index"):
        measure_retrieval(StudyPredictor.from_pretrained(checkpoint, device="cpu"), rows, {})
    with pytest.raises(CheckpointError, match=r"no training\.json"):  # see `load_splits`
        index_checkpoint(checkpoint, phantom_tree, cpu=True)
