import os
import subprocess
import sys

import pytest

from mura_hf.demo import launching

PICTURES = {"a.png": b"1" * 200_000}  # more than a pipe holds


@pytest.fixture(autouse=True)
def rendered(monkeypatch):
    """Processes in which the examples were rendered."""
    seen = []
    monkeypatch.setattr(launching, "render_examples", lambda: seen.append(os.getpid()) or PICTURES)
    return seen


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no process is forked")
def test_the_examples_are_rendered_in_a_process_of_their_own(rendered):
    assert launching.begin_rendering()() == PICTURES
    assert rendered == []  # not here


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no process is forked")
def test_that_process_ends_with_an_app_that_is_killed():
    program = """
import os
from mura_hf.demo import launching
launching.render_examples = lambda: {"a.png": b"1" * 200_000}
launching.begin_rendering()
os._exit(7)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=120)  # waits for both
    assert (done.returncode, done.stderr) == (7, b"")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no process is forked")
def test_they_are_there_too_if_that_process_is_killed(monkeypatch, rendered):
    monkeypatch.setattr(launching, "_render", lambda *ends: os._exit(9))
    assert launching.begin_rendering()() == PICTURES
    assert rendered == [os.getpid()]


def test_without_fork_they_are_rendered_where_they_are_wanted(monkeypatch, rendered):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert launching.begin_rendering()() == PICTURES
    assert rendered == [os.getpid()]
