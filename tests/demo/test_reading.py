import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mura_hf import StudyPredictor
from mura_hf.demo.reading import MAX_VIEWS, read_files, read_study
from mura_hf.phantoms import encode_dicom, render_phantom
from mura_hf.radiographs import GuardedReader, read_radiograph


@pytest.fixture(scope="module")
def reader():
    with GuardedReader(workers=1) as reader:
        yield reader


def test_good_views_are_answered_and_bad_ones_named(checkpoint, reader, phantom_files, tmp_path):
    predictor = StudyPredictor.from_pretrained(checkpoint)
    bad = tmp_path / "x.png"
    bad.write_text("Dear doctor")
    study, radiographs, problems = read_study(predictor, reader, [phantom_files[0], str(bad)], None)
    assert len(study.views) == len(radiographs) == 1
    assert study.probability == predictor([phantom_files[0]]).probability
    assert problems == ["x.png is not a PNG, JPEG or DICOM file, or its header is damaged; export it as one of these."]
    assert read_study(predictor, reader, [str(bad)], None) == (None, [], problems)


def test_a_file_that_was_swept_is_asked_for_again(checkpoint, reader, phantom_files, tmp_path):
    predictor = StudyPredictor.from_pretrained(checkpoint)
    study, _, problems = read_study(predictor, reader, [str(tmp_path / "gone.png"), phantom_files[0]], None)
    assert len(study.views) == 1
    assert problems == ["gone.png was uploaded too long ago and is gone from the server; upload it again."]


def test_too_many_views_are_said_not_dropped(checkpoint, reader, phantom_files):
    predictor = StudyPredictor.from_pretrained(checkpoint)
    study, _, problems = read_study(predictor, reader, [phantom_files[0]] * (MAX_VIEWS + 2), "wrist")
    assert len(study.views) == MAX_VIEWS
    assert f"not read: {Path(phantom_files[0]).name}, {Path(phantom_files[0]).name}." in problems[0]
    assert study.body_part == "wrist"


def test_dicom_is_answered_with_what_was_odd_about_it(checkpoint, reader, tmp_path):
    pixels = render_phantom(3, body_part="wrist", finding=None).pixels.astype(np.uint16) * 16
    file = tmp_path / "wrist.dcm"
    frames = np.stack([pixels, pixels])
    file.write_bytes(encode_dicom(frames, syntax="JPEG lossless", bits_stored=12, photometric="MONOCHROME1"))
    study, radiographs, problems = read_study(StudyPredictor.from_pretrained(checkpoint), reader, [str(file)], None)
    assert problems == []
    assert [view.name for view in study.views] == ["wrist.dcm"]
    assert radiographs[0].source_format == "DICOM"
    assert "wrist.dcm holds 2 pictures; only the first was read." in study.warnings


def test_a_bomb_and_a_file_that_takes_too_long_cost_themselves_alone(checkpoint, phantom_files, tmp_path):
    bomb, slow = tmp_path / "bomb.dcm", tmp_path / "slow.dcm"
    even = encode_dicom(np.tile(np.uint16([[0, 500]]), (4000, 2000)), syntax="JPEG lossless", bits_stored=12)
    assert len(even) < 8_000_000
    for file in (bomb, slow):
        file.write_bytes(even)
    predictor = StudyPredictor.from_pretrained(checkpoint)
    with GuardedReader(workers=1, memory_bytes=24 << 20) as small:
        study, _, problems = read_study(predictor, small, [str(bomb), phantom_files[0]], None)
    assert [view.name for view in study.views] == [phantom_files[0].rsplit("/", 1)[1]]
    assert problems[0].startswith("bomb.dcm needs more memory")
    with GuardedReader(workers=1, seconds=0.02) as hasty:
        assert read_study(predictor, hasty, [str(slow)], None)[2][0].startswith("slow.dcm took longer")
        hasty.seconds = 5.0
        study, _, problems = read_study(predictor, hasty, [phantom_files[0]], None)
    assert (len(study.views), problems) == (1, [])


def test_views_keep_their_order_though_they_are_read_at_once_and_each_is_told(reader, phantom_tree):
    files = [str(file) for file in sorted(phantom_tree.rglob("*.png"))[:5]]
    told = []
    names, radiographs, problems = read_files(reader, files, progress=lambda *step: told.append(step))
    assert names == [file.rsplit("/", 1)[1] for file in files]
    assert [radiograph.pixels.tobytes() for radiograph in radiographs] == [
        read_radiograph(file).pixels.tobytes() for file in files
    ]
    assert problems == []
    assert [(done, total) for done, total, _ in told] == [(done, 5) for done in range(6)]
    assert sorted(name for *_, name in told[1:]) == sorted(names)


def pack(file, members):
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return str(file)


def test_a_zip_of_one_study_is_taken_apart_and_others_are_told_where_to_go(
    checkpoint, reader, phantom_files, tmp_path
):
    pictures = [Path(file).read_bytes() for file in phantom_files[:2]]
    one = pack(tmp_path / "one.zip", {"study/a.png": pictures[0], "study/b.png": pictures[1], "study/c.png": b"no"})
    predictor = StudyPredictor.from_pretrained(checkpoint)
    study, _, problems = read_study(predictor, reader, [one], None, heatmaps=False)
    assert [view.name for view in study.views] == ["a.png", "b.png"]
    assert study.probability == predictor(phantom_files[:2]).probability
    assert problems == ["c.png is not a PNG, JPEG or DICOM file, or its header is damaged; export it as one of these."]
    two = pack(tmp_path / "two.zip", {"1/a.png": pictures[0], "2/a.png": pictures[1]})
    empty, text = pack(tmp_path / "empty.zip", {"notes.txt": b"Dear doctor"}), tmp_path / "text.zip"
    text.write_text("Dear doctor")
    names, _, problems = read_files(reader, [two, empty, str(text), phantom_files[0]])
    assert len(names) == 1
    assert problems == [
        "two.zip holds 2 studies, and one is read here; open it in the worklist, or drop the views of one study.",
        "empty.zip holds no picture (PNG, JPEG or DICOM).",
        "text.zip is no ZIP file, or a damaged one; pack it again.",
    ]


@pytest.mark.parametrize("large", [False, True])
def test_a_zip_with_a_list_of_members_that_would_fill_the_memory_is_not_opened(reader, tmp_path, large):
    file = tmp_path / "many.zip"
    size = 1 << 30
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, 0xFFFFFFFF if large else size, 0, 0)
    if large:
        record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, size, 0)
        end = record + struct.pack("<4sLQL", b"PK\6\7", 0, 0, 1) + end
    file.write_bytes(b"PK\3\4" + b"\0" * 100 + end)
    assert read_files(reader, [str(file)])[2] == [
        "many.zip lists far more files than a worklist has; give it in parts."
    ]


def test_operating_point_and_method_reach_the_answer(checkpoint, reader, phantom_files):
    predictor = StudyPredictor.from_pretrained(checkpoint)
    with pytest.raises(ValueError, match="unknown operating point"):
        read_study(predictor, reader, phantom_files, None, operating_point="none such")
    study, _, _ = read_study(predictor, reader, phantom_files, None, method="grad_cam")
    assert study.heatmap_method == "grad_cam"
    assert read_study(predictor, reader, phantom_files, None, heatmaps=False)[0].heatmap_method is None
