import struct
import weakref
import zipfile
from pathlib import Path

import numpy as np
import pytest
from dicom_files import encode_dicom

from mura_hf import RadiographError
from mura_hf.demo.reading import MAX_UNPACKED, StudyReading, read_files, read_study
from mura_hf.demo.worklist_controller import read_worklist
from mura_hf.inference import StudyFile, find_studies
from mura_hf.phantoms import render_phantom
from mura_hf.radiographs import GuardedReader, read_radiograph

NOT_A_PICTURE = (
    "{} is not a PNG, JPEG, TIFF, BMP, WebP or DICOM file, or its header is damaged; export it as one of these."
)


@pytest.fixture
def reader(context):
    return context.reader


def _pack(file, members):
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return str(file)


def test_good_views_are_read_and_bad_ones_named(predictor, reader, phantom_files, tmp_path):
    bad = tmp_path / "x.png"
    bad.write_text("Dear doctor")
    files = [phantom_files[0], str(bad), str(tmp_path / "gone.png")]
    reading = read_study(predictor, reader, files, None)
    study, radiographs, problems = reading.study, reading.radiographs, reading.problems
    assert len(study.views) == len(radiographs) == 1
    assert study.probability == predictor([phantom_files[0]]).probability
    assert problems == [NOT_A_PICTURE.format("x.png"), "gone.png is no longer on the server; upload it again."]
    assert read_study(predictor, reader, [str(bad)], None) == StudyReading(None, [], problems[:1])
    with pytest.raises(ValueError, match="unknown operating point"):  # options reach the predictor
        read_study(predictor, reader, phantom_files[:1], None, operating_point="none such")
    study = read_study(predictor, reader, phantom_files[:1], None, method="grad_cam").study
    assert study.heatmap_method == "grad_cam"


def test_too_many_views_are_reported(reader, phantom_files, monkeypatch):
    monkeypatch.setattr("mura_hf.demo.reading.MAX_VIEWS", 1)
    names, _, problems = read_files(reader, [phantom_files[0]] * 3)
    name = Path(phantom_files[0]).name
    assert names == [name]
    assert problems == [f"A study may have at most 1 views here; not read: {name}, {name}."]


def test_the_views_of_a_study_share_its_pixels(predictor, reader, phantom_tree, tmp_path, monkeypatch):
    files = [str(file) for file in sorted(phantom_tree.rglob("*.png"))[:6]]
    whole = [read_radiograph(file).pixels for file in files]
    pixels = max(view.size for view in whole)
    for budget, count, reduced in ((6 * pixels, 6, False), (4 * pixels, 2, False), (2 * pixels, 6, True)):
        monkeypatch.setattr("mura_hf.demo.reading.STUDY_PIXELS", budget)
        reading = read_study(predictor, reader, files[:count], None)
        study, radiographs, problems = reading.study, reading.radiographs, reading.problems
        assert problems == []
        assert sum(view.pixels.size for view in radiographs) <= budget
        notes = [warning for warning in study.warnings if "was reduced from" in warning]
        assert len(notes) == sum(view.size > budget // max(4, count) for view in whole[:count])
        assert bool(notes) == reduced
        for view, radiograph, plain in zip(study.views, radiographs, whole, strict=False):
            assert view.heatmap.shape == (view.height, view.width) == radiograph.pixels.shape  # so it is bounded too
            assert reduced or (radiograph.pixels == plain).all()
    packed = _pack(
        tmp_path / "a.zip", {f"1/{number}.png": Path(file).read_bytes() for number, file in enumerate(files)}
    )
    assert sum(view.pixels.size for view in read_files(reader, [packed])[1]) <= 2 * pixels
    *_, last = read_worklist(predictor, find_studies(packed), reader)
    assert len([warning for warning in last.rows[0].warnings if "was reduced from" in warning]) == len(notes)


def test_a_dicom_file_with_its_warnings(predictor, reader, tmp_path):
    pixels = render_phantom(3, body_part="wrist", finding=None, size=128).pixels.astype(np.uint16) * 16
    file = tmp_path / "wrist.dcm"
    frames = np.stack([pixels, pixels])
    file.write_bytes(encode_dicom(frames, syntax="JPEG lossless", bits_stored=12, photometric="MONOCHROME1"))
    reading = read_study(predictor, reader, [str(file)], None)
    study, radiographs, problems = reading.study, reading.radiographs, reading.problems
    assert problems == []
    assert [view.name for view in study.views] == ["wrist.dcm"]
    assert radiographs[0].source_format == "DICOM"
    assert any(warning.startswith("wrist.dcm") for warning in study.warnings)


def test_files_that_need_too_much_memory_or_time_do_not_affect_others(predictor, phantom_files, tmp_path):
    bomb = tmp_path / "bomb.dcm"
    bomb.write_bytes(
        encode_dicom(np.tile(np.uint16([[0, 500]]), (4000, 2000)), syntax="JPEG lossless", bits_stored=12)
    )
    assert bomb.stat().st_size < 8_000_000
    with GuardedReader(workers=1, memory_bytes=24 << 20) as small:
        reading = read_study(predictor, small, [str(bomb), phantom_files[0]], None)
    assert [view.name for view in reading.study.views] == [Path(phantom_files[0]).name]
    assert reading.problems[0].startswith("bomb.dcm needs more memory")
    with GuardedReader(workers=1, seconds=0.02) as hasty:
        assert read_study(predictor, hasty, [str(bomb)], None).problems[0].startswith("bomb.dcm took longer")
        hasty.seconds = 5.0
        reading = read_study(predictor, hasty, [phantom_files[0]], None)
    assert (len(reading.study.views), reading.problems) == (1, [])


def test_views_keep_their_order_and_progress_is_reported(reader, phantom_tree):
    files = [str(file) for file in sorted(phantom_tree.rglob("*.png"))[:5]]
    steps = []
    names, radiographs, problems = read_files(reader, files, progress=lambda *step: steps.append(step))
    assert names == [Path(file).name for file in files]
    pixels = [radiograph.pixels.tobytes() for radiograph in radiographs]
    assert pixels == [read_radiograph(file).pixels.tobytes() for file in files]
    assert problems == []
    assert [(done, total) for done, total, _ in steps] == [(done, 5) for done in range(6)]
    assert sorted(name for *_, name in steps[1:]) == sorted(names)


def test_a_zip_file_may_contain_one_study(predictor, reader, phantom_files, tmp_path):
    pictures = [Path(file).read_bytes() for file in phantom_files[:2]]
    one = _pack(tmp_path / "one.zip", {"study/a.png": pictures[0], "study/b.png": pictures[1], "study/c.png": b"no"})
    reading = read_study(predictor, reader, [one], None, heatmaps=False)
    study, problems = reading.study, reading.problems
    assert [view.name for view in study.views] == ["a.png", "b.png"]
    assert study.probability == predictor(phantom_files[:2]).probability
    assert problems == [NOT_A_PICTURE.format("c.png")]
    # Files that cannot be read, or not as a view, do not make another study.
    extra = {"report.pdf": b"%PDF-1.7", "photos/x.heic": b"\0\0\0\x18ftypheic", "docs/a.txt": b"no film"}
    more = _pack(tmp_path / "more.zip", {**extra, "s/a.JFIF": pictures[0], "s/b": pictures[1], "s/c.png": b"no"})
    names, _, problems = read_files(reader, [more])
    assert names == ["a.JFIF", "b"]
    assert [problem.split(" is ")[0] for problem in sorted(problems)] == ["c.png", "report.pdf", "x.heic"]
    two = _pack(tmp_path / "two.zip", {"1/a.png": pictures[0], "2/a.png": pictures[1]})
    empty, text = _pack(tmp_path / "empty.zip", {"notes.txt": b"Dear doctor"}), tmp_path / "text.zip"
    text.write_text("Dear doctor")
    names, _, problems = read_files(reader, [two, empty, str(text), phantom_files[0]])
    assert len(names) == 1
    assert len(problems) == 3
    assert problems[0].startswith("two.zip contains 2 studies, but this tab reads one; open it in the worklist")
    assert problems[1].startswith("empty.zip ")
    assert problems[2] == "text.zip is not a ZIP file, or it is damaged; pack it again."
    assert str(tmp_path) not in " ".join(problems)


def test_a_call_cannot_have_one_zip_file_searched_many_times(reader, phantom_files, tmp_path):
    empty = _pack(tmp_path / "empty.zip", {"notes.txt": b"Dear doctor"})
    names, _, problems = read_files(reader, [empty] * 6 + [phantom_files[0]])
    assert len(names) == 1
    assert problems[4:] == ["empty.zip was not read: a study may be in 4 ZIP files at most."] * 2


def test_views_that_are_large_once_unpacked_do_not_fill_the_memory(reader, tmp_path, phantom_files):
    file, picture = tmp_path / "bomb.zip", Path(phantom_files[0]).read_bytes()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", picture + bytes(MAX_UNPACKED))
        archive.writestr("good.png", picture)
    assert file.stat().st_size < 1_000_000
    names, _, problems = read_files(reader, [str(file)])
    assert (names, problems) == (["good.png"], ["bomb.png is larger than 96 MiB, the limit for a radiograph."])


@pytest.mark.parametrize("large", [False, True])
def test_a_zip_file_whose_member_list_would_fill_the_memory_is_not_opened(reader, tmp_path, large):
    file = tmp_path / "many.zip"
    size = 1 << 30
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, 0xFFFFFFFF if large else size, 0, 0)
    if large:
        record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, size, 0)
        end = record + struct.pack("<4sLQL", b"PK\6\7", 0, 0, 1) + end
    file.write_bytes(b"PK\3\4" + b"\0" * 100 + end)
    assert read_files(reader, [str(file)])[2] == ["many.zip lists far more files than a worklist has; split it."]


def test_files_that_cannot_be_read_do_not_stay_in_memory(monkeypatch):
    """A small ZIP file may contain 16 members that are large when unpacked."""
    alive, most = weakref.WeakSet(), []

    class Content:
        def __init__(self):
            alive.add(self)
            most.append(len(alive))

    class Reader:
        def read(self, content, *, name, max_pixels):
            raise RadiographError(f"{name} is broken.")

    views = [StudyFile(f"{number}.png", Path("bomb.zip"), "member") for number in range(16)]
    monkeypatch.setattr(StudyFile, "content", lambda view, *limits: Content())
    monkeypatch.setattr("mura_hf.demo.reading._find_views", lambda files: (views, []))
    names, _, problems = read_files(Reader(), ["bomb.zip"])
    assert (names, len(problems), len(most)) == ([], 16, 16)
    assert max(most) <= 4
