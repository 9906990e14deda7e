import base64
import dataclasses
import io
import re

import numpy as np
import pytest
from PIL import Image

from mura_hf import StudyPredictor, read_radiograph
from mura_hf.demo.answer import EMPTY, answer_html, chance_text, is_withheld, views_html
from mura_hf.demo.pictures import film_url, heat_url
from mura_hf.explain import Box, Region
from mura_hf.inference import STRANGE_WARNING
from tests.inference.strangers import save_stranger

REGION = Region(Box(10, 20, 30, 60), 800, 0.1, 0.9)


@pytest.fixture(scope="module")
def study(checkpoint, phantom_files):
    return StudyPredictor.from_pretrained(checkpoint)(phantom_files)


@pytest.mark.parametrize(
    ("band", "words"),
    [("abnormal", "Abnormal: flagged"), ("uncertain", "Uncertain"), ("normal", "does not exclude a fracture")],
)
def test_words_stand_beside_colour_and_what_abnormal_means_beside_the_verdict(study, band, words):
    html = answer_html(dataclasses.replace(study, band=band, abnormal_means="fractured <or> not"))
    assert words in html
    assert "Abnormal means fractured &lt;or&gt; not." in html
    assert "does not tell" in answer_html(dataclasses.replace(study, abnormal_means=None))
    assert f"P(abnormal) {study.probability:.2f}" in html
    assert study.body_part in html
    assert "healthy" not in html.lower()


def test_warnings_and_problems_are_shown_and_escaped(study):
    html = answer_html(dataclasses.replace(study, warnings=["Mind <this>"]), ["<img src=x>.png is empty."])
    assert "Mind &lt;this&gt;" in html
    assert "&lt;img src=x&gt;.png is empty." in html
    assert "<img" not in html
    assert answer_html(None) == EMPTY


def test_each_view_has_its_picture_overlay_and_probability(study, phantom_files):
    radiographs = [read_radiograph(file) for file in phantom_files]
    views = [
        dataclasses.replace(study.views[0], name="<b>1</b>.png", alone=0.9, regions=[REGION]),
        *study.views[1:],
    ]
    html = views_html(dataclasses.replace(study, views=views), radiographs)
    assert html.count('class="heat"') == html.count('class="film"') == len(phantom_files)
    assert html.count('class="box"') == 1 + sum(view.box is not None for view in study.views[1:])
    assert "&lt;b&gt;1&lt;/b&gt;.png" in html
    assert "flagged" in html
    left = re.search(r'class="box" style="left:([\d.]+)%', html)[1]
    assert float(left) == pytest.approx(100 * 10 / views[0].width, abs=0.01)


@pytest.mark.parametrize(
    ("probability", "text"),
    [(0.0, "below 0.01"), (0.005, "0.01"), (0.5, "0.50"), (0.994, "0.99"), (1.0, "above 0.99")],
)
def test_no_probability_reads_as_certain(probability, text):
    assert chance_text(probability) == text


def _decode(url):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,")))))


def test_pictures_are_what_they_show():
    pixels = np.linspace(0, 1, 120 * 80, dtype=np.float32).reshape(120, 80)
    np.testing.assert_array_equal(_decode(film_url(pixels)), np.rint(pixels * 255))
    assert max(_decode(film_url(np.zeros((3000, 1500), np.float32))).shape) == 1000
    heat = _decode(heat_url(pixels))
    assert heat.shape == (120, 80, 4)
    assert heat[0, 0, 3] == 0
    assert heat[-1, -1, 3] == 255


def test_someone_elses_checkpoint_is_said_to_be_that(tmp_path, phantom_files):
    folder = save_stranger(tmp_path / "vit", "vit", labels=("<b>not</b> fractured", "fractured"))
    html = answer_html(StudyPredictor.from_pretrained(folder)(phantom_files))
    assert "Abnormal means what this checkpoint&#x27;s authors labelled “fractured”, against “&lt;b&gt;not" in html
    assert "This checkpoint is someone else&#x27;s." in html
    assert "does not tell the body part" in html
    assert "<b>not" not in html


def test_an_answer_for_a_strange_study_is_held_back_until_somebody_insists(study, phantom_files):
    radiographs = [read_radiograph(file) for file in phantom_files]
    first = dataclasses.replace(
        study.views[0],
        name="<b>hip.png",
        in_distribution=False,
        alone=0.97,
        regions=[REGION],
    )
    rest = [dataclasses.replace(view, in_distribution=True) for view in study.views[1:]]
    strange = dataclasses.replace(
        study,
        views=[first, *rest],
        in_distribution=False,
        unusual_percentile=99.6,
        warnings=[STRANGE_WARNING, "Mind this"],
    )
    html, views = answer_html(strange, ["b.png is empty."]), views_html(strange, radiographs)
    assert "Not answered" in html
    assert "Strange: &lt;b&gt;hip.png." in html
    assert "More unusual than 99 %" in html
    assert html.count("Mind this") == 1
    assert "b.png is empty." in html
    for shown in (html, views):
        assert "P(abnormal)" not in shown
        assert "flagged" not in shown
    assert 'class="box"' not in views
    assert 'class="heat"' not in views
    assert views.count('class="film"') == len(phantom_files)
    anyway = answer_html(strange, anyway=True) + views_html(strange, radiographs, anyway=True)
    assert "P(abnormal)" in anyway
    assert 'class="heat"' in anyway
    assert STRANGE_WARNING in anyway
    assert is_withheld(strange, False)
    assert not is_withheld(strange, True)
    for known in (True, None):
        assert not is_withheld(dataclasses.replace(strange, in_distribution=known), False)
    assert not is_withheld(None, False)
