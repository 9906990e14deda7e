"""The checkpoint that comes with the package, on phantoms that it has never seen."""

import numpy as np
import pytest

from mura_hf import StudyPredictor
from mura_hf.evaluation import classification_metrics
from mura_hf.inference import BUNDLED_CHECKPOINT, PHANTOM_WARNING
from mura_hf.models import BODY_PARTS
from mura_hf.phantoms import FINDINGS, render_phantom

SEED = 700_000  # of no tree that it was trained on


@pytest.fixture(scope="module")
def predictor():
    return StudyPredictor.from_pretrained(BUNDLED_CHECKPOINT, device="cpu")


def test_is_small():
    assert sum(path.stat().st_size for path in BUNDLED_CHECKPOINT.iterdir()) <= 8_000_000


def test_tells_abnormal_studies_of_new_phantoms(predictor):
    labels, probabilities, right_parts, warned = [], [], [], []
    for number in range(84):
        part = BODY_PARTS[number % 7]
        finding = (None, "fracture", None, "fracture", None, FINDINGS[number % 2])[number // 7 % 6]
        views = [
            render_phantom(SEED + number, body_part=part, view=view, finding=finding).pixels
            for view in range(1 + number % 3)
        ]
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
    for number in range(40):
        phantom = render_phantom(SEED + number, body_part=BODY_PARTS[number % 7], finding="fracture")
        view = predictor([phantom.pixels]).views[0]
        if phantom.box is not None:
            row, column = np.unravel_index(view.heatmap.argmax(), view.heatmap.shape)
            x0, y0, x1, y1 = phantom.box
            reach = 16  # half a cell of the map on a 512-pixel film
            inside.append(x0 - reach <= column < x1 + reach and y0 - reach <= row < y1 + reach)
    assert np.mean(inside) >= 0.5
