import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from mura_hf import DatasetError, StudyPredictor, load_mura
from mura_hf.errors import CheckpointError
from mura_hf.evaluation import evaluate_checkpoint, learn_distribution, measure_refusal
from mura_hf.evaluation.ood_detection import groups_of, in_scope
from mura_hf.inference import OOD_WARNING
from mura_hf.phantoms import UNRELATED_KINDS, render_unrelated
from mura_hf.retrieval import OOD_FILE
from mura_hf.retrieval import ood_detection as in_distribution
from tests.conftest import make_checkpoint, make_model


@pytest.fixture(scope="module")
def splits(phantom_tree):
    return load_mura(phantom_tree, dev_fraction=0.1, calib_fraction=0.4)


@pytest.fixture(scope="module")
def learned(splits, checkpoint, tmp_path_factory):
    """A checkpoint that knows what its training looked like, and the record of it."""
    folder = shutil.copytree(checkpoint, tmp_path_factory.mktemp("learned") / "checkpoint")
    (folder / "training.json").write_text(json.dumps({"seconds": 1.5}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(in_distribution, "_LEAST_VIEWS_OF_CALIB", 10)
        record = learn_distribution(folder, splits["train"], splits["calib"], cpu=True)
    return folder, record


def test_it_is_learned_from_train_and_told_in_the_record(splits, learned):
    folder, record = learned
    assert record["n_views"] == len(splits["train"]) == sum(record["groups"].values())
    assert record["n"] == len(splits["calib"])
    assert set(record["groups"]) <= {"elbow", "finger", "forearm", "hand", "humerus", "shoulder", "wrist"}
    assert record["outside"] == []
    assert json.loads((folder / "training.json").read_text()) == {"seconds": 1.5, "in_distribution": record}


def test_a_predictor_says_so_and_which_view_it_is(learned, phantom_files):
    predictor = StudyPredictor.from_pretrained(learned[0], device="cpu")
    page = render_unrelated(1, "text", size=128)
    study = predictor([*phantom_files, page], heatmaps=False)
    assert study.in_distribution is False
    assert study.unusual_percentile == 100
    assert study.views[-1].in_distribution is False
    assert OOD_WARNING in study.warnings
    told = json.loads(study.to_json())
    assert told["in_distribution"] is False
    assert [view["in_distribution"] for view in told["views"]] == [view.in_distribution for view in study.views]


def test_calib_itself_is_as_usual_as_its_percentiles_say(splits, learned):
    predictor = StudyPredictor.from_pretrained(learned[0], device="cpu")
    rows = splits["calib"]
    first = rows["study_id"][0]
    files = [image.filename for image, study in zip(rows["image"], rows["study_id"], strict=True) if study == first]
    study = predictor(files, heatmaps=False)
    assert study.in_distribution
    assert 0 <= study.unusual_percentile < 100
    assert OOD_WARNING not in study.warnings


def test_other_weights_make_it_unusable_and_the_answer_says_so(learned, tmp_path):
    other = make_checkpoint(tmp_path / "other", make_model(seed=5))
    shutil.copy(learned[0] / OOD_FILE, other)
    study = StudyPredictor.from_pretrained(other, device="cpu")([np.eye(64, dtype=np.uint8)])
    assert study.in_distribution is None
    assert study.unusual_percentile is None
    assert any("made for other weights" in warning for warning in study.warnings)


def test_models_by_body_part_and_too_small_calibs_are_refused(splits, checkpoint, tmp_path):
    folder = make_checkpoint(tmp_path / "special", make_model("mura_specialized"))
    with pytest.raises(CheckpointError, match="a model for each body part"):
        learn_distribution(folder, splits["train"], splits["calib"], cpu=True)
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    with pytest.raises(DatasetError, match=r"calib has \d+ views"):
        learn_distribution(folder, splits["train"], splits["calib"].select(range(5)), cpu=True)
    assert not (folder / OOD_FILE).exists()


def test_films_of_legs_are_out_of_scope_and_one_that_shows_a_hand_too_is_not():
    rows = Dataset.from_dict({"region": ["hand", "leg", "hip+leg", "leg+hand", "unknown"], "body_part": [None] * 5})
    assert groups_of(rows) == ["hand", "leg", "hip", "hand", "unknown"]
    assert in_scope(rows)["region"] == ["hand", "leg+hand", "unknown"]
    assert in_scope(rows, inside=False)["region"] == ["leg", "hip+leg"]


class _RefusesArrays:
    """Stands for a predictor that knows files, and is strange to whatever is handed over in memory."""

    model = SimpleNamespace(config=SimpleNamespace(trained_on_phantoms=False))

    def __call__(self, views, **options):
        return SimpleNamespace(in_distribution=not isinstance(views[0], np.ndarray))


def test_refusals_are_counted_by_kind(splits, tmp_path):
    predictor = _RefusesArrays()
    for number in range(3):
        Image.fromarray(render_unrelated(number, "noise", size=96)).save(tmp_path / f"{number}.png")
    report = measure_refusal(predictor, splits["valid"], {"sand": tmp_path}, n_pictures=4, progress=False)
    assert set(report["kinds"]) == {"inverted", *UNRELATED_KINDS, "phantoms", "sand"}  # not marked as made of phantoms
    assert "unseen_detector" not in report
    assert (report["kinds"]["sand"]["n"], report["kinds"]["sand"]["refused"]) == (3, 0)
    assert (report["kinds"]["chest"]["n"], report["kinds"]["chest"]["refused"]) == (4, 1)
    assert report["alarms"]["n"] == len(set(splits["valid"]["study_id"]))
    assert report["alarms"]["refused"] == 0
    for row in (report["alarms"], *report["kinds"].values()):
        assert 0 <= row["low"] <= row["refused"] <= row["high"] <= 1
        assert row["low"] < row["high"]
    with pytest.raises(DatasetError, match="holds no picture"):
        measure_refusal(predictor, splits["valid"], {"none": tmp_path / "nowhere"}, n_pictures=1, progress=False)


def test_evaluation_counts_them_where_the_checkpoint_can_tell(splits, learned, tmp_path, monkeypatch):
    monkeypatch.setattr("mura_hf.evaluation.ood_detection.N_PICTURES", 2)
    folder = shutil.copytree(learned[0], tmp_path / "checkpoint")
    rows = splits["valid"].select(range(12))
    assert "refusal" in evaluate_checkpoint(folder, rows, "valid", cpu=True)
    (folder / OOD_FILE).unlink()
    assert "refusal" not in evaluate_checkpoint(folder, rows, "valid", cpu=True)
