"""States on disk, and runs that are killed, stopped, damaged, or out of disk space."""

import os
import shutil
import signal
import subprocess
import time

import killed_trainings
import numpy as np
import pytest
import torch
from killed_trainings import CONFIG, end_of, finish, kill_at_random, kill_while_writing, same, train_in_fork

from mura_hf import load_mura
from mura_hf.common import put_file
from mura_hf.errors import TrainingError
from mura_hf.training import train
from mura_hf.training.checkpointing import (
    begin_state,
    commit_state,
    find_damage,
    newest_state,
    remove_after,
    state_number,
)

from .conftest import train_tiny


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    killed_trainings.make_tree(folder / "tree")
    return folder


@pytest.fixture(scope="module")
def whole(home):
    """The end of a run that was left alone."""
    finish(home / "tree", home / "whole", home / "cache")
    end = end_of(home / "whole")
    assert len(end["samples"]) == 4
    assert len(set(end["samples"])) == 4
    return end


def _start(home, name):
    return train_in_fork(home / "tree", home / name, home / "cache", {})


def _finish(home, name):
    finish(home / "tree", home / name, home / "cache")
    return end_of(home / name)


def _stop_at_state(process, states, number, sent):
    """Sends a signal after a state; returns the exit code."""
    while process.is_alive() and max((state_number(path) for path in states.glob("state-*")), default=0) < number:
        time.sleep(0.001)
    os.kill(process.pid, sent)
    process.join(60)
    return process.exitcode


@pytest.mark.slow
def test_a_stopped_killed_and_damaged_run_ends_bit_equal_to_one_left_alone(home, whole):
    folder, rng = home / "killed", np.random.default_rng(1)
    states = folder / "states"
    code = _stop_at_state(_start(home, "killed"), states, 3, signal.SIGTERM)
    assert code == 1  # TrainingStopped; a script makes its code of it
    assert list(states.glob("state-*"))
    assert not list(states.glob("tmp*"))
    killed = [kill(_start(home, "killed"), folder, rng) for kill in (kill_while_writing, kill_at_random)]
    assert any(killed)
    _stop_at_state(_start(home, "killed"), states, 12, signal.SIGKILL)
    damaged = max(states.glob("state-*"), key=state_number) / "best.safetensors"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 4
    damaged.write_bytes(content)
    assert same(_finish(home, "killed"), whole)
    assert not list(states.glob("tmp-*"))


@pytest.mark.slow
def test_comparison_can_fail(whole):
    other = {**whole, "training": {**whole["training"], "model": dict(whole["training"]["model"])}}
    name = next(iter(other["training"]["model"]))
    changed = other["training"]["model"][name].clone().contiguous()
    changed.view(-1)[0] = torch.nextafter(changed.view(-1)[0], torch.tensor(float("inf")))
    assert same(whole, other)
    other["training"]["model"][name] = changed
    assert not same(whole, other)


@pytest.mark.slow
def test_without_a_complete_state_nothing_is_removed(home, whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(home / "whole", folder)
    (folder / "finished.json").unlink()
    for state in (folder / "states").iterdir():
        (state / "training.pt").unlink()
    before = sorted(path.name for path in (folder / "states").iterdir())
    with pytest.raises(TrainingError, match=r"no state in .* is complete: .*training.pt is missing"):
        train_tiny(load_mura(home / "tree", **CONFIG.split_options()), folder, CONFIG)
    assert sorted(path.name for path in (folder / "states").iterdir()) == before


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_leaves_the_last_state_complete_and_is_explained(home, whole, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        folder = disk / "run"
        _stop_at_state(_start(home, str(folder)), folder / "states", 3, signal.SIGKILL)
        free = os.statvfs(disk)
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - 200_000)))
        with pytest.raises(TrainingError, match=r"No space left on device.*What was saved before is complete"):
            train(
                load_mura(home / "tree", **CONFIG.split_options()), CONFIG, folder, save_steps=1, cpu=True,
                data_description={"name": "phantoms"}, trained_on_phantoms=True, cache_dir=home / "cache",
            )  # fmt: skip
        state, damages = newest_state(folder / "states")
        assert state is not None
        assert not damages
        ballast.unlink()
        finish(home / "tree", folder, home / "cache")
        assert same(end_of(folder), whole)
    finally:
        subprocess.run(["umount", disk], check=True)


def _write(folder, number, content=b"weights"):
    fresh = begin_state(folder, number)
    put_file(fresh, "training.pt", content)
    return commit_state(fresh, number)


def test_the_newest_complete_state_is_found_and_two_are_kept(tmp_path):
    assert newest_state(tmp_path / "states") == (None, [])
    for number in (1, 2, 10):  # as numbers, not as text
        state = _write(tmp_path / "states", number, str(number).encode())
        assert find_damage(state) is None
    assert newest_state(tmp_path / "states") == (state, [])
    assert state_number(state) == 10
    assert sorted(path.name for path in (tmp_path / "states").iterdir()) == ["state-10", "state-2"]


@pytest.mark.parametrize("harm", ["flip", "truncate", "training.pt", "manifest.json", "bad manifest"])
def test_a_damaged_state_is_passed_over(harm, tmp_path):
    states = tmp_path / "states"
    before, state = _write(states, 1), _write(states, 2, bytes(range(200)))
    file = state / "training.pt"
    content = bytearray(file.read_bytes())
    content[100] ^= harm == "flip"
    file.write_bytes(content[: -1 if harm == "truncate" else None])
    if harm in ("training.pt", "manifest.json"):
        (state / harm).unlink()
    elif harm == "bad manifest":
        (state / "manifest.json").write_text('{"training.pt": ')
    found, damages = newest_state(states)
    assert found == before
    assert len(damages) == 1
    assert str(state) in damages[0]
    assert "is damaged" in damages[0]
    remove_after(states, state_number(before))
    assert [path.name for path in states.iterdir()] == ["state-1"]


def test_an_unfinished_folder_is_no_state(tmp_path):
    states = tmp_path / "states"
    state = _write(states, 1)
    put_file(begin_state(states, 2), "training.pt", b"half")
    assert newest_state(states) == (state, [])
    assert begin_state(states, 2).is_dir()
    assert not any((states / "tmp-2").iterdir())  # empty again
    remove_after(states, 1)
    assert [path.name for path in states.iterdir()] == ["state-1"]
