import dataclasses
import re
from types import SimpleNamespace

import numpy as np
import pytest

from mura_hf import StudyPredictor
from mura_hf.demo.examples import ExampleStudy
from mura_hf.demo.result import (
    answer_html,
    details_html,
    is_withheld,
    operating_point_choices,
    performance_html,
    similar_cases,
    similar_html,
    warn_if_known,
)
from mura_hf.demo.templates import probability_text
from mura_hf.inference import OOD_WARNING
from mura_hf.inference.measured_performance import OVERALL, BandPerformance, OperatingPointPerformance
from mura_hf.radiographs import Radiograph
from mura_hf.retrieval import IndexRecord, Neighbour, RetrievalIndex
from tests.inference.external import save_external

WRISTS = OperatingPointPerformance("youden", 0.4, "wrist", "the <held-out>", 80, 60, 200, 10)


def _text(html):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", html))


@pytest.mark.parametrize(
    ("band", "title", "words"),
    [
        ("suspected", "Fracture suspected", "The box marks where"),
        ("uncertain", "Uncertain, look again", "A dashed box"),
        ("low", "No fracture flagged", "does not exclude a fracture"),
    ],
)
def test_the_answer_in_words_with_the_meaning_of_abnormal(study, band, title, words):
    fractures = dataclasses.replace(study, probability_band=band, positive_class_description="fractured <or> not")
    measured = BandPerformance(band, OVERALL, "films", 120, 63, (0.44, 0.61))
    fractures = dataclasses.replace(fractures, band_limits=(0.2, 0.8), band_performance=measured)
    html, details = answer_html(fractures), details_html(fractures)
    assert f"</span> {title}</h2>" in html
    assert words in html
    assert "Probability of a fracture" in html
    assert re.findall(r"\d[\d.]*", _text(html)) == [f"{study.probability:.2f}"]  # the other numbers are folded
    assert "Of 120 others with it that the model had never seen, 63 had a fracture: 52 of 100" in _text(details)
    assert re.findall(r'class="zone (\w+) here"', html) == [band]
    assert "Abnormal means fractured &lt;or&gt; not." in details
    unknown = dataclasses.replace(fractures, positive_class_description=None)
    assert "does not say what that is" in details_html(unknown)
    plain = title.replace("Fracture", "Abnormality").replace("fracture", "abnormality")
    assert f"</span> {plain}</h2>" in answer_html(unknown)
    assert study.body_part in details
    assert "healthy" not in (html + details).lower()
    html = answer_html(dataclasses.replace(study, warnings=["Mind <this>"]), ["<img src=x>.png is empty."])
    assert "Mind &lt;this&gt;" in html
    assert "&lt;img src=x&gt;.png is empty." in html
    assert "open an example" in answer_html(None)
    for name, shown in (("youden", "“Youden’s index”"), ("<mine>", "“&lt;mine&gt;”")):
        assert f"<dd>{shown} calls a study abnormal above" in details_html(
            dataclasses.replace(study, operating_point=name)
        )


@pytest.mark.parametrize(
    ("limits", "probability", "place"),
    [((0.1, 0.5), 0.3, 30), ((0.3, 0.3), 0.31, 31), ((0.0, 1.0), 0.0, 0.5), ((0.2, 0.4), 1.0, 99.5)],
)
def test_the_bar_is_a_scale_from_0_to_1(study, limits, probability, place):
    study_at = dataclasses.replace(study, band_limits=limits, probability=probability)
    html = answer_html(study_at)
    assert float(re.search(r'class="mark" style="left:([\d.]+)%', html)[1]) == place
    widths = [float(width) for width in re.findall(r'class="zone [^>]*width:([\d.]+)%', html)]
    assert sum(widths) == pytest.approx(100)
    assert len(widths) == (2 if limits[0] == limits[1] else 3)
    assert re.findall(r"\d", html.split('class="scale"')[1].split("</div>")[0]) == []  # the limits are in the details
    shown = [f"{limit:.3g}" for limit in limits]
    middle = ", uncertain in between" if limits[0] < limits[1] else ""
    assert f"up to {shown[0]}, suspected above {shown[1]}{middle}. This" in details_html(study_at)


@pytest.mark.parametrize(
    ("label", "band", "tag"),
    [
        ("abnormal", "suspected", "Correct"), ("abnormal", "uncertain", "Not decided"), ("abnormal", "low", "Miss"),
        ("normal", "suspected", "False alarm"), ("normal", "uncertain", "Not decided"), ("normal", "low", "Correct"),
    ],
)  # fmt: skip
def test_answers_for_examples_are_compared_with_what_is_known(study, label, band, tag):
    example = ExampleStudy("hand", label, None, (), source="FracAtlas")
    text = _text(answer_html(dataclasses.replace(study, probability_band=band), example=example))
    assert f"Example. {tag}: Two radiologists saw {'a' if label == 'abnormal' else 'no'} fracture" in text


def test_a_body_part_that_contradicts_the_picture_asks_back(study):
    parts = dict.fromkeys(study.body_part_probabilities, 0.0) | {"wrist": 0.97}
    given = dataclasses.replace(study, body_part="elbow", body_part_given=True, body_part_probabilities=parts)
    assert "You chose elbow, but the picture looks like a wrist. Is elbow right?" in answer_html(given)
    for fields in (
        {"body_part": "wrist"},
        {"body_part_given": False},
        {"body_part_probabilities": parts | {"wrist": 0.8}},
    ):
        assert "You chose" not in answer_html(dataclasses.replace(given, **fields))


def test_external_checkpoints_are_marked_and_their_labels_escaped(tmp_path, phantom_files):
    folder = save_external(tmp_path / "vit", "vit", labels=("<b>not</b> fractured", "fractured"))
    study = StudyPredictor.from_pretrained(folder)(phantom_files)
    assert answer_html(study).count('role="note"') >= 1
    html = details_html(study)
    assert "This checkpoint does not predict it." in html
    assert "&lt;b&gt;not" in html


def test_the_answer_for_an_unusual_study_is_withheld_until_the_visitor_wants_it_anyway(study):
    first = dataclasses.replace(study.views[0], name="<b>hip.png", in_distribution=False)
    rest = [dataclasses.replace(view, in_distribution=True) for view in study.views[1:]]
    fields = {"in_distribution": False, "unusual_percentile": 99.6, "warnings": [OOD_WARNING, "Mind this"]}
    unusual = dataclasses.replace(study, views=[first, *rest], **fields)
    html = answer_html(unusual, ["b.png is empty."])
    for words in ("Not answered", "Unusual views: &lt;b&gt;hip.png.", "It may still be an X-ray", "b.png is empty."):
        assert words in html
    assert html.count("Mind this") == 1
    assert "Probability" not in html
    assert "flagged" not in html
    anyway = answer_html(unusual, show_anyway=True)
    assert "Probability of" in anyway
    assert "⊘</span> Perhaps meaningless: “" in anyway
    assert "It may still be an X-ray" in anyway
    assert "more unusual than 99 % of the" in details_html(unusual)
    photo = Radiograph(np.full((40, 50), 0.8, np.float32), 8, "JPEG", is_coloured=True)
    film = Radiograph(np.zeros((40, 50), np.float32), 8, "JPEG", is_coloured=True)
    html = answer_html(unusual, radiographs=[photo, *[film] * len(rest)])
    assert "Noticed: it is a colour picture; its border is light" in html
    assert "Noticed" not in answer_html(unusual, radiographs=[dataclasses.replace(film, is_coloured=False), photo])
    assert OOD_WARNING not in anyway  # in other words
    assert is_withheld(unusual)
    assert not is_withheld(unusual, True)
    for known in (True, None):
        assert not is_withheld(dataclasses.replace(unusual, in_distribution=known))
    assert not is_withheld(None)


def test_the_region_if_the_body_part_is_not_known(study):
    probabilities = {"hand": 0.97, "leg": 0.9}
    fields = {"body_part": None, "body_part_given": False, "region_probabilities": probabilities}
    hand = dataclasses.replace(study, region="hand", in_distribution=True, **fields)
    text = _text(details_html(hand))
    assert "Looks like hand or arm (probability 0.97)." in text
    unsure = dataclasses.replace(hand, region_probabilities={"hand": 0.72, "shoulder": 0.28})
    assert "Not clear to the model." in details_html(unsure)
    assert "hand or arm" not in details_html(unsure)
    leg = dataclasses.replace(hand, region="leg", in_distribution=False, unusual_percentile=99.0)
    assert f"Noticed: it seems to show another part of the body ({leg.region_words})." in answer_html(leg)
    assert leg.scope_note in details_html(leg)


def test_operating_points_are_sorted_by_threshold():
    config = SimpleNamespace(operating_points={"paper": 0.5, "mine": 0.2, "specificity_95": 0.87})
    assert operating_point_choices(SimpleNamespace(model=SimpleNamespace(config=config))) == [
        ("mine: above 0.2", "mine"),
        ("Rule of the MURA paper: above 0.5", "paper"),
        ("Few false alarms: above 0.87", "specificity_95"),
    ]


def test_performance_as_counts_and_predictive_values():
    html = performance_html(WRISTS, 0.2)
    assert "the &lt;held-out&gt;" in html
    text = _text(html)
    assert "280 studies of the wrist" in text
    assert "60 of 80 (sensitivity 0.75)" in text
    assert "190 of 200 (specificity 0.95)" in text
    # Bayes' theorem: .2 * .75 / (.2 * .75 + .8 * .05) and .8 * .95 / (.8 * .95 + .2 * .25).
    assert (
        "If 20 of 100 studies are abnormal, a study above this operating point is abnormal in 79 of 100 cases" in text
    )
    assert "not above it is normal in 94 of 100 cases." in text
    assert "Of 20 abnormal ones it misses about 5.0." in text
    for prevalence in (0.0, 1.0):
        with pytest.raises(ValueError, match="prevalence"):
            performance_html(WRISTS, prevalence)


def test_nothing_looks_certain_and_what_is_undefined_or_unmeasured_is_named():
    values = {0.0: "below 0.01", 0.005: "0.01", 0.5: "0.50", 0.994: "0.99", 1.0: "above 0.99"}
    assert {value: probability_text(value) for value in values} == values
    perfect = OperatingPointPerformance("a", 0.4, OVERALL, "films", 5, 5, 5, 0)
    text = _text(performance_html(perfect, 0.1))
    assert text.count("more than 99 of 100") == 2
    assert "of the" not in text.split("(films)")[0]
    none = OperatingPointPerformance("a", 0.4, OVERALL, "films", 0, 0, 5, 0)
    assert "sensitivity not defined" in _text(performance_html(none, 0.1))
    assert "was not measured" in performance_html(None, 0.1)


@pytest.mark.parametrize(
    ("data", "shown", "credited"),
    [
        ({"key": "phantoms", "name": "phantoms"}, True, None),
        ({"key": "fracatlas", "name": "FracAtlas", "citation": "A. <and> others."}, True, "A. <and> others. CC BY"),
        ({"key": "grazpedwri"}, True, "grazpedwri. CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/)"),
        ({"key": "mura", "name": "MURA"}, False, None),
        (None, False, None),
    ],
)  # fmt: skip
def test_pictures_of_similar_films_are_shown_with_credit_if_their_license_allows(study, data, shown, credited):
    found = Neighbour("IMG0000001", "block0000", 1, "abnormal", None, None, 0.5, 0, 7, b"RIFF")
    index = RetrievalIndex.__new__(RetrievalIndex)
    index.record, index.rows = IndexRecord("0" * 32, "", data=data), [found]
    predictor = SimpleNamespace(index=index, checkpoint="film", similar=lambda *_: [found])
    (case,) = similar_cases(index, [found])
    assert case["thumbnail"] == ("data:image/webp;base64,UklGRg==" if shown else None)
    assert (case["credit"] or "").startswith(credited or "")
    assert (case["credit"] is None) == (credited is None)
    assert not {"patient_id", "row"} & set(case)
    html = similar_html(predictor, study, same_part=False)
    assert html.count("<img") == shown
    assert ("Pictures: " in html) == (credited is not None)
    assert ("Pictures of patients are not shown." in html) == (not shown)
    assert "<and>" not in html


def test_a_picture_that_the_model_knows_and_a_view_that_stands_out_are_named(study):
    def warned(*distances):
        found = [Neighbour("a", "b", 1, "abnormal", None, None, one, 0, 7, None) for one in distances]
        predictor = SimpleNamespace(index=object(), similar=lambda *_: found)
        return warn_if_known(predictor, study).warnings

    assert "nearly identical" in warned(0.01, 1.0)[-1]
    assert warned(0.5, 1.0) == warn_if_known(SimpleNamespace(index=None), study).warnings == study.warnings

    def text(probability, *own):
        views = [dataclasses.replace(study.views[0], name=f"{one}.png", single_view_probability=one) for one in own]
        changed = {"views": views, "probability": probability, "band_limits": (0.2, 0.8), "in_distribution": True}
        return _text(answer_html(dataclasses.replace(study, **changed)))

    assert "By itself, 0.9.png has a probability of 0.90: look at it first." in text(0.5, 0.1, 0.9)
    assert "By itself" not in text(0.9, 0.85, 0.95) + text(0.5, 0.3, 0.6) + text(0.5, 0.9)
