"""Worklists, and `scripts/predict.py`."""

import csv
import io
import json
import os
import re
import shutil
import signal
import socket
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


@pytest.fixture(scope="module")
def rows(predictor, studies):
    return list(predict_rows(predictor, studies, operating_point="paper"))


def test_rows_are_those_of_the_predictor(predictor, studies, rows):
    assert [row.study for row in rows] == [study.name for study in studies]
    for row, study in zip(rows[:6], studies, strict=False):
        answer = predictor([file.path for file in study.files], body_part=study.body_part, heatmaps=False)
        assert row.probability == pytest.approx(answer.probability, abs=1e-6)
        assert (row.label, row.band, row.body_part) == (answer.label, answer.band, answer.body_part)
        assert (row.n_views, row.error, row.checkpoint) == (len(study.files), None, predictor.checkpoint)
        assert (row.operating_point, row.threshold) == ("paper", 0.5)
    assert list(predict_rows(predictor, [])) == []
    with pytest.raises(ValueError, match="unknown operating point 'best'"):
        next(predict_rows(predictor, studies, operating_point="best"))


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


def test_order_of_rows():
    rows = [
        WorklistRow("low", probability=0.1, in_distribution=True, band="low"),
        WorklistRow("failed", error="No view could be read."),
        WorklistRow("outside", probability=0.99, in_distribution=False),
        WorklistRow("high", probability=0.9),
        WorklistRow("also low", probability=0.1, in_distribution=True, band="low"),
    ]
    assert [row.study for row in sort_rows(rows)] == ["high", "outside", "failed", "also low", "low"]


def test_csv_and_json():
    rows = [
        WorklistRow("=cmd()", "wrist", 0.25, "low", "normal", True, 2, ("a, b", "c"), ("w",), None, "paper", 0.5, "x"),
        WorklistRow("other", error='said "no"'),
    ]
    first, second = csv.DictReader(io.StringIO(worklist_csv(rows)))
    assert first["study"] == "'=cmd()"  # no formula
    assert (first["probability"], first["left_out"], first["in_distribution"]) == ("0.250000", "a, b | c", "True")
    assert (second["probability"], second["error"]) == ("", 'said "no"')
    values = json.loads(worklist_json(rows))
    assert [WorklistRow.from_dict(row) for row in values] == rows
    assert WorklistRow.from_dict({**values[0], "band": "normal"}) == rows[0]  # as earlier versions named it


def test_the_command_writes_the_worklist_and_nothing_else(checkpoint, phantom_tree, predictor, rows, tmp_path, capsys):
    output = tmp_path / "list.csv"
    predict.main([str(phantom_tree / "valid"), "--checkpoint", str(checkpoint), "--cpu", "--output", str(output)])
    assert capsys.readouterr().out == f"{output}: {len(rows)} studies\n"
    assert output.read_text() == worklist_csv(sort_rows(rows))
    assert [file.name for file in tmp_path.iterdir()] == ["list.csv"]


def test_a_run_continues(predictor, studies, rows, tmp_path, monkeypatch):
    seen = []

    def stop(predictor, todo, **options):
        for row in predict_rows(predictor, todo, **options):
            seen.append(row.study)
            yield row
            if len(seen) == 3:
                raise KeyboardInterrupt

    monkeypatch.setattr(worklist, "predict_rows", stop)
    output, part = tmp_path / "list.json", tmp_path / "list.json.part-0"
    with pytest.raises(KeyboardInterrupt):
        make_worklist(predictor, studies, output)
    assert not output.exists()
    with pytest.raises(DatasetError, match=r"rows of another run.*studies differ"):
        make_worklist(predictor, studies[1:], output)
    with part.open("a") as file:
        file.write('{"study": "cut o')  # what a kill leaves
    assert make_worklist(predictor, studies, output) == sort_rows(rows)
    assert len(seen) == len(set(seen)) == len(studies)
    assert output.read_text() == worklist_json(sort_rows(rows))
    assert not part.exists()


def test_output_files(predictor, studies, tmp_path):
    (tmp_path / "list.csv").write_text("mine")
    with pytest.raises(DatasetError, match="exists; name another"):
        make_worklist(predictor, studies, tmp_path / "list.csv")
    with pytest.raises(DatasetError, match=r"a \.csv or a \.json"):
        make_worklist(predictor, studies, tmp_path / "list.xlsx")
    with pytest.raises(DatasetError, match="cannot be written"):
        make_worklist(predictor, studies, tmp_path / "nowhere" / "list.csv")


def _read(file):
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


TWO_PROCESSES = """
import os, runpy, sys
child = os.fork()
os.environ.update(RANK="0" if child else "1", LOCAL_RANK="0" if child else "1")
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
if child:
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.slow
def test_a_killed_command_continues_and_two_processes_give_the_same(forks, checkpoint, phantom_files, tmp_path):
    n = 60
    table = tmp_path / "films.csv"
    table.write_text("path,study_id\n" + "".join(f"{phantom_files[i % 2]},study {i}\n" for i in range(n)))
    options = [str(table), "--checkpoint", str(checkpoint), "--cpu", "--output"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed, part = tmp_path / "killed.csv", tmp_path / "killed.csv.part-0"
    running = forks.start(SCRIPT, *options, killed, env=environment)
    while running.is_alive() and (part.read_bytes().count(b"\n") if part.exists() else 0) < 8:
        time.sleep(0.001)
    os.kill(running.pid, signal.SIGKILL)
    assert running.wait().returncode == -signal.SIGKILL
    kept = part.read_text().splitlines()[1:-1]
    assert 5 < len(kept) < n
    assert not killed.exists()
    again = forks.run(SCRIPT, *options, killed, env=environment)
    assert again.returncode == 0, again.stderr[-2000:]
    assert int(re.search(rf"(\d+)/{n}", again.stderr)[1]) >= len(kept)  # where the progress bar starts
    assert not part.exists()
    single = _read(killed)
    assert len({row["study"] for row in single}) == n

    together = tmp_path / "together.csv"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    done = forks.run("-c", TWO_PROCESSES, SCRIPT, *options, together, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(_read(together)) == n
    for one, other in zip(_read(together), single, strict=True):
        assert float(one.pop("probability")) == pytest.approx(float(other.pop("probability")), abs=1e-5)
        assert one == other
