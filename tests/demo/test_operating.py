import re

import pytest

from mura_hf import StudyPredictor
from mura_hf.demo.result import achievement_html, operating_point_choices
from mura_hf.inference.measured_performance import OVERALL, OperatingPointPerformance
from tests.conftest import make_checkpoint

WRISTS = OperatingPointPerformance(
    "youden", 0.4, "chosen", "wrist", "the <held-out>", n_abnormal=80, n_flagged_abnormal=60, n_normal=200,
    n_flagged_normal=10,
)  # fmt: skip


def _text(html):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", html))


def test_choices_go_from_many_flagged_to_few(tmp_path):
    points = {"paper": 0.5, "mine": 0.2, "specificity_95": 0.87}
    folder = make_checkpoint(tmp_path / "checkpoint", operating_points=points)
    assert operating_point_choices(StudyPredictor.from_pretrained(folder)) == [
        ("mine: above 0.20", "mine"),
        ("MURA paper’s rule: above 0.50", "paper"),
        ("Few false alarms: above 0.87", "specificity_95"),
    ]


def test_what_was_measured_is_told_as_counts_and_for_the_readers_prevalence():
    html = achievement_html(WRISTS, 0.2)
    assert "the &lt;held-out&gt;" in html
    text = _text(html)
    assert "280 studies of the wrist" in text
    assert "60 of 80 (sensitivity 0.75)" in text
    assert "190 of 200 (specificity 0.95)" in text
    # By Bayes' theorem: .2 * .75 / (.2 * .75 + .8 * .05) and .8 * .95 / (.8 * .95 + .2 * .25).
    assert "Where 20 of 100 studies are abnormal, a flagged study is abnormal in 79 of 100 cases" in text
    assert "not flagged is normal in 94 of 100." in text


def test_no_share_reads_as_certain_and_what_is_not_defined_is_not_told():
    faultless = OperatingPointPerformance("a", 0.4, "c", OVERALL, "films", 5, 5, 5, 0)
    text = _text(achievement_html(faultless, 0.1))
    assert text.count("more than 99 of 100") == 2
    assert "of the" not in text.split("(films)")[0]
    none = OperatingPointPerformance("a", 0.4, "c", OVERALL, "films", 0, 0, 5, 0)
    assert "sensitivity not defined" in _text(achievement_html(none, 0.1))


def test_what_was_not_measured_is_said_to_be_so():
    assert "was not measured" in achievement_html(None, 0.1)


@pytest.mark.parametrize("prevalence", [0.0, 1.0])
def test_a_prevalence_that_is_none_is_refused(prevalence):
    with pytest.raises(ValueError, match="prevalence"):
        achievement_html(WRISTS, prevalence)
