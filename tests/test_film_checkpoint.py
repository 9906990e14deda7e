"""The checkpoint for real films that comes with the package. Films cannot be part of the tests; those that it has not
seen are read where FracAtlas lies in data/fracatlas.
"""

from pathlib import Path

import numpy as np
import pytest
from datasets import Image

from mura_hf import StudyPredictor
from mura_hf.common import BUNDLED, DEFAULT
from mura_hf.evaluation import load_split
from mura_hf.inference import PHANTOM_WARNING
from mura_hf.metrics import classification_metrics
from mura_hf.models import MuraImageProcessor, golden_difference
from mura_hf.phantoms import render_phantom

FOLDER = BUNDLED["mura-film"]
FILMS = Path(__file__).parents[1] / "data" / "fracatlas"


@pytest.fixture(scope="module")
def predictor():
    return StudyPredictor.from_pretrained("mura-film", device="cpu")


def test_is_small():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) <= 20_000_000


def test_its_answers_are_those_that_were_measured(predictor):
    assert golden_difference(FOLDER, predictor.model, MuraImageProcessor.from_pretrained(FOLDER)) <= 1e-3


def test_says_what_it_calls_abnormal_and_nothing_of_phantoms(predictor):
    study = predictor([render_phantom(9, body_part="wrist", finding=None).pixels])
    assert study.abnormal_means.startswith("fractured")
    assert PHANTOM_WARNING not in study.warnings
    assert study.body_part is None
    assert study.views[0].alone == pytest.approx(study.probability, abs=1e-6)
    assert study.views[0].heatmap.max() in (0, 1)


def test_is_what_is_meant_where_none_is_named():
    assert DEFAULT == "mura-film"
    assert StudyPredictor.from_pretrained().checkpoint == "bundled: mura-film"


def test_finds_similar_films_and_shows_none(predictor):
    found = predictor.similar([render_phantom(9, body_part="hand", finding=None).pixels], 5)
    assert len({neighbour.study_id for neighbour in found}) == 5
    assert [neighbour.distance for neighbour in found] == sorted(neighbour.distance for neighbour in found)
    assert all(neighbour.study_id.startswith("IMG") and neighbour.thumbnail is None for neighbour in found)
    assert not {neighbour.label for neighbour in found} - {"normal", "abnormal"}


@pytest.mark.skipif(not FILMS.is_dir(), reason="FracAtlas does not lie in data/fracatlas")
def test_tells_fractured_arms_that_it_has_not_seen(predictor):
    rows = load_split(FOLDER, FILMS, "valid")[0].cast_column("image", Image(decode=False))
    upper = [n for n, region in enumerate(rows["region"]) if {"hand", "shoulder"} & set(region.split("+"))]
    rows = rows.select(upper[::2])
    found = [predictor([row["image"]["path"]], heatmaps=False).probability for row in rows]
    assert classification_metrics(np.asarray(rows["label"]), np.asarray(found))["auroc"] >= 0.7
