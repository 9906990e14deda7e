import numpy as np
import pytest

from mura_hf import StudyPredictor
from mura_hf.demo.reading import MAX_VIEWS, read_study
from mura_hf.phantoms import encode_dicom, render_phantom
from mura_hf.radiographs import GuardedReader


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
    assert "2 more were not read" in problems[0]
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
