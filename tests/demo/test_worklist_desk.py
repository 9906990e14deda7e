import json
import threading
import zipfile
from pathlib import Path

import pytest

from mura_hf import StudyPredictor
from mura_hf.demo.checkpoints import DEFAULT
from mura_hf.demo.context import Limits
from mura_hf.demo.worklist_controller import (
    MAX_VIEWS,
    Stage,
    WorklistDesk,
    gather_studies,
    read_worklist,
    safe_name,
    stage_html,
    write_views,
)
from mura_hf.demo.worklist_tab import are_worklist_phantoms, write_phantoms
from mura_hf.errors import DatasetError
from mura_hf.inference import (
    StudyFile,
    StudyFiles,
    WorklistRow,
    find_studies,
    predict_rows,
    sort_rows,
    worklist_csv,
    worklist_json,
)


@pytest.fixture(scope="module")
def predictor(checkpoint):
    return StudyPredictor.from_pretrained(checkpoint)


@pytest.fixture
def desk(room):
    return WorklistDesk(room)


@pytest.fixture(scope="module")
def few(phantom_tree):
    return find_studies(phantom_tree / "valid" / "XR_WRIST")


def test_a_reading_gives_the_rows_and_files_of_the_command(desk, predictor, few):
    *_, (told, table, csv, as_json) = desk.read("anna", predictor, few, "no such point")
    rows = sort_rows(predict_rows(predictor, few))
    assert f"Read {len(few)} of {len(few)} studies" in told
    assert table.count('<tr role="row" data-study') == len(few)
    assert Path(csv["value"]).read_text() == worklist_csv(rows)
    assert Path(as_json["value"]).read_text() == worklist_json(rows)
    assert Path(csv["value"]).is_relative_to(desk.room.files.folder)


def test_a_reading_stops_between_two_studies_or_when_its_time_is_over(desk, predictor, few):
    desk.begin("bert")
    desk.stop("bert")
    desk.stop("nobody")
    *_, (told, _, csv, _) = desk.read("bert", predictor, few, None)
    assert f"Stopped. Read 0 of {len(few)} studies" in told
    assert csv == {"__type__": "update", "value": None, "visible": False}
    *_, last = read_worklist(predictor, few, desk.room.reader, most_seconds=0)
    assert last.ended
    assert last.rows == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("worklist")]


def test_too_many_studies_or_views_are_refused_in_words(desk, phantom_tree, predictor, few, tmp_path):
    with pytest.raises(DatasetError, match=r"^MURA-v1.1 holds 56 studies, and a worklist may have 3 here"):
        gather_studies(phantom_tree, Limits(studies=3))
    many = StudyFiles("all", tuple(StudyFile(f"{n}.png", tmp_path) for n in range(MAX_VIEWS + 1)))
    *_, last = read_worklist(predictor, [many, few[0]], desk.room.reader)
    assert f"{MAX_VIEWS + 1} views lie in one folder" in last.rows[0].error
    assert last.rows[1].probability is not None


def test_what_cannot_be_gathered_is_said_without_telling_where_it_lies(desk, tmp_path):
    for upload, path, words in (
        (None, "  ", "There is nothing to read yet"),
        ("a.zip", "b", "Both a ZIP file and a path"),
        (str(tmp_path / "gone.zip"), "", "^gone.zip was uploaded too long ago"),
        (None, str(tmp_path / "nowhere"), "^nowhere does not exist"),
        (None, str(tmp_path), "holds no picture"),
    ):
        with pytest.raises(DatasetError, match=words) as caught:
            desk.gather(upload, path)
        assert str(tmp_path) not in str(caught.value)


def test_a_study_is_opened_as_files_of_its_own_and_the_last_ones_go(desk, phantom_tree):
    archive = desk.room.files.folder / "studies.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for study in find_studies(phantom_tree)[:2]:
            for file in study.files:
                opened.write(file.path, f"XR_HAND/{study.name}/{file.name}")
        opened.writestr("none/x.png", b"")
    studies = desk.gather(str(archive), "")
    first, problems = desk.open("carl", studies, 0)
    assert problems == []
    assert first.body_part == "hand"
    assert [Path(file).name for file in first.files] == [file.name for file in studies[0].files]
    assert Path(first.files[0]).read_bytes() == studies[0].files[0].content()
    second, _ = desk.open("carl", studies, 1, first)
    assert not Path(first.files[0]).exists()
    assert Path(second.files[0]).is_file()
    for place in (-1, 3, "0", None, True, 1.0):
        with pytest.raises(DatasetError, match="no longer in the worklist"):
            desk.open("carl", studies, place)
    archive.unlink()
    with pytest.raises(DatasetError, match="cannot be opened"):
        desk.open("carl", studies, 0)


def test_a_study_of_too_many_views_is_opened_in_part(room, phantom_tree, monkeypatch):
    monkeypatch.setattr("mura_hf.demo.worklist_controller.MAX_VIEWS", 1)
    desk = WorklistDesk(room)
    study = next(study for study in find_studies(phantom_tree) if len(study.files) > 1)
    opened, problems = desk.open("dora", [study], 0)
    assert len(opened.files) == 1
    assert "more were left out" in problems[0]


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("image1.png", "image1.png"), ("..", "view"), ("a\\b\0c.png", "a_b_c.png"), ("\udcff.dcm", "_.dcm"),
        ("x" * 300 + ".png", "x" * 96 + ".png"), ("1.2.840." + "9" * 300, None),
    ],
)  # fmt: skip
def test_names_become_names_of_files(name, safe):
    found = safe_name(name)
    assert len(found) <= 100
    assert safe is None or found == safe


def test_files_of_one_name_stay_apart(tmp_path):
    sources = [tmp_path / "a" / "x.png", tmp_path / "b" / "X.png"]
    for number, source in enumerate(sources):
        source.parent.mkdir()
        source.write_text(str(number))
    (tmp_path / "out").mkdir()
    files = [StudyFile(source.name, source) for source in sources] + [StudyFile("gone.png", tmp_path / "gone.png")]
    paths, problems = write_views(files, tmp_path / "out")
    assert [Path(path).read_text() for path in paths] == ["0", "1"]
    assert problems == ["gone.png is no longer there, so it was left out."]


def test_the_phantoms_are_known_again_and_read_by_their_model(desk, tmp_path):
    studies = write_phantoms(tmp_path)
    assert len(studies) == 12
    files = [str(file.path) for file in studies[0].files]
    assert are_worklist_phantoms(files)
    assert desk.choose(DEFAULT, phantoms=True)[0] == "mura-phantom"
    assert desk.choose(("mura-film", "", ""), phantoms=True)[0] == "mura-film"
    assert desk.choose(DEFAULT, phantoms=False) == DEFAULT
    Path(files[0]).write_bytes(b"another")
    assert not are_worklist_phantoms(files)
    assert not are_worklist_phantoms([])


def test_the_progress_tells_how_many_how_fast_and_how_long():
    rows = [WorklistRow(str(number)) for number in range(30)]
    html = stage_html(Stage(rows, 1200, 10.0, show=True))
    assert "Read <b>30</b> of 1,200 studies · 3.0 studies a second · about 6 min left" in html
    assert '<progress max="1200" value="30"' in html
    assert "0 percent read" in html
    assert "second" not in stage_html(Stage([], 3, 0.0, show=False))
    assert json.dumps(stage_html(Stage(rows, 30, 3.2, show=True, ended=True), "<Done>")).count("&lt;Done&gt;") == 1


def test_what_is_uploaded_is_a_zip_file_and_no_list_of_the_servers_own(room, tmp_path):
    (tmp_path / "list.csv").write_text("/etc/hostname\n")
    with pytest.raises(DatasetError, match=r"^list\.csv is no ZIP file"):
        WorklistDesk(room).gather(str(tmp_path / "list.csv"), "")
