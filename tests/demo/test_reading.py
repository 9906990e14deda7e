from mura_hf import StudyPredictor
from mura_hf.demo.reading import MAX_VIEWS, read_study


def test_good_views_are_answered_and_bad_ones_named(checkpoint, phantom_files, tmp_path):
    predictor = StudyPredictor.from_pretrained(checkpoint)
    bad = tmp_path / "x.png"
    bad.write_text("Dear doctor")
    study, radiographs, problems = read_study(predictor, [phantom_files[0], str(bad)], None)
    assert len(study.views) == len(radiographs) == 1
    assert study.probability == predictor([phantom_files[0]]).probability
    assert problems == ["x.png is not a PNG, JPEG or DICOM file, or its header is damaged; export it as one of these."]
    assert read_study(predictor, [str(bad)], None) == (None, [], problems)


def test_a_file_that_was_swept_is_asked_for_again(checkpoint, phantom_files, tmp_path):
    predictor = StudyPredictor.from_pretrained(checkpoint)
    study, _, problems = read_study(predictor, [str(tmp_path / "gone.png"), phantom_files[0]], None)
    assert len(study.views) == 1
    assert problems == ["gone.png was uploaded too long ago and is gone from the server; upload it again."]


def test_too_many_views_are_said_not_dropped(checkpoint, phantom_files):
    predictor = StudyPredictor.from_pretrained(checkpoint)
    study, _, problems = read_study(predictor, [phantom_files[0]] * (MAX_VIEWS + 2), "wrist")
    assert len(study.views) == MAX_VIEWS
    assert "2 more were not read" in problems[0]
    assert study.body_part == "wrist"
