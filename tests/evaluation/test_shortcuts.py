import json

import cv2
import numpy as np
import pytest
from datasets import Image
from sklearn.linear_model import LogisticRegression

from mura_hf import DatasetError, Radiograph, load_mura, read_radiograph
from mura_hf.evaluation import audit_shortcuts, describe_shortcuts, draw_worst, measure_masking
from mura_hf.phantoms import write_phantom_mura

SIZE = 192


class _Study:
    threshold = 0.5

    def __init__(self, probability):
        self.probability = probability


class _Fitted:
    """A logistic regression on what stands out in each film's middle and, where seen, its border, fitted to a tree."""

    def __init__(self, rows, *, sees_border):
        self.facts = slice(None if sees_border else 1, None)
        files = [image["path"] for image in rows.cast_column("image", Image(decode=False))["image"]]
        facts = np.stack([self._facts(read_radiograph(file).pixels) for file in files])
        self.model = LogisticRegression(C=10.0, max_iter=2000).fit(facts, rows["label"])

    def __call__(self, views, body_part, heatmaps):
        films = [view.pixels if isinstance(view, Radiograph) else view / np.float32(255) for view in views]
        return _Study(float(self.model.predict_proba(np.stack([self._facts(film) for film in films]))[:, 1].mean()))

    def _facts(self, film):
        relief = film - cv2.morphologyEx(film, cv2.MORPH_OPEN, np.ones((9, 9), np.uint8))
        height, width = film.shape
        inner = (slice(height // 8, -height // 8), slice(width // 6, -width // 6))
        middle, border = relief[inner].max(), relief.copy()
        border[inner] = 0
        return np.array([border.max(), middle, film[inner].mean()])[self.facts]


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """Films whose marker gives the label away."""
    tree = write_phantom_mura(
        tmp_path_factory.mktemp("planted"), 120, seed=9, size=SIZE, valid_fraction=0.4, planted_marker=True,
        body_parts=["elbow", "forearm", "humerus"], progress=False,
    )  # fmt: skip
    return load_mura(tree)


@pytest.fixture(scope="module")
def models(datasets):
    """One that can see the marker, and one that cannot."""
    return [_Fitted(datasets["train"], sees_border=sees) for sees in (True, False)]


def test_a_planted_marker_is_caught_and_who_does_not_look_at_it_cleared(models):
    """A reduced `scripts/measure.py shortcuts`; the bundled checkpoint is audited in a test of its own."""
    caught, cleared = (audit_shortcuts(model, twins=21, size=SIZE, progress=False).record for model in models)
    row = caught["twins"]["marker"]
    assert row["verdict"] == "caught"
    assert row["absolute_low"] > 0.05
    assert row["mean"] > 0.1  # the marker stands for abnormal
    assert cleared["twins"]["marker"]["verdict"] == "cleared"
    told = " ".join(describe_shortcuts(caught))
    assert "Marker alone moves the answer by 0." in told
    assert "caught" in told
    json.dumps(caught)


def test_painting_a_planted_marker_over_is_caught_too(models, datasets, tmp_path):
    planted, plain = (audit_shortcuts(model, datasets["valid"], n_studies=40, progress=False) for model in models)
    row = planted.record["masking"]["markers"]
    assert row["verdict"] == "caught"
    assert row["mean"] < -0.05  # without its marker a film looks normal
    assert row["excess"] > 0.05
    assert plain.record["masking"]["markers"]["verdict"] != "caught"
    draw_worst(planted.worst, tmp_path / "worst.png", side=100, columns=3)
    sheet = cv2.imread(str(tmp_path / "worst.png"), cv2.IMREAD_GRAYSCALE)
    assert sheet.shape[1] == 3 * 206
    assert sheet.std() > 10
    again = measure_masking(models[0], datasets["valid"], 40, progress=False).report()
    assert again == planted.record["masking"]


def test_nothing_to_audit_with_is_an_error(models, datasets, tmp_path):
    with pytest.raises(ValueError, match="give films, or a number of twins"):
        audit_shortcuts(models[0])
    with pytest.raises(DatasetError, match="no films to paint over"):
        measure_masking(models[0], datasets["valid"].select([]))
    with pytest.raises(DatasetError, match="nothing to draw"):
        draw_worst({}, tmp_path / "worst.png")
