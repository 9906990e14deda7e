"""Kills trainings with SIGKILL and resumes them. Do they end bit-equal to a training that was not killed?

Topics (2 minutes):
  killed_runs  60 kills, 20 of them while a state is being written: how many of the trainings end with the same
               weights, optimizer state and samples, bit by bit
"""

import json
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import run_benchmark
from tqdm.auto import tqdm

from mura_hf.data import load_mura
from mura_hf.phantoms import write_phantom_mura
from mura_hf.training import TrainingConfig, train
from mura_hf.training.checkpointing import STATES_FOLDER, newest_state

CONFIG = TrainingConfig().replace(
    name="killed",
    backbone="resnet10t",
    backbone_kwargs={"channels": [8, 16, 24, 32]},
    pretrained=False,
    image_size=64,
    head_dropout=0.3,
    batch_size=4,
    accumulation=2,
    learning_rate=1e-3,
    schedule="plateau",
    plateau_patience=0,
    sampling="balanced",
    ema_decay=0.9,
    average_top_k=2,
    region_weight=0.5,
    dev_fraction=0.25,
    calib_fraction=0.2,
    stages=[{"epochs": 1, "patch_size": 32, "schedule": "cosine", "sampling": "shuffled"}, {"epochs": 3}],
)
"""A run that needs everything a state can hold: two stages, dropout, an average of weights, a plateau schedule, and
the best epochs.
"""

_LONGEST = 120.0
_forks = multiprocessing.get_context("forkserver")  # the imports are shared by all processes
_PRELOADED = ["mura_hf.data", "mura_hf.training", "timm", "sklearn.metrics"]
"""Importable without the path of this file, which the server of forks does not know before Python 3.12."""


def make_tree(folder: Path, patients: int = 24) -> Path:
    """Writes a small phantom data set."""
    return write_phantom_mura(folder, patients, seed=4, size=64, progress=False)


def train_in_fork(tree: Path, folder: Path, cache: Path, changes: dict[str, Any] | None = None) -> Any:
    """Starts a run in a new process, which it returns. The run saves its state after every step."""
    return start_in_fork(_run, tree, folder, cache, changes or {})


def start_in_fork(function: Callable[..., None], *given: Any) -> Any:
    """Calls a function in a new process, which it returns, in which the libraries are imported already."""
    _forks.set_forkserver_preload(_PRELOADED)
    process = _forks.Process(target=function, args=given, daemon=True)
    process.start()
    return process


def _run(tree: Path, folder: Path, cache: Path, changes: dict[str, Any]) -> None:
    from mura_hf.training import launch, trainer

    torch.set_num_threads(1)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    launch.clear_states = lambda output_dir: None  # the last state is what is compared
    trainer.plot_curves = lambda history, path, **options: None
    config = CONFIG.replace(**changes)
    train(
        load_mura(tree, **config.split_options()),
        config,
        folder,
        data_description={"name": "phantoms"},
        trained_on_phantoms=True,
        cpu=True,
        cache_dir=cache,
        save_steps=1,
    )


def finish(tree: Path, folder: Path, cache: Path) -> None:
    """Resumes a run and waits until it ends.

    Raises:
        RuntimeError: If it fails.
    """
    process = train_in_fork(tree, folder, cache)
    process.join(_LONGEST)
    if process.exitcode != 0:
        raise RuntimeError(f"the run in {folder} ended with {process.exitcode}")


def kill_at_random(process: Any, folder: Path, rng: np.random.Generator) -> bool:
    """Kills a run at a random moment after its first state; returns False if it ended before."""
    _wait_for(process, lambda: (folder / STATES_FOLDER).is_dir())
    process.join(float(rng.uniform(0, 0.6)))
    return _kill(process)


def kill_while_writing(process: Any, folder: Path, rng: np.random.Generator) -> bool:
    """Kills a run while it writes a state; returns False if it ended, or finished writing, before."""
    states = folder / STATES_FOLDER
    process.join(float(rng.uniform(0, 0.3)))
    _wait_for(process, lambda: any(states.glob("tmp-*")))
    time.sleep(float(rng.uniform(0, 0.01)))
    return _kill(process) and any(states.glob("tmp-*"))


def _wait_for(process: Any, condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + _LONGEST
    while process.is_alive() and not condition() and time.monotonic() < ends:
        time.sleep(0.0005)


def _kill(process: Any) -> bool:
    if not process.is_alive():
        return False
    os.kill(process.pid, signal.SIGKILL)
    process.join(_LONGEST)
    return bool(process.exitcode == -signal.SIGKILL)


def end_of(folder: Path) -> dict[str, Any]:
    """The end of a run: its last state, the digest of the samples of each epoch, and the weights of its checkpoint."""
    state, problems = newest_state(folder / STATES_FOLDER)
    if state is None:
        raise RuntimeError(f"{folder} holds no whole state: {problems}")
    progress = json.loads((state / "progress.json").read_text())
    return {
        "training": torch.load(state / "training.pt", weights_only=True),
        "samples": [entry["samples"] for entry in progress["history"]],
        "losses": [entry["train_loss"] for entry in progress["history"]],
        "steps": progress["total"],
        "checkpoint": (folder / "checkpoint" / "model.safetensors").read_bytes(),
    }


def same(one: Any, other: Any) -> bool:
    """Whether two nested values are bit-equal."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and _bits(one) == _bits(other)
    if isinstance(one, dict):
        return (
            isinstance(other, dict) and one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
        )
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    return bool(one == other) or (one != one and other != other)


def _bits(value: torch.Tensor) -> bytes:
    return value.contiguous().numpy().tobytes()


def measure_killed_runs(at_random: int = 40, while_writing: int = 20, seed: int = 0) -> dict[str, Any]:
    """Kills runs until the numbers of kills are reached, and compares their ends with that of a run left alone.

    Args:
        at_random: Kills at random moments.
        while_writing: Kills while a state is being written.
        seed: Of the moments.

    Returns:
        `kills_at_random`, `kills_while_writing`, `runs` that were killed and resumed, `equal` (how many of them are
        bit-equal in weights, optimizer state and samples) and `steps` of a run.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tree, cache = make_tree(folder / "tree"), folder / "cache"
        finish(tree, folder / "whole", cache)
        whole = end_of(folder / "whole")
        rng = np.random.default_rng(seed)
        left = {kill_at_random: at_random, kill_while_writing: while_writing}
        runs = equal = 0
        with tqdm(total=at_random + while_writing, desc="kills", unit="kill") as bar:
            while any(left.values()):
                run = folder / f"run-{runs}"
                for _ in range(12):
                    kinds = [kind for kind, number in left.items() if number]
                    if not kinds:
                        break
                    kind = kinds[int(rng.integers(len(kinds)))]
                    process = train_in_fork(tree, run, cache)
                    killed = kind(process, run, rng)
                    process.join(0)
                    if killed:
                        left[kind] -= 1
                        bar.update()
                    elif process.exitcode == 0:
                        break
                finish(tree, run, cache)
                runs, equal = runs + 1, equal + same(end_of(run), whole)
                shutil.rmtree(run)
    return {
        "kills_at_random": at_random,
        "kills_while_writing": while_writing,
        "runs": runs,
        "equal": equal,
        "steps": whole["steps"],
    }


TOPICS = {"killed_runs": (measure_killed_runs, {"at_random": 1, "while_writing": 1})}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    return run_benchmark(__doc__, TOPICS, argv)


if __name__ == "__main__":
    main()
