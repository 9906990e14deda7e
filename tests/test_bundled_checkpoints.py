"""The two checkpoints that come with the package, on phantoms that they have never seen."""

from io import BytesIO

import numpy as np
import pytest
from audit_shortcuts import audit_shortcuts
from PIL import Image

from mura_hf import StudyPredictor
from mura_hf.common import BODY_PARTS, BUNDLED, DEFAULT
from mura_hf.metrics import classification_metrics
from mura_hf.models import golden_difference
from mura_hf.phantoms import FINDINGS, render_phantom

SEED = 700_000  # not in any tree that mura-phantom was trained on
N_STUDIES = 28


@pytest.fixture(scope="module")
def phantom():
    return StudyPredictor.from_pretrained("mura-phantom", device="cpu")


@pytest.fixture(scope="module")
def film():
    return StudyPredictor.from_pretrained("mura-film", device="cpu")


def test_are_small_and_compute_the_golden_logits(phantom, film):
    for name, predictor in (("mura-phantom", phantom), ("mura-film", film)):
        folder = BUNDLED[name]
        assert sum(path.stat().st_size for path in folder.rglob("*")) <= 25_000_000
        assert golden_difference(folder, predictor.model, predictor.processor) <= 1e-3


def test_phantom_classifies_and_localises(phantom):
    labels, probabilities, right_parts, inside = [], [], [], []
    for number in range(N_STUDIES):
        part = BODY_PARTS[number % 7]
        finding = None if number // 7 % 2 else FINDINGS[number % len(FINDINGS)]
        views = [render_phantom(SEED + number, body_part=part, view=view, finding=finding) for view in range(2)]
        study = phantom([view.pixels for view in views])
        labels.append(int(finding is not None))
        probabilities.append(study.probability)
        right_parts.append(study.body_part == part)
        for view, truth in zip(study.views, views, strict=True):
            if truth.box is not None:
                row, column = np.unravel_index(view.heatmap.argmax(), view.heatmap.shape)
                x0, y0, x1, y1 = truth.box
                inside.append(x0 <= column < x1 and y0 <= row < y1)
    assert classification_metrics(labels, probabilities)["auroc"] >= 0.9
    assert np.mean(right_parts) >= 0.9
    assert np.mean(inside) >= 0.6
    assert any("synthetic" in warning for warning in study.warnings)


def test_phantom_follows_the_finding_and_not_the_marker(phantom):
    changes = audit_shortcuts(phantom, counterfactuals=7)[0]["counterfactuals"]
    assert changes["finding"]["median"] >= 0.4
    assert changes["marker"]["median_absolute"] <= 0.05
    assert changes["ring"]["median_absolute"] <= 0.05


def test_film_is_the_default_and_describes_its_positive_class(film):
    assert DEFAULT == "mura-film"
    assert StudyPredictor.from_pretrained().checkpoint == film.checkpoint
    study = film([render_phantom(9, body_part="wrist", finding=None).pixels])
    assert study.positive_class_description.startswith("fractured")
    assert not any("synthetic" in warning for warning in study.warnings)
    assert study.body_part is None
    assert study.views[0].single_view_probability == pytest.approx(study.probability, abs=1e-6)
    assert study.views[0].heatmap.max() in (0, 1)


def test_film_finds_similar_films_with_credited_pictures(film):
    found = film.similar([render_phantom(9, body_part="hand", finding=None).pixels], 5)
    assert len({neighbour.study_id for neighbour in found}) == 5
    assert [neighbour.distance for neighbour in found] == sorted(neighbour.distance for neighbour in found)
    assert all(neighbour.study_id.startswith("IMG") for neighbour in found)
    assert {max(Image.open(BytesIO(neighbour.thumbnail)).size) for neighbour in found} == {96}
    assert "CC BY 4.0" in film.index.record.picture_credit
