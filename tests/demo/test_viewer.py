import dataclasses
import re

import pytest

from mura_hf.demo.viewer import viewer_html
from mura_hf.explain import Box, Region

REGION = Region(Box(10, 20, 30, 60), 800, 0.1, 0.9)


def test_each_view_has_its_picture_overlay_and_probability(study, radiographs):
    first = dataclasses.replace(
        study.views[0], name="<b>1</b>.png", single_view_probability=0.9, regions=[REGION], flagged=True
    )
    views = [first, *study.views[1:]]
    html = viewer_html(dataclasses.replace(study, views=views), radiographs)
    assert html.count('class="heat"') == html.count('class="film"') == html.count('class="thumb"') == len(views)
    assert html.count('class="box"') == sum(view.box is not None for view in views)
    assert "&lt;b&gt;1&lt;/b&gt;.png" in html
    assert "<b>1" not in html
    assert '▲ flagged</span>, P(abnormal) <span class="probability">0.90' in html
    left = re.search(r'class="box" style="left:([\d.]+)%', html)[1]
    assert float(left) == pytest.approx(100 * 10 / first.width, abs=0.01)


def test_the_view_that_spoke_most_for_abnormal_is_shown_first(study, radiographs):
    for place in range(len(study.views)):
        views = [
            dataclasses.replace(view, probability=0.9 if at == place else 0.2, name=f"view-{at}")
            for at, view in enumerate(study.views)
        ]
        html = viewer_html(dataclasses.replace(study, views=views), radiographs)
        assert f'data-first="{place}"' in html
        figure = html.split('<figure class="view">')[1 + place]
        assert f'<span class="name">view-{place}</span>' in figure
        assert "spoke most for abnormal" in figure
        assert html.count("spoke most for abnormal") == 1


def test_one_view_needs_no_thumbnail(study, radiographs):
    html = viewer_html(dataclasses.replace(study, views=study.views[:1]), radiographs[:1])
    assert 'class="thumb"' not in html
    assert "spoke most" not in html


def test_each_answer_has_a_mark_of_its_own(study, radiographs):
    """By which the page knows that there is another, since Gradio keeps the elements."""
    marks = {re.search(r'data-answer="(\w+)"', viewer_html(study, radiographs))[1] for _ in range(3)}
    assert len(marks) == 3


def test_without_heatmaps_there_is_nothing_to_set_about_them(study, radiographs):
    views = [dataclasses.replace(view, heatmap=None, regions=[]) for view in study.views]
    html = viewer_html(dataclasses.replace(study, views=views, heatmap_method=None), radiographs)
    for absent in ('data-set="opacity"', 'data-set="split"', 'data-set="box"', "attention"):
        assert absent not in html
    assert 'data-set="invert"' in html


def test_of_a_strange_study_the_films_alone_are_shown_until_somebody_insists(study, radiographs):
    first = dataclasses.replace(
        study.views[0], in_distribution=False, single_view_probability=0.97, regions=[REGION], flagged=True
    )
    strange = dataclasses.replace(study, views=[first, *study.views[1:]], in_distribution=False)
    html = viewer_html(strange, radiographs)
    for absent in ("P(abnormal)", "flagged", "0.97", 'class="box"', 'class="heat"', "spoke most"):
        assert absent not in html
    assert html.count('class="film"') == len(radiographs)
    assert "⊘ strange" in html
    anyway = viewer_html(strange, radiographs, anyway=True)
    assert "P(abnormal)" in anyway
    assert 'class="heat"' in anyway
