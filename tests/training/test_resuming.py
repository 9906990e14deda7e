import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import killed_trainings as killed_runs
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from killed_trainings import end_of, finish, kill_at_random, kill_while_writing, same, train_in_fork

from mura_hf import load_mura
from mura_hf.errors import TrainingError
from mura_hf.training import train


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    killed_runs.make_tree(folder / "tree")
    return folder


@pytest.fixture(scope="module")
def whole(home):
    """How a run ends that was left alone."""
    finish(home / "tree", home / "whole", home / "cache")
    end = end_of(home / "whole")
    assert len(end["samples"]) == 4
    assert len(set(end["samples"])) == 4
    return end


def _start(home, name, **changes):
    return train_in_fork(home / "tree", home / name, home / "cache", changes)


def _finish(home, name):
    finish(home / "tree", home / name, home / "cache")
    return end_of(home / name)


def test_a_run_that_was_killed_ends_as_if_it_had_not_been(home, whole):
    rng = np.random.default_rng(1)
    killed = []
    for kill in (kill_at_random, kill_while_writing, kill_at_random, kill_while_writing):
        killed.append(kill(_start(home, "killed"), home / "killed", rng))
    assert any(killed)
    end = _finish(home, "killed")
    assert same(end, whole)
    assert not list((home / "killed" / "states").glob("tmp-*"))


def test_comparison_can_fail(whole):
    other = {**whole, "training": {**whole["training"], "model": dict(whole["training"]["model"])}}
    name = next(iter(other["training"]["model"]))
    changed = other["training"]["model"][name].clone().contiguous()
    changed.view(-1)[0] = torch.nextafter(changed.view(-1)[0], torch.tensor(float("inf")))
    assert same(whole, other)
    other["training"]["model"][name] = changed
    assert not same(whole, other)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_keeps_its_state_and_goes_on_later(number, home, whole):
    name = f"stopped-{number}"
    process = _start(home, name)
    states = home / name / "states"
    while process.is_alive() and not (states / "state-3").is_dir():
        time.sleep(0.001)
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == 1  # TrainingStopped; a script makes its code of it
    left = [path.name for path in states.iterdir()]
    assert left
    assert not [name for name in left if name.startswith("tmp")]
    assert same(_finish(home, name), whole)


@pytest.mark.parametrize(
    ("harm", "file"), [("truncated", "training.pt"), ("flipped", "training.pt"), ("flipped", "best.safetensors")]
)
def test_a_damaged_newest_state_is_left_for_the_one_before(harm, file, home, whole):
    name = f"{harm}-{file}"
    process = _start(home, name)
    states = home / name / "states"
    while process.is_alive() and not (states / "state-12").is_dir():
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    newest = max(states.glob("state-*"), key=lambda path: int(path.name[6:]))
    content = bytearray((newest / file).read_bytes())
    if harm == "truncated":
        content = content[: len(content) // 2]
    else:
        content[len(content) // 2] ^= 4
    (newest / file).write_bytes(content)
    assert same(_finish(home, name), whole)


def test_where_no_state_is_whole_nothing_is_removed(home, whole, phantom_splits, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(home / "whole", folder)
    (folder / "finished.json").unlink()
    for state in (folder / "states").iterdir():
        (state / "training.pt").unlink()
    before = sorted(path.name for path in (folder / "states").iterdir())
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.raises(TrainingError, match=r"no state in .* is whole: .*training.pt is missing"):
        train(
            load_mura(home / "tree", **killed_runs.RECIPE.cut()), killed_runs.RECIPE, folder,
            data_description={"name": "phantoms"}, trained_on_phantoms=True, cpu=True,
        )  # fmt: skip
    assert sorted(path.name for path in (folder / "states").iterdir()) == before


_FULL = """
import sys
from pathlib import Path
from dataclasses import replace
from mura_hf import load_mura
from mura_hf.assessment.killed_runs import RECIPE
from mura_hf.errors import MuraError
from mura_hf.training import train
tree, folder, cache = map(Path, sys.argv[1:])
try:
    train(load_mura(tree, **RECIPE.cut()), RECIPE, folder, data_description={"name": "phantoms"},
          trained_on_phantoms=True, cpu=True, cache_dir=cache, save_steps=1)
except MuraError as error:
    raise SystemExit(str(error))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_leaves_the_last_state_whole_and_says_so(forks, home, whole, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        folder = disk / "run"
        process = _start(home, str(folder))
        while process.is_alive() and not (folder / "states" / "state-3").is_dir():
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
        process.join(60)
        free = os.statvfs(disk)
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - 200_000)))
        done = forks.run("-c", _FULL, home / "tree", folder, home / "cache")
        assert done.returncode == 1
        last = done.stderr.strip().splitlines()[-1]
        assert "No space left on device" in last
        assert "What was kept before is whole" in last
        assert "Traceback" not in done.stderr
        kept = end_state(folder)
        ballast.unlink()
        finish(home / "tree", folder, home / "cache")
        assert same(end_of(folder), whole)
        assert kept
    finally:
        subprocess.run(["umount", disk], check=True)


def end_state(folder: Path):
    from mura_hf.training.states import newest_state

    state, told = newest_state(folder / "states")
    assert not told
    return state
