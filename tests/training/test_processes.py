import json
import signal
import socket
import threading

import numpy as np
import pytest
from killed_trainings import start_in_fork

from mura_hf.training.processes import StopSignals

from . import in_processes


@pytest.fixture(scope="module")
def two(phantom_tree, tmp_path_factory):
    """Results of two processes."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [start_in_fork(in_processes.main, rank, port, phantom_tree, folder) for rank in range(2)]
    for process in processes:
        process.join(280)
        assert process.exitcode == 0
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def one(phantom_tree, tmp_path_factory):
    """The same global batches in one process."""
    return in_processes.run(phantom_tree, tmp_path_factory.mktemp("one") / "run", in_processes.CONFIG)


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_same_global_batch(one, two):
    assert len(one["losses"]) == len(two["whole"]["losses"]) >= 20
    np.testing.assert_allclose(two["whole"]["losses"], one["losses"], atol=1e-4)


@pytest.mark.slow
def test_each_study_is_counted_once(one, two, phantom_splits):
    studies = len(set(phantom_splits["dev"]["study_id"]))
    assert len(phantom_splits["dev"]) % 8  # the last batch is not full, nor shared evenly
    for mine, theirs in zip(one["history"], two["whole"]["history"], strict=True):
        assert mine["dev"]["n"] == theirs["dev"]["n"] == studies
        assert theirs["dev"]["auroc"] == pytest.approx(mine["dev"]["auroc"], abs=1e-4)
        assert theirs["dev_loss"] == pytest.approx(mine["dev_loss"], abs=1e-3)
        assert theirs["train"]["n"] == mine["train"]["n"]
        assert theirs["train_loss"] == pytest.approx(mine["train_loss"], abs=1e-4)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_and_they_resume_exactly(two):
    assert [len(errors) for errors in two["stopped"]] == [1, 1]
    assert all("stopped by SIGTERM at views, epoch 1, step 5" in errors[0] for errors in two["stopped"])
    assert two["again"]["weights"] == two["whole"]["weights"]
    assert [line["samples"] for line in two["again"]["history"]] == [
        line["samples"] for line in two["whole"]["history"]
    ]
    assert len(two["again"]["losses"]) == len(two["whole"]["losses"]) - 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_what_held_before_comes_back(number):
    before = signal.getsignal(number)
    with StopSignals() as noted:
        assert noted.received == 0
        signal.raise_signal(number)
        signal.raise_signal(number)  # as a launcher passes it on
        signal.raise_signal(signal.SIGTERM)
        assert noted.received == number  # the first one
    assert signal.getsignal(number) is before


def test_another_thread_notes_nothing_and_fails_at_nothing():
    noted = []

    def run():
        with StopSignals() as inner:
            noted.append(inner.received)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert noted == [0]
