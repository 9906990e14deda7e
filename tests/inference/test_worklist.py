"""Worklists, and `scripts/predict.py`."""

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import predict
import pytest

from mura_hf import DatasetError
from mura_hf.inference import (
    WorklistRow,
    find_studies,
    make_worklist,
    predict_rows,
    sort_rows,
    worklist,
    worklist_csv,
    worklist_json,
)

SCRIPT = Path(__file__).parents[2] / "scripts" / "predict.py"


@pytest.fixture(scope="module")
def studies(phantom_tree):
    return find_studies(phantom_tree / "valid")


def test_rows_are_those_of_the_predictor(predictor, studies):
    rows = list(predict_rows(predictor, studies, operating_point="paper"))
    assert [row.study for row in rows] == [study.name for study in studies]
    for row, study in zip(rows, studies, strict=True):
        answer = predictor([file.path for file in study.files], body_part=study.body_part, heatmaps=False)
        assert row.probability == pytest.approx(answer.probability, abs=1e-6)
        assert (row.label, row.band, row.body_part) == (answer.label, answer.band, answer.body_part)
        assert (row.n_views, row.error, row.checkpoint) == (len(study.files), None, predictor.checkpoint)
        assert (row.operating_point, row.threshold) == ("paper", 0.5)


def test_unreadable_views_are_listed_in_their_row(predictor, phantom_files, tmp_path):
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


def test_an_unknown_operating_point_is_refused_at_once(predictor, studies):
    with pytest.raises(ValueError, match="unknown operating point 'best'"):
        next(predict_rows(predictor, studies, operating_point="best"))


def test_no_study_gives_no_row(predictor):
    assert list(predict_rows(predictor, [])) == []


def test_order_of_rows():
    rows = [
        WorklistRow("low", probability=0.1, in_distribution=True),
        WorklistRow("failed", error="No view could be read."),
        WorklistRow("outside", probability=0.99, in_distribution=False),
        WorklistRow("high", probability=0.9),
        WorklistRow("also low", probability=0.1, in_distribution=True),
    ]
    assert [row.study for row in sort_rows(rows)] == ["high", "also low", "low", "outside", "failed"]


def test_csv_and_json():
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
    values = json.loads(worklist_json(rows))
    assert [WorklistRow.from_dict(row) for row in values] == rows


def test_the_worklist_is_written_and_nothing_else_stays(predictor, studies, tmp_path):
    rows = make_worklist(predictor, studies, tmp_path / "list.csv", progress=False)
    assert rows == sort_rows(predict_rows(predictor, studies))
    assert (tmp_path / "list.csv").read_text() == worklist_csv(rows)
    assert [file.name for file in tmp_path.iterdir()] == ["list.csv"]
    make_worklist(predictor, studies, tmp_path / "list.json", progress=False)
    assert [row["study"] for row in json.loads((tmp_path / "list.json").read_text())] == [row.study for row in rows]


def test_a_run_continues(predictor, studies, tmp_path, monkeypatch):
    seen = []

    def stop(predictor, todo, **options):
        for row in predict_rows(predictor, todo, **options):
            seen.append(row.study)
            yield row
            if len(seen) == 3:
                raise KeyboardInterrupt

    monkeypatch.setattr(worklist, "predict_rows", stop)
    with pytest.raises(KeyboardInterrupt):
        make_worklist(predictor, studies, tmp_path / "list.csv", progress=False)
    part = tmp_path / "list.csv.part-0"
    assert not (tmp_path / "list.csv").exists()
    with part.open("a") as file:
        file.write('{"study": "cut o')  # what a kill leaves
    rows = make_worklist(predictor, studies, tmp_path / "list.csv", progress=False)
    assert len(seen) == len(set(seen)) == len(studies)
    assert rows == sort_rows(predict_rows(predictor, studies))
    assert not part.exists()


def test_rows_of_another_run_are_not_mixed_in(predictor, studies, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(worklist, "predict_rows", fail)
    with pytest.raises(KeyboardInterrupt):
        make_worklist(predictor, studies, tmp_path / "list.csv", progress=False)
    with pytest.raises(DatasetError, match=r"rows of another run.*studies differ"):
        make_worklist(predictor, studies[1:], tmp_path / "list.csv", progress=False)


def test_output_files(predictor, studies, tmp_path):
    (tmp_path / "list.csv").write_text("mine")
    with pytest.raises(DatasetError, match="exists; name another"):
        make_worklist(predictor, studies, tmp_path / "list.csv")
    with pytest.raises(DatasetError, match=r"a \.csv or a \.json"):
        make_worklist(predictor, studies, tmp_path / "list.xlsx")
    with pytest.raises(DatasetError, match="cannot be written"):
        make_worklist(predictor, studies, tmp_path / "nowhere" / "list.csv")


def test_the_command(checkpoint, phantom_tree, predictor, studies, tmp_path, capsys):
    output = tmp_path / "list.csv"
    predict.main([str(phantom_tree / "valid"), "--checkpoint", str(checkpoint), "--cpu", "--output", str(output)])
    assert capsys.readouterr().out == f"{output}: {len(studies)} studies\n"
    assert output.read_text() == worklist_csv(sort_rows(predict_rows(predictor, studies)))


def _read(file):
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.slow
def test_a_killed_command_continues_and_two_processes_give_the_same(forks, checkpoint, phantom_files, tmp_path):
    n = 200
    table = tmp_path / "films.csv"
    table.write_text("path,study_id\n" + "".join(f"{phantom_files[i % 2]},study {i}\n" for i in range(n)))
    options = [str(table), "--checkpoint", str(checkpoint), "--cpu", "--output"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed, part = tmp_path / "killed.csv", tmp_path / "killed.csv.part-0"
    running = forks.start(SCRIPT, *options, killed, env=environment)
    while running.is_alive() and (part.read_bytes().count(b"\n") if part.exists() else 0) < 20:
        time.sleep(0.001)
    os.kill(running.pid, signal.SIGKILL)
    assert running.wait().returncode == -signal.SIGKILL
    kept = part.read_text().splitlines()[1:-1]
    assert 15 < len(kept) < n
    assert not killed.exists()
    again = forks.run(SCRIPT, *options, killed, env=environment)
    assert again.returncode == 0, again.stderr[-2000:]
    assert f"{n} studies" in again.stdout
    assert int(re.search(rf"(\d+)/{n}", again.stderr)[1]) >= len(kept)  # where the progress bar starts
    assert not part.exists()
    single = _read(killed)
    assert len({row["study"] for row in single}) == n

    together = tmp_path / "together.csv"
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", SCRIPT, *options, together],
        env=environment, check=True, capture_output=True,
    )  # fmt: skip
    assert len(_read(together)) == n
    for one, other in zip(_read(together), single, strict=True):
        assert float(one.pop("probability")) == pytest.approx(float(other.pop("probability")), abs=1e-5)
        assert one == other
