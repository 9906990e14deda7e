import base64
import json
import re
import shutil

import pytest

from mura_hf.demo.checkpoints import DEFAULT
from mura_hf.demo.controller import Question, StudyDesk, progress_html
from mura_hf.demo.result import EMPTY
from tests.conftest import make_checkpoint

PHANTOM = ("mura-phantom", "", "")


@pytest.fixture(scope="module")
def desk(room):
    return StudyDesk(room)


@pytest.fixture(scope="module")
def opened(desk, room):
    """An abnormal wrist of three views, read by the checkpoint of the examples."""
    return desk.open(Question(tuple(room.examples[0].files), PHANTOM))


def _json(html):
    return json.loads(base64.b64decode(re.search(r'data-base64="([^"]+)"', html)[1]))


def test_examples_are_read_by_their_own_checkpoint_unless_another_was_chosen(desk, room, phantom_files):
    example = tuple(room.examples[0].files)
    assert desk.choose(example, DEFAULT) == PHANTOM
    assert desk.choose(example, ("mura-film", "", "")) == ("mura-film", "", "")
    assert desk.choose(tuple(phantom_files), DEFAULT) == DEFAULT


def test_nothing_is_asked_where_there_is_no_file(desk):
    opened = desk.open(Question(()))
    assert (opened.answer, opened.viewer, opened.reading) == (EMPTY, "", None)


def test_what_is_remembered_holds_no_picture(opened):
    study = opened.reading.study
    assert len(study.views) == 3
    assert all(view.heatmap is None for view in study.views)
    assert study.codes is not None
    assert 'class="heat"' in opened.viewer


def test_files_are_counted_while_they_are_read(desk, room):
    told = []
    desk.open(Question(tuple(room.examples[0].files), PHANTOM), lambda *news: told.append(news[:2]))
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]
    html = progress_html(("a/<b>.png", "c.png", "d.zip"), ["<b>.png"], 3)
    assert "Read 1 of 3 files" in html
    assert "✓ &lt;b&gt;.png" in html
    assert "… c.png" in html
    assert "d.zip" not in html
    assert 'value="1"' in html


def test_the_operating_point_changes_the_answer(desk, room, opened):
    file = tuple(room.examples[0].files)
    chance = opened.reading.study.probability
    names = {name: words for words, name in opened.points}
    assert set(names) == {"paper", "youden", "sensitivity_95", "specificity_95"}
    for name in names:
        study = desk.open(Question(file, PHANTOM, operating_point=name)).reading.study
        assert study.operating_point == name
        assert study.probability == pytest.approx(chance)
        assert f"above {study.threshold:.2f}" in names[name]
        assert study.label == ("abnormal" if study.probability > study.threshold else "normal")


def test_an_operating_point_that_another_checkpoint_had_gives_way_to_the_default(desk, tmp_path, phantom_files):
    folder = make_checkpoint(tmp_path / "checkpoint", operating_points={"mine": 0.3})
    opened = desk.open(Question(tuple(phantom_files), (str(folder), "", ""), operating_point="youden"))
    assert opened.reading.study.operating_point == "mine"
    assert [name for _, name in opened.points] == ["mine"]


def test_a_checkpoint_that_cannot_be_loaded_is_told_in_words(desk, phantom_files):
    opened = desk.open(Question(tuple(phantom_files), ("nobody/nothing", "", "")))
    assert "nobody/nothing" in opened.answer
    assert opened.reading is None


def test_what_was_measured_is_that_of_the_found_part(desk, opened):
    html = desk.achieved(opened.reading, 0.1)
    assert "of the wrist" in html
    assert desk.achieved(None, 0.1) == ""


def test_similar_cases_are_searched_everywhere_or_in_the_same_part(desk, room):
    hand = desk.open(Question(tuple(room.examples[1].files), PHANTOM)).reading
    for same in (False, True):
        html = desk.similar(hand, same_part=same)
        assert html.count("<li>") == 5
        assert html.count("data:image/webp") == 5
        assert len(re.findall(r"distance \d+\.\d\d", html)) == 5
        if same:
            assert len(re.findall(r">hand, distance", html)) == 5
    assert "once a study was read" in desk.similar(None, same_part=False)


def test_similar_films_are_told_by_number_without_a_picture(desk, room):
    question = Question(tuple(room.examples[1].files), ("mura-film", "", ""), anyway=True)
    reading = desk.open(question).reading
    html = desk.similar(reading, same_part=False)
    assert len(re.findall(r">IMG\d{7}<", html)) == 5
    assert "<img" not in html
    assert "1,980 views of FracAtlas" in html
    assert "Pictures of patients are not shown." in html
    assert "does not tell the body part" in desk.similar(reading, same_part=True)


def test_what_brings_no_database_says_so(desk, checkpoint, phantom_files):
    reading = desk.open(Question(tuple(phantom_files), (str(checkpoint), "", ""))).reading
    assert "brings no database of studies" in desk.similar(reading, same_part=False)


def test_a_report_says_what_the_page_says(desk, opened):
    report = _json(desk.report("json", opened.reading, 0.25))
    study = opened.reading.study
    assert report["study"] == json.loads(study.to_json())
    assert report["measured"]["group"] == "wrist"
    assert report["measured"]["prevalence"] == 0.25
    assert report["checkpoint"] == "bundled: mura-phantom"
    assert re.fullmatch("[0-9a-f]{64}", report["weights_sha256"])
    assert "Not a medical device" in report["disclaimer"]
    pdf = desk.report("pdf", opened.reading, 0.25)
    assert 'data-name="study-report.pdf"' in pdf


def test_no_report_tells_an_answer_that_the_page_withholds(desk, room, opened):
    strange = desk.open(Question(tuple(room.examples[0].files), ("mura-film", "", "")))
    assert strange.withheld
    report = _json(desk.report("json", strange.reading, 0.1))
    assert report["withheld"] is True
    assert report["study"] is None
    assert "Not searched" in desk.similar(strange.reading, same_part=False)
    assert desk.achieved(strange.reading, 0.1) == ""


def test_a_report_of_files_that_are_gone_asks_for_them(desk, tmp_path, phantom_files, checkpoint):
    file = tmp_path / "wrist.png"
    shutil.copy(phantom_files[0], file)
    reading = desk.open(Question((str(file),), (str(checkpoint), "", ""))).reading
    file.unlink()
    assert "upload it again" in desk.report("pdf", reading, 0.1)
    assert "Read a study first" in desk.report("pdf", None, 0.1)
