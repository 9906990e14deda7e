import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mura_hf import DatasetError
from mura_hf.inference import find_studies, predict_rows, sort_rows, worklist_csv
from mura_hf.inference import worklist as worklist_run
from mura_hf.inference.worklist import make_worklist

SCRIPT = Path(__file__).parents[2] / "scripts" / "predict.py"


@pytest.fixture(scope="module")
def studies(phantom_tree):
    return find_studies(phantom_tree / "valid")


def test_the_worklist_is_written_and_nothing_else_stays(predictor, studies, tmp_path):
    rows = make_worklist(predictor, studies, tmp_path / "list.csv", progress=False)
    assert rows == sort_rows(predict_rows(predictor, studies))
    assert (tmp_path / "list.csv").read_text() == worklist_csv(rows)
    assert [file.name for file in tmp_path.iterdir()] == ["list.csv"]
    make_worklist(predictor, studies, tmp_path / "list.json", progress=False)
    assert [row["study"] for row in json.loads((tmp_path / "list.json").read_text())] == [row.study for row in rows]


def test_what_was_read_is_not_read_again(predictor, studies, tmp_path, monkeypatch):
    seen = []

    def stop(predictor, todo, **options):
        for row in predict_rows(predictor, todo, **options):
            seen.append(row.study)
            yield row
            if len(seen) == 3:
                raise KeyboardInterrupt

    monkeypatch.setattr(worklist_run, "predict_rows", stop)
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

    monkeypatch.setattr(worklist_run, "predict_rows", fail)
    with pytest.raises(KeyboardInterrupt):
        make_worklist(predictor, studies, tmp_path / "list.csv", progress=False)
    with pytest.raises(DatasetError, match=r"rows of another run.*studies differ"):
        make_worklist(predictor, studies[1:], tmp_path / "list.csv", progress=False)


def test_no_file_is_overwritten(predictor, studies, tmp_path):
    (tmp_path / "list.csv").write_text("mine")
    with pytest.raises(DatasetError, match="exists; name another"):
        make_worklist(predictor, studies, tmp_path / "list.csv")
    with pytest.raises(DatasetError, match=r"a \.csv or a \.json"):
        make_worklist(predictor, studies, tmp_path / "list.xlsx")
    with pytest.raises(DatasetError, match="cannot be written"):
        make_worklist(predictor, studies, tmp_path / "nowhere" / "list.csv")


def _environment():
    return {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}


def _read(file):
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def _lines(file):
    return file.read_bytes().count(b"\n") if file.exists() else 0


def test_a_killed_command_goes_on_and_two_processes_give_the_same(forks, checkpoint, phantom_files, tmp_path):
    table = tmp_path / "films.csv"
    table.write_text("path,study_id\n" + "".join(f"{phantom_files[n % 2]},study {n}\n" for n in range(400)))
    options = [str(table), "--checkpoint", str(checkpoint), "--cpu", "--output"]
    killed, part = tmp_path / "killed.csv", tmp_path / "killed.csv.part-0"
    running = forks.start(SCRIPT, *options, killed, env=_environment())
    while running.is_alive() and _lines(part) < 20:
        time.sleep(0.001)
    os.kill(running.pid, signal.SIGKILL)
    assert running.wait().returncode == -signal.SIGKILL
    kept = part.read_text().splitlines()[1:-1]
    assert 15 < len(kept) < 400
    assert not killed.exists()
    again = forks.run(SCRIPT, *options, killed, env=_environment())
    assert again.returncode == 0, again.stderr[-2000:]
    assert "400 studies" in again.stdout
    shown = int(re.search(r"(\d+)/400", again.stderr)[1])
    assert shown >= len(kept)  # where the bar begins
    assert not part.exists()
    alone = _read(killed)
    assert len({row["study"] for row in alone}) == 400

    together = tmp_path / "together.csv"
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", SCRIPT, *options, together],
        env=_environment(), check=True, capture_output=True,
    )  # fmt: skip
    assert len(_read(together)) == 400
    for one, other in zip(_read(together), alone, strict=True):
        assert float(one.pop("probability")) == pytest.approx(float(other.pop("probability")), abs=1e-5)
        assert one == other
