import json
import os
import subprocess
import sys

import numpy as np
import pytest

from . import in_processes


@pytest.fixture(scope="module")
def two(phantom_tree, tmp_path_factory):
    """What two processes print."""
    folder = tmp_path_factory.mktemp("two")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
        "-m", in_processes.__name__, str(phantom_tree), str(folder),
    ]  # fmt: skip
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=500)
    results = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert results, done.stderr[-3000:]
    return json.loads(results[0].removeprefix("RESULT "))


@pytest.fixture(scope="module")
def one(phantom_tree, tmp_path_factory):
    """The same global batches in one process."""
    return in_processes.run(phantom_tree, tmp_path_factory.mktemp("one") / "run", in_processes.RECIPE)


def test_two_processes_train_as_one_with_the_same_global_batch(one, two):
    assert len(one["losses"]) == len(two["whole"]["losses"]) >= 20
    np.testing.assert_allclose(two["whole"]["losses"], one["losses"], atol=1e-4)


def test_each_study_is_counted_once(one, two, phantom_splits):
    studies = len(set(phantom_splits["dev"]["study_id"]))
    assert len(phantom_splits["dev"]) % 8  # the last batch is not full, nor shared evenly
    for mine, theirs in zip(one["history"], two["whole"]["history"], strict=True):
        assert mine["dev"]["n"] == theirs["dev"]["n"] == studies
        assert theirs["dev"]["auroc"] == pytest.approx(mine["dev"]["auroc"], abs=1e-4)
        assert theirs["dev_loss"] == pytest.approx(mine["dev_loss"], abs=1e-3)
        assert theirs["train"]["n"] == mine["train"]["n"]
        assert theirs["train_loss"] == pytest.approx(mine["train_loss"], abs=1e-4)


def test_a_signal_to_one_process_stops_all_and_they_go_on_exactly(two):
    assert [len(told) for told in two["stopped"]] == [1, 1]
    assert all("stopped by SIGTERM at views, epoch 1, step 5" in told[0] for told in two["stopped"])
    assert two["again"]["weights"] == two["whole"]["weights"]
    assert [line["samples"] for line in two["again"]["history"]] == [
        line["samples"] for line in two["whole"]["history"]
    ]
    assert len(two["again"]["losses"]) == len(two["whole"]["losses"]) - 5
