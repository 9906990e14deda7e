"""Run by `test_processes.py`: a whole run, and one that a signal to its last process stops."""

import hashlib
import json
import os
import signal
from pathlib import Path

import torch

from mura_hf import load_mura
from mura_hf.errors import TrainingStopped
from mura_hf.training import Trainer, TrainingConfig, train

from .conftest import CONVNEXT, TINY

CONFIG = TINY.replace(**CONVNEXT, body_part_head=True, epochs=4, batch_size=8)
"""Nothing in it depends on how a global batch is shared out: no batch norm, no dropout."""


def run(tree: Path, folder: Path, config: TrainingConfig, stop_at: int | None = None) -> dict:
    """Trains; gives the losses of the steps over all processes, the history and a digest of the weights."""
    losses = []
    make_step = Trainer.train_step

    def spy(self, iterator, step):
        result = make_step(self, iterator, step)
        losses.append(float(self.accelerator.reduce(result.loss.clone(), "mean")))
        last = self.accelerator.process_index == self.accelerator.num_processes - 1
        if last and self.progress.total == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return result

    Trainer.train_step = spy
    try:
        checkpoint = train(
            load_mura(tree, **config.split_options()), config, folder, data_description={"name": "phantoms"},
            trained_on_phantoms=True, cpu=True,
        )  # fmt: skip
    finally:
        Trainer.train_step = make_step
    torch.distributed.barrier() if torch.distributed.is_initialized() else None
    history = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    weights = hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()
    return {"losses": losses, "history": history, "weights": weights}


def main(rank: int, port: int, tree: Path, folder: Path) -> None:
    """Runs as one of two processes, with the environment that torchrun gives them; the first writes the results."""
    torch.set_num_threads(1)
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in places.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", ACCELERATE_USE_CPU="true")
    config = CONFIG.replace(batch_size=CONFIG.training.batch_size // 2)
    whole = run(tree, folder / "whole", config)
    stopped = []
    try:
        run(tree, folder / "stopped", config, stop_at=4)
    except TrainingStopped as error:
        stopped.append(str(error))
    counted = [None, None]
    torch.distributed.all_gather_object(counted, stopped)
    again = run(tree, folder / "stopped", config)
    if rank == 0:
        (folder / "results.json").write_text(json.dumps({"whole": whole, "stopped": counted, "again": again}))
