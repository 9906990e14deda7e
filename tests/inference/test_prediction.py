"""`StudyPrediction`: bands, JSON, and how it is shown."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mura_hf.explain import find_regions
from mura_hf.inference import StudyFile, StudyFiles, predict_rows, worklist_csv, worklist_json
from mura_hf.inference.measured_performance import BandPerformance
from tests.inference.test_predictor import make_detector

HOSTILE = ['<img src=x onerror="alert(1)">.png', "$\\frac{a}{.png", "a & b\n'c\".png"]


@pytest.fixture(scope="module")
def study(flagging, phantom_files):
    return flagging(phantom_files)


@pytest.mark.parametrize("flags", [True, False], ids=["abnormal", "normal"])
@pytest.mark.parametrize("in_distribution", [True, False])
def test_a_study_out_of_distribution_says_so_first(flagging, phantom_files, monkeypatch, flags, in_distribution):
    monkeypatch.setattr(flagging, "ood_detector", make_detector(in_distribution))
    points = {"paper": 0.5} if flags else {"paper": 1.0}
    monkeypatch.setattr(flagging.model.config, "operating_points", points)
    study = flagging(phantom_files)
    known, label = ("suspected", "abnormal") if flags else ("low", "normal")
    band = known if in_distribution else "out_of_distribution"
    assert (study.band, study.probability_band, study.label) == (band, known, label)
    assert next(iter(json.loads(study.to_json()).items())) == ("band", band)
    assert repr(study).startswith(f"StudyPrediction: {band}. ")
    assert study.describe_band(known) == ("Abnormality suspected" if flags else "No abnormality flagged")
    # Attention is not drawn where it means nothing, nor where nothing is flagged, unless it is asked for.
    view = study.views[0]
    pictures = (study._picture(view), study._picture(view, True), view.overlay(heatmap=True), view.overlay())
    shown, asked, overlay, own = (np.asarray(one, int) for one in pictures)
    assert np.array_equal(asked, overlay)
    assert np.array_equal(shown, overlay) == (in_distribution and flags)
    assert np.array_equal(own, overlay) == flags
    gray = np.asarray(view.overlay(heatmap=False), int)
    assert np.array_equal(shown, gray) == (not (in_distribution and flags))
    assert np.ptp(gray, axis=2).max() == 0
    assert bool(view.regions) == flags
    assert find_regions(view.heatmap)
    files = tuple(StudyFile(Path(file).name, Path(file)) for file in phantom_files)
    (row,) = predict_rows(flagging, [StudyFiles("study", files)])
    assert row.band == band
    (line,) = csv.DictReader(io.StringIO(worklist_csv([row])))
    assert line["band"] == json.loads(worklist_json([row]))[0]["band"] == band


def test_json_has_everything_except_arrays_under_new_and_old_names(study):
    values = json.loads(study.to_json())
    view = values["views"][0]
    assert set(values) == set(vars(study)) - {"codes"} | {"leading_view", "abnormal_means"}
    assert (values["band_limits"], values["band_performance"]) == ([0.5, 0.5], None)
    measured = BandPerformance("suspected", "overall", "films", 50, 45, (0.8, 0.96))
    found = json.loads(replace(study, band_performance=measured).to_json())["band_performance"]
    assert {
        "band": "suspected",
        "n": 50,
        "n_abnormal": 45,
        "interval": [0.8, 0.96],
    }.items() <= found.items()
    assert "Of 50 held-out studies in this band, 45 were abnormal (80.0 to 96.0 of 100)." in repr(
        replace(study, band_performance=measured)
    )
    assert set(view) == set(vars(study.views[0])) - {"heatmap", "pixels"} | {"box", "alone"}
    assert (values["probability"], values["pooling"]) == (study.probability, study.pooling)
    assert values["abnormal_means"] == values["positive_class_description"] == study.positive_class_description
    assert view["box"] == view["regions"][0]["box"] == list(study.views[0].box)
    assert view["alone"] == view["single_view_probability"] == study.views[0].single_view_probability


@pytest.mark.parametrize(
    ("margins", "pooled", "study_band", "bands"),
    [  # margins of the views, and probability of the study -> bands with an uncertain band from .3 to .6
        ((-3, -3, -3), 0.05, "low", "lll"),
        ((1, -3, -3), 0.28, "low", "lll"),  # a view is never above its study
        ((2, -3, -3), 0.33, "uncertain", "ull"),
        ((0, 0, -3), 0.35, "uncertain", "uul"),
        ((3, 3, -3), 0.65, "suspected", "ssl"),
        ((3, 0.2, 0.2), 0.68, "suspected", "suu"),
        ((0, 0, -3), 0.75, "suspected", "sul"),  # by noisy-or, no view is suspected by itself
    ],
)
def test_views_never_contradict_their_study(flagging, phantom_files, monkeypatch, margins, pooled, study_band, bands):
    files = (phantom_files * 3)[:3]
    monkeypatch.setattr(flagging.model.config, "bands", {"low": 0.3, "suspected": 0.6})
    given = torch.tensor([[[0.0, margin] for margin in margins]], dtype=torch.float64)

    def run(*args, **options):
        output = type(flagging)._run(flagging, *args, **options)
        output.study_logits = torch.tensor([[1 - pooled, pooled]], dtype=torch.float64).log()
        output.view_logits, output.single_view_logit = given, given[..., 1]
        return output

    monkeypatch.setattr(flagging, "_run", run)
    study = flagging(files)
    assert study.band == study_band
    assert "".join(view.band[0] for view in study.views) == bands
    assert study.views[study.leading_view].band == study.band
    assert [bool(view.regions) for view in study.views] == [band != "l" for band in bands]
    assert study.band_limits == (0.3, 0.6)
    assert flagging(files, operating_point="paper").band_limits == (0.3, 0.6)


def test_reprs_are_short(flagging, study, phantom_files):
    assert repr(flagging) == (
        f"StudyPredictor({flagging.checkpoint!r}, mura, cpu, torch.float32, runtime torch, operating points paper, "
        "without out-of-distribution detector)"
    )
    many = replace(study, views=study.views[:1] * 30, positive_class_description="broken", warnings=["Mind this."])
    hostile = flagging(phantom_files[:1], names=["a\nb\x1b[31m.png"])
    assert "Views: a b [31m.png " in repr(hostile)
    for one in (study, many, replace(many, body_part=None, band="low")):
        text = repr(one)
        assert "\n" not in text
        assert len(text) < 600
        for words in (f"P(abnormal) {one.probability:.3f}", "threshold 0.5 (paper)", study.views[0].name, "medical"):
            assert words in text
    assert "30" not in repr(study)
    assert all(words in repr(many) for words in ("26 more", "Abnormal means broken.", "Warnings: 1."))
    assert len(repr(study.views[0])) < 300


@pytest.mark.parametrize(("n_views", "saved"), [(1, ("out.png", "out.jpg", "out.pdf")), (5, ())])
def test_plots_and_saved_pictures(flagging, phantom_files, tmp_path, n_views, saved):
    files = (phantom_files * 5)[:n_views]
    study = replace(
        flagging(files, names=[*HOSTILE, "x" * 90, "e.png"][:n_views]), warnings=["Mind $this {.", "w " * 99]
    )
    figure = study.plot()
    drawn = [axes for axes in figure.axes if axes.images]
    assert [axes.images[0].get_array().shape[:2] for axes in drawn] == [
        (view.height, view.width) for view in study.views
    ]
    for axes, view in zip(drawn, study.views, strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), view.overlay())
    assert figure.get_suptitle().startswith("Abnormality suspected.")
    for words in ("Mind $this {.\nw w", "Not a medical device."):
        assert words in figure.get_supxlabel()
    with Image.open(io.BytesIO(study._repr_png_())) as shown:  # in a notebook
        assert min(shown.size) > 300
    for name in saved:
        study.save(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 5000
    with pytest.raises(ValueError, match="not supported"):
        study.save(tmp_path / "out.docx")


def test_pictures_need_heatmaps(flagging, study, phantom_files):
    plain = flagging(phantom_files, heatmaps=False)
    assert plain.views[0].pixels is None
    with pytest.raises(ValueError, match=r"image1\.png has no heatmap to draw: call the predictor with heatmaps=True"):
        plain.views[0].overlay()
    with pytest.raises(ValueError, match="call the predictor with heatmaps=True"):
        plain.plot()
    assert plain._repr_png_() is None  # a notebook shows the text
    with pytest.raises(ValueError, match="opacity is 2"):
        study.views[0].overlay(opacity=2)
