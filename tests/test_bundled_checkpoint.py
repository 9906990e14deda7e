"""The checkpoint that comes with the package, on phantoms that it has never seen."""

import numpy as np
import pytest

from mura_hf import StudyPredictor
from mura_hf.common import BUNDLED
from mura_hf.evaluation import audit_shortcuts
from mura_hf.inference import PHANTOM_WARNING
from mura_hf.metrics import classification_metrics
from mura_hf.models import BODY_PARTS
from mura_hf.phantoms import FINDINGS, render_phantom

SEED = 700_000  # of no tree that it was trained on


@pytest.fixture(scope="module")
def predictor():
    return StudyPredictor.from_pretrained(BUNDLED["mura-phantom"], device="cpu")


def test_is_small():
    assert sum(path.stat().st_size for path in BUNDLED["mura-phantom"].iterdir()) <= 20_000_000


def test_tells_abnormal_studies_of_new_phantoms(predictor):
    labels, probabilities, right_parts, warned = [], [], [], []
    for number in range(84):
        part = BODY_PARTS[number % 7]
        finding = None if number // 7 % 2 else FINDINGS[number % len(FINDINGS)]
        views = [render_phantom(SEED + number, body_part=part, view=view, finding=finding).pixels for view in range(3)]
        study = predictor(views, heatmaps=False)
        labels.append(int(finding is not None))
        probabilities.append(study.probability)
        right_parts.append(study.body_part == part)
        warned.append(PHANTOM_WARNING in study.warnings)
    assert classification_metrics(labels, probabilities)["auroc"] >= 0.9
    assert np.mean(right_parts) >= 0.9
    assert all(warned)


def test_looks_at_the_finding(predictor):
    inside = []
    for number in range(56):
        finding = FINDINGS[number % len(FINDINGS)]
        phantom = render_phantom(SEED + number, body_part=BODY_PARTS[number % 7], finding=finding)
        view = predictor([phantom.pixels]).views[0]
        if phantom.box is not None:
            row, column = np.unravel_index(view.heatmap.argmax(), view.heatmap.shape)
            x0, y0, x1, y1 = phantom.box
            inside.append(x0 <= column < x1 and y0 <= row < y1)
    assert np.mean(inside) >= 0.6


def test_the_finding_moves_the_answer_and_a_marker_or_ring_does_not(predictor):
    twins = audit_shortcuts(predictor, twins=28, progress=False).record["twins"]
    assert twins["finding"]["median"] >= 0.4
    assert twins["marker"]["verdict"] == "cleared"
    assert twins["marker"]["median_absolute"] <= 0.05
    assert twins["ring"]["median_absolute"] <= 0.05
