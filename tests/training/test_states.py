import json

import pytest

from mura_hf.common import put_file
from mura_hf.training.states import (
    begin_state,
    commit_state,
    copy_file,
    find_damage,
    newest_state,
    remove_after,
    state_number,
)


def _write(folder, number, content=b"weights", link=None):
    fresh = begin_state(folder, number)
    put_file(fresh, "training.pt", content)
    if link is not None:
        copy_file(fresh, link)
    return commit_state(fresh, number)


def test_the_newest_whole_state_is_found_and_two_are_kept(tmp_path):
    assert newest_state(tmp_path / "states") == (None, [])
    for number in (1, 2, 10):  # as numbers, not as text
        state = _write(tmp_path / "states", number, str(number).encode())
        assert find_damage(state) is None
    assert newest_state(tmp_path / "states") == (state, [])
    assert state_number(state) == 10
    assert sorted(path.name for path in (tmp_path / "states").iterdir()) == ["state-10", "state-2"]


@pytest.mark.parametrize("harm", ["flip", "truncate", "empty", "remove", "no_manifest", "bad_manifest"])
def test_a_damaged_state_is_passed_over_and_told(harm, tmp_path):
    states = tmp_path / "states"
    before, state = _write(states, 1), _write(states, 2, bytes(range(200)))
    file = state / "training.pt"
    content = bytearray(file.read_bytes())
    if harm == "flip":
        content[100] ^= 1
        file.write_bytes(content)
    elif harm == "truncate":
        file.write_bytes(content[:-1])
    elif harm == "empty":
        file.write_bytes(b"")
    elif harm == "remove":
        file.unlink()
    elif harm == "no_manifest":
        (state / "manifest.json").unlink()
    else:
        (state / "manifest.json").write_text('{"training.pt": ')
    found, told = newest_state(states)
    assert found == before
    assert len(told) == 1
    assert str(state) in told[0]
    assert "is damaged" in told[0]
    remove_after(states, state_number(before))
    assert [path.name for path in states.iterdir()] == ["state-1"]


def test_what_was_never_finished_is_no_state(tmp_path):
    states = tmp_path / "states"
    state = _write(states, 1)
    put_file(begin_state(states, 2), "training.pt", b"half")
    assert newest_state(states) == (state, [])
    assert begin_state(states, 2).is_dir()
    assert not any((states / "tmp-2").iterdir())  # begun anew
    remove_after(states, 1)
    assert [path.name for path in states.iterdir()] == ["state-1"]


def test_a_file_of_an_earlier_state_outlives_it(tmp_path, monkeypatch):
    states = tmp_path / "states"
    fresh = begin_state(states, 1)
    put_file(fresh, "best.safetensors", b"best")
    state = commit_state(fresh, 1)
    for number in (2, 3, 4):
        if number == 3:  # a disk without hard links

            def refuse(*_):
                raise OSError("no links here")

            monkeypatch.setattr("os.link", refuse)
        state = _write(states, number, link=state / "best.safetensors")
    assert (state / "best.safetensors").read_bytes() == b"best"
    assert set(json.loads((state / "manifest.json").read_text())) == {"best.safetensors", "training.pt"}
    assert find_damage(state) is None
