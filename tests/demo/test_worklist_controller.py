import re
import threading
import zipfile
from html import unescape
from pathlib import Path

import pytest

from mura_hf.demo import worklist_controller
from mura_hf.demo.examples import find_example
from mura_hf.demo.reading import pixels_per_view
from mura_hf.demo.state import Limits
from mura_hf.demo.templates import BANDS
from mura_hf.demo.worklist_controller import (
    MAX_VIEWS,
    WorklistController,
    WorklistProgress,
    band_of,
    copy_views,
    example_worklist,
    gather_studies,
    read_worklist,
    safe_name,
    summary_text,
    worklist_html,
    worklist_progress_html,
)  # fmt: skip
from mura_hf.errors import DatasetError
from mura_hf.inference import (
    OOD_WARNING,
    StudyFile,
    StudyFiles,
    WorklistRow,
    find_studies,
    predict_rows,
    sort_rows,
    worklist_csv,
    worklist_json,
)  # fmt: skip


@pytest.fixture
def controller(context):
    return WorklistController(context)


@pytest.fixture(scope="module")
def few(phantom_tree):
    return find_studies(phantom_tree / "valid" / "XR_WRIST")


def test_rows_and_files_are_those_of_the_command(controller, predictor, few):
    *_, (progress, table, csv, as_json) = controller.read("anna", predictor, few, "no such point")
    rows = sort_rows(predict_rows(predictor, few))
    assert f"Read {len(few)} of {len(few)} study" in progress
    assert table.count('<tr role="row" data-study') == table.count('<img src="data:image/jpeg') == len(few)
    assert Path(csv["value"]).read_text() == worklist_csv(rows)
    assert Path(as_json["value"]).read_text() == worklist_json(rows)
    assert Path(csv["value"]).is_relative_to(controller.context.uploads.folder)


def test_reading_stops_between_two_studies_or_when_the_time_is_over(controller, predictor, few):
    controller.begin("bert")
    controller.stop("bert")
    controller.stop("nobody")
    *_, (progress, _, csv, _) = controller.read("bert", predictor, few, None)
    assert f"Stopped. Read 0 of {len(few)} study" in progress
    assert csv == {"__type__": "update", "value": None, "visible": False}
    *_, last = read_worklist(predictor, few, controller.context.reader, max_seconds=0)
    assert last.ended
    assert last.rows == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("worklist")]


def test_too_many_studies_or_views_are_refused(controller, phantom_tree, predictor, few, tmp_path):
    with pytest.raises(DatasetError, match=r"^MURA-v1.1 contains 56 studies; a worklist may have 3 here"):
        gather_studies(phantom_tree, Limits(studies=3))
    many = StudyFiles("all", tuple(StudyFile(f"{n}.png", tmp_path) for n in range(MAX_VIEWS + 1)))
    *_, last = read_worklist(predictor, [many, few[0]], controller.context.reader)
    assert f"contains {MAX_VIEWS + 1} views" in last.rows[0].error
    assert last.rows[1].probability is not None


def test_a_file_may_be_in_two_studies(controller, predictor, few, monkeypatch):
    file, other = StudyFile(few[0].files[0].name, few[0].files[0].path), few[0].files[-1]
    studies, budgets, thumbnails = [StudyFiles("one", (file,)), StudyFiles("two", (file, other) * 4)], [], {}
    read = worklist_controller.read_view
    monkeypatch.setattr(
        worklist_controller, "read_view", lambda reader, view, most: budgets.append(most) or read(reader, view, most)
    )
    *_, last = read_worklist(predictor, studies, controller.context.reader, thumbnails=thumbnails)
    assert [row.n_views for row in last.rows] == [1, 8]
    assert set(thumbnails) == {"one", "two"}
    assert budgets == [pixels_per_view(1)] + [pixels_per_view(8)] * 8


def test_errors_do_not_contain_the_path_on_the_server(controller, tmp_path):
    (tmp_path / "list.csv").write_text("/etc/hostname\n")
    (tmp_path / "empty").mkdir()
    for upload, path, message in (
        (None, "  ", "There is nothing to read yet"),
        ("a.zip", "b", "either a ZIP file or a path"),
        (str(tmp_path / "gone.zip"), "", "^gone.zip is no longer on the server"),
        (str(tmp_path / "list.csv"), "", r"^list\.csv is not a ZIP file"),
        (None, str(tmp_path / "nowhere"), "^nowhere "),
        (None, str(tmp_path / "empty"), "^empty "),
    ):
        with pytest.raises(DatasetError, match=message) as caught:
            controller.gather(upload, path)
        assert str(tmp_path) not in str(caught.value)


def test_a_study_is_opened_as_files_of_its_own(controller, phantom_tree, monkeypatch):
    archive = controller.context.uploads.folder / "studies.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for study in [study for study in find_studies(phantom_tree) if len(study.files) > 1][:2]:
            for file in study.files:
                opened.write(file.path, f"XR_HAND/{study.name}/{file.name}")
        opened.writestr("none/x.png", b"")
    studies = controller.gather(str(archive), "")
    first, problems = controller.open("carl", studies, 0)
    assert problems == []
    assert first.body_part == "hand"
    assert [Path(file).name for file in first.files] == [file.name for file in studies[0].files]
    assert Path(first.files[0]).read_bytes() == studies[0].files[0].content()
    second, _ = controller.open("carl", studies, 1, first)
    assert not Path(first.files[0]).exists()
    assert Path(second.files[0]).is_file()
    for number in (-1, 3, "0", None, True, 1.0):
        with pytest.raises(DatasetError, match="no longer in the worklist"):
            controller.open("carl", studies, number)
    monkeypatch.setattr("mura_hf.demo.worklist_controller.MAX_VIEWS", 1)
    opened, problems = controller.open("carl", studies, 0)
    assert len(opened.files) == 1
    assert "more were left out" in problems[0]
    archive.unlink()
    with pytest.raises(DatasetError, match="cannot be opened"):
        controller.open("carl", studies, 0)


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("image1.png", "image1.png"), ("..", "view"), ("a\\b\0c.png", "a_b_c.png"), ("\udcff.dcm", "_.dcm"),
        ("x" * 300 + ".png", "x" * 96 + ".png"), ("1.2.840." + "9" * 300, None),
    ],
)  # fmt: skip
def test_safe_names(name, safe):
    found = safe_name(name)
    assert len(found) <= 100
    assert safe is None or found == safe


def test_copies_of_equal_names_stay_apart_and_those_of_examples_are_recognised(controller, tmp_path):
    sources = [tmp_path / "a" / "x.png", tmp_path / "b" / "X.png"]
    for number, source in enumerate(sources):
        source.parent.mkdir()
        source.write_text(str(number))
    (tmp_path / "out").mkdir()
    files = [StudyFile(source.name, source) for source in sources] + [StudyFile("gone.png", tmp_path / "gone.png")]
    paths, problems = copy_views(files, tmp_path / "out", 2)
    assert [Path(path).read_text() for path in paths] == ["0", "1"]
    assert problems == ["gone.png no longer exists, so it was left out."]

    (tmp_path / "less").mkdir()
    paths, problems = copy_views(files, tmp_path / "less", 1)
    assert [Path(path).name for path in paths] == ["x.png"]
    assert problems == ["X.png was left out: the server has no room for so large a study."]

    opened, _ = controller.open("dora", example_worklist(), 3)
    assert find_example(opened.files).body_part == "finger"


def _row(study, probability=None, **fields):
    fields = {"error": None if probability is not None else "No view could be read.", **fields}
    if probability is not None:
        label = "abnormal" if probability > 0.5 else "normal"
        fields = {"band": "suspected" if probability > 0.5 else "low", "label": label, **fields}
    return WorklistRow(study, probability=probability, **fields)


ROWS = [
    _row("quiet", 0.2, body_part="wrist", n_views=2),
    _row("broken", left_out=("x.png is empty.",)),
    _row("loud", 0.9, body_part="hand", n_views=1, warnings=("Of all.", "Of this one.")),
    _row("odd", 0.8, in_distribution=False, band="out_of_distribution", warnings=(OOD_WARNING,)),
    _row("between", 0.45, band="uncertain", body_part="hand"),
]
NUMBERS = {row.study: number for number, row in enumerate(ROWS)}


def _rows(html):
    return re.findall(r"<tr role=\"row\" (data-[^>]*)>(.*?)</tr>", html)


def test_rows_are_sorted_and_contain_what_the_script_sorts_by():
    html = worklist_html(ROWS, NUMBERS)
    rows = _rows(html)
    numbers = [int(re.search(r'data-study="(\d+)"', head)[1]) for head, _ in rows]
    assert numbers == [NUMBERS[row.study] for row in sort_rows(ROWS)]
    assert [re.search(r'data-rank="(\d+)"', head)[1] for head, _ in rows] == list("01234")
    assert [re.search(r'data-band="(\w+)"', head)[1] for head, _ in rows] == list(BANDS)
    assert 'data-part="unknown"' in rows[-2][0]
    assert re.findall(r'data-sort="(\w+)"', html) == ["study", "part", "chance", "band", "views", "notes"]
    assert html.count('aria-sort="none"') == 5
    assert html.count('aria-sort="descending"') == 1
    assert worklist_html([], {}) == ""


@pytest.mark.parametrize(
    ("fields", "choices"),
    [
        ([{"body_part": "wrist"}, {"region": "shoulder"}, {}], ["", "probably shoulder", "unknown", "wrist"]),
        ([{"region": "shoulder"}] * 2, None),
    ],
)
def test_the_filter_of_body_parts_offers_what_the_rows_contain(fields, choices):
    rows = [_row(str(number), 0.5, **values) for number, values in enumerate(fields)]
    select = re.search('data-filter="part">(.*?)</select>', worklist_html(rows, {"0": 0, "1": 1, "2": 2}), re.DOTALL)
    assert (select and re.findall('value="(.*?)"', select[1])) == choices


def test_signs_and_words_beside_colour():
    rows = dict(zip([row.study for row in sort_rows(ROWS)], _rows(worklist_html(ROWS, NUMBERS)), strict=True))
    for row in ROWS:
        sign, text = BANDS[band_of(row)]
        assert f"{sign}</span> {text.capitalize()}" in rows[row.study][1]
    assert summary_text(ROWS) == "1 suspected, 1 uncertain, 1 not answered, 1 not read, 1 not flagged"


def test_the_answer_for_an_unusual_study_is_withheld_and_notes_are_beside_their_row():
    html = worklist_html(ROWS, NUMBERS)
    _, body = next(row for row in _rows(html) if 'data-band="out_of_distribution"' in row[0])
    assert "0.8" not in body
    assert html.count("Studies that are not answered do not look like") == 1
    assert OOD_WARNING not in html
    assert "Studies that" not in worklist_html(ROWS[:3], NUMBERS)
    html = worklist_html(ROWS, NUMBERS, ["Of all."])
    assert html.count("Of all.") == 1
    assert "<li>Of this one.</li>" in html
    assert "<li>No view could be read.</li><li>Left out: x.png is empty.</li>" in html


def test_names_and_sentences_are_escaped():
    name = '"><img src=x onerror=alert(1)>/${1+1}{{x}}\udcff'
    row = _row(name, 0.7, left_out=("<script>",), warnings=("</td>",), body_part="<b>")
    html = worklist_html([row], {name: 0}, ["<i>"], version='"')
    for mark in ("<img", "<script", "<b>", "<i>"):
        assert mark not in html
    assert html.count("</td>") == 6
    assert "${1+1}{{x}}?" in unescape(html.replace("<wbr>", ""))
    html.encode()  # a name that is not text must not break the page


def test_progress():
    rows = [WorklistRow(str(number)) for number in range(30)]
    html = worklist_progress_html(WorklistProgress(rows, 1200, 10.0, show=True))
    assert "Read <b>30</b> of 1,200 studies · 3.0 studies a second · about 6 min left" in html
    assert '<progress max="1200" value="30"' in html
    assert "0 percent read" in html
    assert "second" not in worklist_progress_html(WorklistProgress([], 3, 0.0, show=False))
    assert "&lt;Done&gt;" in worklist_progress_html(WorklistProgress(rows, 30, 3.2, show=True, ended=True), "<Done>")
    assert "Stopped. Read 30 of 40 studies" in worklist_progress_html(
        WorklistProgress(rows, 40, 3.2, show=True, ended=True)
    )
