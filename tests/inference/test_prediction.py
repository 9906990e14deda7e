"""`StudyPrediction`: bands, JSON, and how it is shown."""

import base64
import csv
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mura_hf.inference import StudyFile, StudyFiles, predict_rows, worklist_csv, worklist_json
from mura_hf.inference.prediction import VERDICTS, find_band
from tests.inference.test_predictor import make_detector

HOSTILE = ['<img src=x onerror="alert(1)">.png', "$\\frac{a}{.png", "a & b\n'c\".png"]


@pytest.fixture(scope="module")
def study(flagging, phantom_files):
    return flagging(phantom_files)


def test_bands():
    points = {"paper": 0.5, "sensitivity_95": 0.3, "specificity_95": 0.8}
    probabilities = (0.1, 0.3, 0.31, 0.8, 0.9)
    assert [find_band(p, 0.5, points)[:1] for p in probabilities] == list("nnuua")
    for others in ({"paper": 0.5}, {**points, "sensitivity_95": 0.9}):  # then it is the label
        assert [find_band(p, 0.5, others)[:1] for p in probabilities] == list("nnnaa")
    points = {"sensitivity_95": 0.1, "specificity_95": 0.3}  # extended to the threshold
    assert [find_band(p, 0.5, points)[:1] for p in (0.1, 0.2, 0.4, 0.5, 0.51)] == list("nuuua")
    assert [find_band(p, 0.05, points)[:1] for p in (0.05, 0.08, 0.3, 0.31)] == list("nuua")


@pytest.mark.parametrize("flags", [True, False], ids=["abnormal", "normal"])
@pytest.mark.parametrize("in_distribution", [True, False])
def test_a_study_out_of_distribution_says_so_first(flagging, phantom_files, monkeypatch, flags, in_distribution):
    monkeypatch.setattr(flagging, "ood_detector", make_detector(in_distribution))
    points = {"paper": 0.5} if flags else {"paper": 1.0}
    monkeypatch.setattr(flagging.model.config, "operating_points", points)
    study = flagging(phantom_files)
    known = "abnormal" if flags else "normal"
    band = known if in_distribution else "out_of_distribution"
    assert (study.band, study.probability_band, study.label) == (band, known, known)
    assert next(iter(json.loads(study.to_json()).items())) == ("band", band)
    assert repr(study).startswith(f"StudyPrediction: {band}. ")
    assert f"<b>{VERDICTS[band]}</b>" in study._repr_html_()
    # Attention is not drawn where it means nothing.
    shown, overlay = (np.asarray(one, int) for one in (study._picture(study.views[0]), study.views[0].overlay()))
    assert (np.abs(shown - overlay).max() == 0) == in_distribution
    files = tuple(StudyFile(Path(file).name, Path(file)) for file in phantom_files)
    (row,) = predict_rows(flagging, [StudyFiles("study", files)])
    assert row.band == band
    (line,) = csv.DictReader(io.StringIO(worklist_csv([row])))
    assert line["band"] == json.loads(worklist_json([row]))[0]["band"] == band


def test_json_has_everything_except_arrays_under_new_and_old_names(study):
    values = json.loads(study.to_json())
    view = values["views"][0]
    assert set(values) == set(vars(study)) - {"codes"} | {"leading_view", "abnormal_means"}
    assert set(view) == set(vars(study.views[0])) - {"heatmap", "pixels"} | {"box", "alone"}
    assert (values["probability"], values["pooling"]) == (study.probability, study.pooling)
    assert values["abnormal_means"] == values["positive_class_description"] == study.positive_class_description
    assert view["box"] == view["regions"][0]["box"] == list(study.views[0].box)
    assert view["alone"] == view["single_view_probability"] == study.views[0].single_view_probability


def test_reprs_are_short(flagging, study, phantom_files):
    assert repr(flagging) == (
        f"StudyPredictor({flagging.checkpoint!r}, mura, cpu, torch.float32, operating points paper, without "
        "out-of-distribution detector)"
    )
    many = replace(study, views=study.views[:1] * 30, positive_class_description="broken", warnings=["Mind this."])
    hostile = flagging(phantom_files[:1], names=["a\nb\x1b[31m.png"])
    assert "Views: a b [31m.png " in repr(hostile)
    for one in (study, many, replace(many, body_part=None, band="normal")):
        text = repr(one)
        assert "\n" not in text
        assert len(text) < 600
        for words in (f"P(abnormal) {one.probability:.3f}", "threshold 0.5 (paper)", study.views[0].name, "medical"):
            assert words in text
    assert "30" not in repr(study)
    assert all(words in repr(many) for words in ("26 more", "Abnormal means broken.", "Warnings: 1."))
    assert len(repr(study.views[0])) < 300


class _Page(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self.images = [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        values = dict(attrs)
        assert not any(name.startswith("on") for name in values)
        if tag == "img":
            data = re.fullmatch(r"data:image/jpeg;base64,(.+)", values["src"]).group(1)
            self.images.append((Image.open(io.BytesIO(base64.b64decode(data))), values["alt"]))

    def handle_data(self, data):
        self.text.append(data)


def test_html_shows_verdict_views_and_warnings_and_escapes_them(flagging, phantom_files):
    files = (phantom_files * 3)[: len(HOSTILE)]
    found = flagging(files, names=HOSTILE)
    fields = {"checkpoint": "<em>me</em>", "positive_class_description": "<i>x</i>", "warnings": ["<u>"]}
    page = _Page(replace(found, **fields)._repr_html_())
    assert set(page.tags) == {"div", "p", "b", "figure", "img", "figcaption", "ul", "li"}
    assert [alt for _, alt in page.images] == HOSTILE
    text = " ".join(page.text)
    for words in ("Abnormal: flagged", f"P(abnormal) {found.probability:.3f}", *HOSTILE, *fields.values()):
        assert (words[0] if isinstance(words, list) else words) in text
    for view, (image, _) in zip(found.views, page.images, strict=True):
        overlay = view.overlay()
        assert overlay.size == (view.width, view.height)
        assert image.size == overlay.size  # small enough
        assert np.abs(np.asarray(image, int) - np.asarray(overlay, int)).mean() < 6
    large = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (900, 2)))
    ((image, _),) = _Page(flagging(large)._repr_html_()).images
    assert max(image.size) == 360
    page = _Page(flagging(files, heatmaps=False)._repr_html_())
    assert not page.images
    assert "Abnormal: flagged" in page.text


@pytest.mark.parametrize("n_views", [1, 3, 5])
def test_plots_and_saved_pictures(flagging, phantom_files, tmp_path, n_views):
    files = (phantom_files * 5)[:n_views]
    study = flagging(files, names=[*HOSTILE, "x" * 90, "e.png"][:n_views])
    figure = study.plot()
    drawn = [axes for axes in figure.axes if axes.images]
    assert [axes.images[0].get_array().shape[:2] for axes in drawn] == [
        (view.height, view.width) for view in study.views
    ]
    for axes, view in zip(drawn, study.views, strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), view.overlay())
    assert figure.get_suptitle().startswith("Abnormal: flagged.")
    for name in ("out.png", "out.jpg", "out.pdf"):
        study.save(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 5000
    with pytest.raises(ValueError, match="not supported"):
        study.save(tmp_path / "out.docx")


def test_pictures_need_heatmaps_and_matplotlib(flagging, study, phantom_files, monkeypatch):
    plain = flagging(phantom_files, heatmaps=False)
    assert plain.views[0].pixels is None
    with pytest.raises(ValueError, match=r"image1\.png has no heatmap to draw: call the predictor with heatmaps=True"):
        plain.views[0].overlay()
    with pytest.raises(ValueError, match="call the predictor with heatmaps=True"):
        plain.plot()
    with pytest.raises(ValueError, match="opacity is 2"):
        study.views[0].overlay(opacity=2)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'matplotlib is not installed; .* pip install "mura_hf\[train\]"'):
        study.plot()
