import dataclasses

import pytest

from mura_hf import StudyPredictor
from mura_hf.demo.result import EMPTY, answer_html, chance_text, is_withheld
from mura_hf.inference import OOD_WARNING
from tests.inference.strangers import save_stranger


@pytest.mark.parametrize(
    ("band", "words"),
    [("abnormal", "Abnormal: flagged"), ("uncertain", "Uncertain"), ("normal", "does not exclude a fracture")],
)
def test_words_stand_beside_colour_and_what_abnormal_means_beside_the_verdict(study, band, words):
    html = answer_html(dataclasses.replace(study, band=band, positive_class_description="fractured <or> not"))
    assert words in html
    assert "Abnormal means fractured &lt;or&gt; not." in html
    assert "does not tell" in answer_html(dataclasses.replace(study, positive_class_description=None))
    assert f"P(abnormal) {study.probability:.2f}" in html
    assert study.body_part in html
    assert "healthy" not in html.lower()


@pytest.mark.parametrize(("name", "words"), [("youden", "“Youden’s index”"), ("<mine>", "“&lt;mine&gt;”")])
def test_the_operating_point_is_told_in_words(study, name, words):
    assert f"operating point {words}" in answer_html(dataclasses.replace(study, operating_point=name))


def test_warnings_and_problems_are_shown_and_escaped(study):
    html = answer_html(dataclasses.replace(study, warnings=["Mind <this>"]), ["<img src=x>.png is empty."])
    assert "Mind &lt;this&gt;" in html
    assert "&lt;img src=x&gt;.png is empty." in html
    assert "<img" not in html
    assert answer_html(None) == EMPTY


@pytest.mark.parametrize(
    ("probability", "text"),
    [(0.0, "below 0.01"), (0.005, "0.01"), (0.5, "0.50"), (0.994, "0.99"), (1.0, "above 0.99")],
)
def test_no_probability_reads_as_certain(probability, text):
    assert chance_text(probability) == text


def test_someone_elses_checkpoint_is_said_to_be_that(tmp_path, phantom_files):
    folder = save_stranger(tmp_path / "vit", "vit", labels=("<b>not</b> fractured", "fractured"))
    html = answer_html(StudyPredictor.from_pretrained(folder)(phantom_files))
    assert "Abnormal means what this checkpoint&#x27;s authors labelled “fractured”, against “&lt;b&gt;not" in html
    assert "This checkpoint is someone else&#x27;s." in html
    assert "does not tell the body part" in html
    assert "<b>not" not in html


def test_an_answer_for_a_strange_study_is_held_back_until_somebody_insists(study):
    first = dataclasses.replace(study.views[0], name="<b>hip.png", in_distribution=False)
    rest = [dataclasses.replace(view, in_distribution=True) for view in study.views[1:]]
    strange = dataclasses.replace(
        study,
        views=[first, *rest],
        in_distribution=False,
        unusual_percentile=99.6,
        warnings=[OOD_WARNING, "Mind this"],
    )
    html = answer_html(strange, ["b.png is empty."])
    assert "Not answered" in html
    assert "Strange: &lt;b&gt;hip.png." in html
    assert "More unusual than 99 %" in html
    assert html.count("Mind this") == 1
    assert "b.png is empty." in html
    assert "P(abnormal)" not in html
    assert "flagged" not in html
    anyway = answer_html(strange, anyway=True)
    assert "P(abnormal)" in anyway
    assert OOD_WARNING in anyway
    assert is_withheld(strange, False)
    assert not is_withheld(strange, True)
    for known in (True, None):
        assert not is_withheld(dataclasses.replace(strange, in_distribution=known), False)
    assert not is_withheld(None, False)
