import base64
import dataclasses
import io
import re

import numpy as np
import pytest
from PIL import Image

from mura_hf.demo.examples import load_examples
from mura_hf.demo.templates import METHODS as METHOD_NAMES
from mura_hf.demo.viewer import IMAGE_SIDE, THUMB_SIDE, heatmap_url, image_url, viewer_html
from mura_hf.explain import AUTO, METHODS, Box, Region
from mura_hf.radiographs import read_radiograph

REGION = Region(Box(10, 20, 30, 60), 800, 0.1, 0.9)


def _decode(url, kind):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.removeprefix(f"data:image/{kind};base64,")))))


def test_pictures_keep_their_gray_levels_and_heatmaps_are_transparent_without_attention():
    pixels = read_radiograph(load_examples("study")[0].files[0]).pixels
    shown = _decode(image_url(pixels), "jpeg").astype(float)
    assert shown.shape == pixels.shape
    assert np.abs(shown - 255 * pixels).mean() < 1
    large = np.zeros((3000, 1500), np.float32)
    assert _decode(image_url(large), "jpeg").shape == (IMAGE_SIDE, IMAGE_SIDE // 2)
    assert max(_decode(image_url(large, THUMB_SIDE), "jpeg").shape) == THUMB_SIDE
    heat = _decode(heatmap_url(np.linspace(0, 1, 120 * 80, dtype=np.float32).reshape(120, 80)), "png")
    assert heat.shape == (120, 80, 4)
    assert heat[0, 0, 3] == 0
    assert heat[-1, -1, 3] == 255


@pytest.mark.parametrize(
    ("band", "state"), [("suspected", "▲ suspected"), ("uncertain", "◐ uncertain"), ("low", "○ not flagged")]
)
def test_each_view_has_its_picture_overlay_and_band(study, radiographs, band, state):
    first = dataclasses.replace(
        study.views[0], name="<b>1</b>.png", single_view_probability=0.9, regions=[REGION], band=band
    )
    views = [first, *study.views[1:]]
    html = viewer_html(dataclasses.replace(study, views=views, probability=0.9, band_limits=(0.2, 0.8)), radiographs)
    assert html.count('class="film"') == html.count('class="thumb"') == len(views)
    visible = sum(view.heatmap.max() > 0 for view in views)
    assert html.count('class="heat"') == html.count('class="box"') == visible  # to be shown if asked for
    assert f'<figure class="view {band}">' in html  # the script hides heatmap and box where nothing is flagged
    assert "&lt;b&gt;1&lt;/b&gt;.png" in html
    assert "<b>1" not in html
    assert f'<span class="state {band}">{state}</span>' in html
    # A view never has a higher band than its study; the number would contradict a band that is not its own.
    assert (f'<span class="state {band}">{state} 0.90</span></button>' in html) == (band == "suspected")
    left = re.search(r'class="box" style="left:([\d.]+)%', html)[1]
    assert float(left) == pytest.approx(100 * 10 / first.width, abs=0.01)
    # Gradio reuses the elements; the page recognises a new answer by its token.
    assert len({re.search(r'data-answer="(\w+)"', viewer_html(study, radiographs))[1] for _ in range(3)}) == 3


def test_a_view_that_stands_out_has_its_own_probability_in_place_of_the_band_of_the_study(study, radiographs):
    loud = dataclasses.replace(study.views[0], single_view_probability=0.9, band="low")
    others = [dataclasses.replace(view, single_view_probability=0.1, band="low") for view in study.views[1:]]
    quiet = dataclasses.replace(study, views=[loud, *others], probability=0.15, band_limits=(0.2, 0.8))
    html = viewer_html(quiet, radiographs)
    assert html.count('<figure class="view low">') == len(radiographs)
    assert html.count('<span class="state plain">probability 0.90 by itself</span>') == 2  # thumbnail and caption
    assert "○ not flagged 0.90" not in html
    assert html.count("○ not flagged 0.10") == len(others)


def test_the_view_that_contributed_most_is_shown_first(study, radiographs):
    for leading in range(len(study.views)):
        views = [
            dataclasses.replace(view, probability=0.9 if index == leading else 0.2, name=f"view-{index}")
            for index, view in enumerate(study.views)
        ]
        html = viewer_html(dataclasses.replace(study, views=views), radiographs)
        assert f'data-first="{leading}"' in html
        figure = html.split('<figure class="view ')[1 + leading]
        assert f'<span class="name">view-{leading}</span>' in figure
        assert "contributed most" in figure
        assert html.count("contributed most") == 1
    alone = viewer_html(dataclasses.replace(study, views=study.views[:1]), radiographs[:1])
    assert 'class="thumb"' not in alone
    assert "contributed most" not in alone


@pytest.mark.parametrize("level", [0, 1e-3])
def test_a_view_without_evidence_has_no_heatmap_to_show(study, radiographs, level):
    first, *rest = study.views
    heatmap = np.zeros_like(first.heatmap)
    heatmap[:5, :5] = level
    views = [dataclasses.replace(first, heatmap=heatmap, regions=[]), *rest]
    html = viewer_html(dataclasses.replace(study, views=views), radiographs)
    figure = html.split("<figure")[1]
    assert 'class="film"' in figure
    assert 'class="heat"' not in figure
    assert 'class="box"' not in figure
    alone = viewer_html(dataclasses.replace(study, views=views[:1]), radiographs[:1])
    assert "data-empty" in alone
    assert 'data-set="marked"' in alone


def test_without_heatmaps_there_are_no_controls_for_them(study, radiographs):
    views = [dataclasses.replace(view, heatmap=None, regions=[]) for view in study.views]
    html = viewer_html(dataclasses.replace(study, views=views, heatmap_method=None), radiographs)
    controls = [f'data-set="{name}"' for name in ("marked", "opacity", "split", "box")]
    for absent in (*controls, "data-empty", "attention"):
        assert absent not in html
    assert 'data-set="invert"' in html
    assert "Picture: A &lt;and&gt; others" in viewer_html(study, radiographs, credit="Picture: A <and> others")


def test_an_unusual_study_is_shown_without_results_until_the_visitor_wants_it_anyway(study, radiographs):
    first = dataclasses.replace(
        study.views[0], in_distribution=False, single_view_probability=0.97, regions=[REGION], band="suspected"
    )
    others = [dataclasses.replace(view, band="suspected") for view in study.views[1:]]
    unusual = dataclasses.replace(study, views=[first, *others], in_distribution=False)
    html = viewer_html(unusual, radiographs)
    for absent in ("suspected", "flagged", "0.97", 'class="box"', 'class="heat"', "contributed most"):
        assert absent not in html
    assert html.count('class="film"') == len(radiographs)
    assert "⊘ unusual" in html
    anyway = viewer_html(unusual, radiographs, show_anyway=True)
    assert "⊘ unusual" in anyway
    assert "0.97" not in anyway
    assert 'class="heat"' in anyway
    assert anyway.count('<figure class="view uncertain">') == len(radiographs)  # none looks surer than the study


def test_every_heatmap_method_has_a_name_on_the_page():
    assert set(METHOD_NAMES) == {AUTO, *METHODS} - {"grad_cam"}
