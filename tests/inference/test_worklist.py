import csv
import io
import json
import shutil

import pytest

from mura_hf.inference import WorklistRow, find_studies, predict_rows, sort_rows, worklist_csv, worklist_json


@pytest.fixture(scope="module")
def studies(phantom_tree):
    return find_studies(phantom_tree / "valid")


def test_rows_say_what_the_predictor_says(predictor, studies):
    rows = list(predict_rows(predictor, studies, operating_point="paper"))
    assert [row.study for row in rows] == [study.name for study in studies]
    for row, study in zip(rows, studies, strict=True):
        answer = predictor([file.path for file in study.files], body_part=study.body_part, heatmaps=False)
        assert row.probability == pytest.approx(answer.probability, abs=1e-6)
        assert (row.label, row.band, row.body_part) == (answer.label, answer.band, answer.body_part)
        assert (row.n_views, row.error, row.checkpoint) == (len(study.files), None, predictor.checkpoint)
        assert (row.operating_point, row.threshold) == ("paper", 0.5)


def test_what_cannot_be_read_is_told_in_its_row(predictor, phantom_files, tmp_path):
    for study, names in {"good": ["a.png"], "half": ["a.png", "bad.png"], "bad": ["bad.png"]}.items():
        (tmp_path / study).mkdir()
        for name in names:
            if name == "bad.png":
                (tmp_path / study / name).write_bytes(b"no film")
            else:
                shutil.copy(phantom_files[0], tmp_path / study / name)
    bad, good, half = predict_rows(predictor, find_studies(tmp_path))
    assert good.probability == half.probability
    assert good.left_out == ()
    assert half.n_views == 1
    assert "bad.png is not a PNG" in half.left_out[0]
    assert (bad.probability, bad.label, bad.error) == (None, None, "No view could be read.")


def test_an_unknown_operating_point_is_refused_before_anything_is_read(predictor, studies):
    with pytest.raises(ValueError, match="unknown operating point 'best'"):
        next(predict_rows(predictor, studies, operating_point="best"))


def test_no_study_gives_no_row(predictor):
    assert list(predict_rows(predictor, [])) == []


def test_most_likely_abnormal_first_then_strange_then_unanswered():
    rows = [
        WorklistRow("low", probability=0.1, in_distribution=True),
        WorklistRow("failed", error="No view could be read."),
        WorklistRow("strange", probability=0.99, in_distribution=False),
        WorklistRow("high", probability=0.9),
        WorklistRow("also low", probability=0.1, in_distribution=True),
    ]
    assert [row.study for row in sort_rows(rows)] == ["high", "also low", "low", "strange", "failed"]


def test_csv_and_json_hold_the_rows():
    rows = [
        WorklistRow(
            "=cmd()", "wrist", 0.25, "normal", "normal", True, 2, ("a, b", "c"), ("w",), None, "paper", 0.5, "x"
        ),
        WorklistRow("other", error='said "no"'),
    ]
    first, second = csv.DictReader(io.StringIO(worklist_csv(rows)))
    assert first["study"] == "'=cmd()"  # no formula
    assert (first["probability"], first["left_out"], first["in_distribution"]) == ("0.250000", "a, b | c", "True")
    assert (second["probability"], second["error"]) == ("", 'said "no"')
    told = json.loads(worklist_json(rows))
    assert [WorklistRow.from_dict(row) for row in told] == rows
