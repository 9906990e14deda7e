"""The state of a run as files, and back."""

import errno
import io
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save

from ..common import put_file
from ..data import HardSampler
from ..errors import TrainingError
from .keeping import STATES_FOLDER
from .progress import Progress, Tally
from .run import Run, StageRun
from .states import begin_state, commit_state, copy_file, state_number

BEST_FILE = "best.safetensors"
_TRAINING_FILE = "training.pt"
_PROGRESS_FILE = "progress.json"


def top_file(epoch: int) -> str:
    """Where the weights of one of the best epochs lie in a state."""
    return f"top-{epoch}.safetensors"


def save_state(run: Run, going: StageRun, fresh: dict[str, Any] | None = None) -> None:
    """Keeps the run as it is between two steps; called by all processes, ends on all or on none.

    Args:
        run: The run.
        going: The stage at hand.
        fresh: Models whose weights the state is to hold from now on, by file: that of the best epoch, or of one of
            those to be averaged. What earlier states hold and is still needed is taken over.

    Raises:
        TrainingError: If it cannot be written; the state before it stays.
    """
    accelerator, before = run.accelerator, run.state
    run.progress.seconds = run.seconds()
    folder = run.output_dir / STATES_FOLDER
    number = 1 if before is None else state_number(before) + 1
    problem: Exception | None = None
    if accelerator.is_main_process:
        problem = _attempt(lambda: _write_shared(run, going, fresh or {}, begin_state(folder, number)))
    accelerator.wait_for_everyone()
    rank = _to_bytes(going.tally.to_dict())
    problem = problem or _attempt(
        lambda: put_file(folder / f"tmp-{number}", _rank_file(accelerator.process_index), rank)
    )
    failed = run.agreement.largest(int(problem is not None))[0]
    if accelerator.is_main_process and not failed:
        problem = _attempt(lambda: commit_state(folder / f"tmp-{number}", number))
    failed = run.agreement.largest(int(problem is not None))[0]
    if failed:
        raise cannot_write(run.output_dir, problem)
    run.state, run.kept_at = folder / f"state-{number}", time.monotonic()


def cannot_write(folder: Path, problem: Exception | None) -> TrainingError:
    """The sentence for what could not be written."""
    reason = "another process tells why" if problem is None else getattr(problem, "strerror", None) or str(problem)
    return TrainingError(
        f"the run could not be kept in {folder}: {reason}. What was kept before is whole: make room there, give the "
        "same command, and the run goes on from it."
    )


@contextmanager
def telling_of_full_disks(folder: Path) -> Iterator[None]:
    """Turns what writing into a folder raises on a full disk into a sentence.

    Raises:
        TrainingError: If it is full.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left" in str(error) or "quota" in str(error):
            raise cannot_write(folder, error) from error
        raise


def read_progress(state: Path) -> Progress:
    """How far a run was when it was kept."""
    kept = json.loads((state / _PROGRESS_FILE).read_text())
    kept["top"] = {int(epoch): score for epoch, score in kept["top"].items()}
    return Progress(**kept)


def load_state(run: Run, going: StageRun) -> None:
    """Puts a stage where the run's state was kept: model, average, optimiser, rate, scaler, hard rows, tally."""
    assert run.state is not None
    kept = torch.load(run.state / _TRAINING_FILE, map_location="cpu", weights_only=True)
    run.model.load_state_dict(kept["model"])
    if going.averaged is not None:
        going.averaged.module.load_state_dict(kept["averaged"])
    going.optimizer.load_state_dict(kept["optimizer"])
    going.schedule.load_state_dict(kept["schedule"])
    if run.accelerator.scaler is not None:
        run.accelerator.scaler.load_state_dict(kept["scaler"])
    if isinstance(going.stage.sampler, HardSampler):
        going.stage.sampler.losses[:] = kept["hard"].numpy()
    rank = torch.load(run.state / _rank_file(run.accelerator.process_index), weights_only=True)
    going.tally = Tally.from_dict(rank, run.accelerator.device)


def weights_bytes(model: Any) -> bytes:
    """A model's weights as a safetensors file."""
    return save({name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()})


def _write_shared(run: Run, going: StageRun, fresh: dict[str, Any], folder: Path) -> None:
    """What all processes share: by the main one."""
    sampler, scaler = going.stage.sampler, run.accelerator.scaler
    training = {
        "model": run.model.state_dict(),
        "averaged": None if going.averaged is None else going.averaged.module.state_dict(),
        "optimizer": going.optimizer.state_dict(),
        "schedule": going.schedule.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
        "hard": torch.from_numpy(sampler.losses) if isinstance(sampler, HardSampler) else None,
    }
    put_file(folder, _TRAINING_FILE, _to_bytes(training))
    needed = {top_file(epoch) for epoch in run.progress.top} | ({BEST_FILE} if run.progress.best else set())
    for name in sorted(needed):
        if name in fresh:
            put_file(folder, name, weights_bytes(fresh[name]))
        else:
            assert run.state is not None
            copy_file(folder, run.state / name)
    put_file(folder, _PROGRESS_FILE, json.dumps(asdict(run.progress), indent=1).encode())


def _attempt(write: Any) -> Exception | None:
    try:
        write()
    except (OSError, SafetensorError) as error:
        return error
    return None


def _rank_file(rank: int) -> str:
    return f"rank-{rank}.pt"


def _to_bytes(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()
