"""Saving and resuming the state of a run, so that a kill at any moment loses nothing.

A state is written into `states/tmp-<number>`: each file is synced to disk, and a manifest of SHA-256 hashes is written
last. Then the folder is renamed to `state-<number>` and its parent is synced. A folder called `state-...` is therefore
complete, or its manifest shows the damage. Older states are removed only after that.
"""

import errno
import hashlib
import io
import json
import re
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import broadcast_object_list
from datasets import DatasetDict
from safetensors import SafetensorError
from safetensors.torch import save
from tqdm.auto import tqdm

from ..common import put_file, replace_file, sync_names
from ..data import split_digest
from ..errors import DatasetError, TrainingError
from .arguments import TrainingConfig
from .configs import config_from_record
from .prediction import EpochMetrics
from .records import CHECKPOINT_FOLDER, write_history

if TYPE_CHECKING:
    from .trainer import Trainer

STATES_FOLDER = "states"
FINISHED_FILE = "finished.json"
RUN_FILE = "run.json"
BEST_FILE = "best.safetensors"
_TRAINING_FILE = "training.pt"
_PROGRESS_FILE = "progress.json"
_MANIFEST = "manifest.json"
_STATES_KEPT = 2
_STATE = re.compile(r"state-(\d+)")


@dataclass
class Progress:
    """How far a run is. It is saved with the state."""

    stage: int = 0  # index of the stage
    epoch: int = 0  # complete epochs of the stage, including their evaluation
    step: int = 0  # complete steps of the current epoch
    total: int = 0  # steps of the run
    skipped: int = 0  # steps of the current epoch that were skipped because the loss was not finite
    seconds: float = 0.0  # working time of the run, including earlier processes
    samples: str = ""  # SHA-256 of the rows of all epochs, in the order of training
    resumed: int = 0  # how often the run was resumed
    history: list[dict[str, Any]] = field(default_factory=list)  # a record per epoch
    best: dict[str, Any] | None = None  # record of the stage's best epoch
    top: dict[int, float] = field(default_factory=dict)  # epoch -> score, of the epochs whose weights will be averaged

    def next_epoch(self) -> None:
        """Moves to the next epoch."""
        self.epoch, self.step, self.skipped = self.epoch + 1, 0, 0

    def next_stage(self) -> None:
        """Moves to the next stage."""
        self.stage, self.epoch, self.step, self.skipped, self.best, self.top = self.stage + 1, 0, 0, 0, None, {}


def save_state(trainer: "Trainer", fresh: dict[str, Any] | None = None) -> None:
    """Saves a run between two steps; called by all processes, succeeds on all or on none.

    Args:
        trainer: The run.
        fresh: File name -> model whose weights the state holds from now on: the best epoch, or one of those to be
            averaged. Other weights that are still needed are copied from the state before.

    Raises:
        TrainingError: If the state cannot be written. The state before stays.
    """
    accelerator, folder = trainer.accelerator, trainer.output_dir / STATES_FOLDER
    main, process_file = accelerator.is_main_process, _process_file(accelerator.process_index)
    trainer.progress.seconds = trainer.seconds()
    number = 1 if trainer.state is None else state_number(trainer.state) + 1
    unfinished, own = folder / f"tmp-{number}", _to_bytes(trainer.epoch_metrics.state_dict())
    problem = _attempt(lambda: _write_shared(trainer, fresh or {}, begin_state(folder, number))) if main else None
    accelerator.wait_for_everyone()
    problem = problem or _attempt(lambda: put_file(unfinished, process_file, own))
    failed = trainer.processes.maximum(int(problem is not None))[0]
    if main and not failed:
        problem = _attempt(lambda: commit_state(unfinished, number))
    if trainer.processes.maximum(int(failed or problem is not None))[0]:
        raise _cannot_write(trainer.output_dir, problem)
    trainer.state, trainer.saved_at = folder / f"state-{number}", time.monotonic()


def load_state(trainer: "Trainer") -> None:
    """Restores the current stage of a run: weights, optimizer, schedule, scaler, epoch metrics."""
    assert trainer.state is not None
    state = torch.load(trainer.state / _TRAINING_FILE, map_location="cpu", weights_only=True)
    trainer.model.load_state_dict(state["model"])
    trainer.initial_weights = state.get("start")  # missing in old states
    if trainer.ema is not None:
        trainer.ema.module.load_state_dict(state["averaged"])
    trainer.optimizer.load_state_dict(state["optimizer"])
    trainer.schedule.load_state_dict(state["schedule"])
    if trainer.accelerator.scaler is not None:
        trainer.accelerator.scaler.load_state_dict(state["scaler"])
    own = torch.load(trainer.state / _process_file(trainer.accelerator.process_index), weights_only=True)
    trainer.epoch_metrics = EpochMetrics.from_state(own, trainer.accelerator.device)


def resume(trainer: "Trainer") -> bool:
    """Finds the newest complete state of a run, and prints which are damaged, and where the run continues.

    Returns:
        Whether there is one. If so, call `load_state` once its stage is set up.

    Raises:
        TrainingError: If there are states, but none is complete.
    """
    folder, accelerator = trainer.output_dir / STATES_FOLDER, trainer.accelerator
    state, damages = newest_state(folder)
    found = [None if state is None else state.name]
    broadcast_object_list(found)  # all continue from what the main process could read
    state = None if found[0] is None else folder / found[0]
    if damages and state is None:
        raise TrainingError(
            f"no state in {folder} is complete: {'; '.join(damages)}. Nothing was removed: restore one from a copy, "
            "or remove the folder to start again; the best epoch so far is in checkpoint beside it"
        )
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        for damage in damages:
            tqdm.write(f"{damage}, so the run goes back to the state before it")
        remove_after(folder, 0 if state is None else state_number(state))
    accelerator.wait_for_everyone()
    if state is None:
        return False
    progress = json.loads((state / _PROGRESS_FILE).read_text())
    progress["top"] = {int(epoch): score for epoch, score in progress["top"].items()}
    trainer.state, trainer.progress = state, Progress(**progress)
    trainer.progress.resumed += 1
    trainer.restart_clock()
    if accelerator.is_main_process:
        if trainer.progress.history:
            write_history(trainer.progress.history, trainer.output_dir)
        tqdm.write(
            f"Resuming from {state}: stage {trainer.progress.stage + 1}, epoch {trainer.progress.epoch + 1}, after "
            f"its step {trainer.progress.step}, {trainer.progress.total} steps in all"
        )
    return True


def clear_states(output_dir: Path) -> None:
    """Removes the states of a finished run."""
    shutil.rmtree(output_dir / STATES_FOLDER, ignore_errors=True)


def top_file(epoch: int) -> str:
    """File in a state with the weights of one of the best epochs."""
    return f"top-{epoch}.safetensors"


@contextmanager
def explain_full_disk(folder: Path) -> Iterator[None]:
    """Turns errors of writing to a full disk into a `TrainingError` of one sentence."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left" in str(error) or "quota" in str(error):
            raise _cannot_write(folder, error) from error
        raise


def _cannot_write(folder: Path, problem: Exception | None) -> TrainingError:
    reason = "see the other process" if problem is None else getattr(problem, "strerror", None) or str(problem)
    return TrainingError(
        f"the run could not be saved in {folder}: {reason}. What was saved before is complete: free some space, give "
        "the same command, and the run continues from there."
    )


def _write_shared(trainer: "Trainer", fresh: dict[str, Any], folder: Path) -> None:
    """Writes what all processes share."""
    scaler = trainer.accelerator.scaler
    training = {
        "model": trainer.model.state_dict(),
        "start": trainer.initial_weights,
        "averaged": None if trainer.ema is None else trainer.ema.module.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "schedule": trainer.schedule.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
    }
    put_file(folder, _TRAINING_FILE, _to_bytes(training))
    needed = {top_file(epoch) for epoch in trainer.progress.top} | ({BEST_FILE} if trainer.progress.best else set())
    for name in sorted(needed):
        if name in fresh:
            weights = {key: value.detach().cpu().contiguous() for key, value in fresh[name].state_dict().items()}
            put_file(folder, name, save(weights))
        else:
            assert trainer.state is not None
            # A copy and no link: damage to one state must not spread to another.
            put_file(folder, name, (trainer.state / name).read_bytes())
    put_file(folder, _PROGRESS_FILE, json.dumps(asdict(trainer.progress), indent=1).encode())


def _attempt(write: Any) -> Exception | None:
    try:
        write()
    except (OSError, SafetensorError) as error:
        return error
    return None


def _process_file(process: int) -> str:
    return f"rank-{process}.pt"


def _to_bytes(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def begin_state(folder: Path, number: int) -> Path:
    """Creates an empty folder for a state, to be filled by `put_file`. Numbers only rise."""
    fresh = folder / f"tmp-{number}"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    return fresh


def commit_state(fresh: Path, number: int) -> Path:
    """Turns a filled folder of `begin_state` into the newest state, then removes states that are no longer needed."""
    hashes = {file.name: _hash(file) for file in sorted(fresh.iterdir())}
    put_file(fresh, _MANIFEST, json.dumps(hashes, indent=1).encode())
    sync_names(fresh)
    state = fresh.with_name(f"state-{number}")
    fresh.rename(state)
    sync_names(state.parent)
    for other in sorted(_numbers(state.parent))[:-_STATES_KEPT]:
        shutil.rmtree(state.with_name(f"state-{other}"), ignore_errors=True)
    return state


def newest_state(folder: Path) -> tuple[Path | None, list[str]]:
    """Folder of the newest complete state, None if there is none; and a sentence for each newer damaged one."""
    damages: list[str] = []
    for number in sorted(_numbers(folder), reverse=True):
        state = folder / f"state-{number}"
        damage = find_damage(state)
        if damage is None:
            return state, damages
        damages.append(f"{state} is damaged ({damage})")
    return None, damages


def find_damage(state: Path) -> str | None:
    """What is wrong with a state; None if it is as it was written."""
    try:
        for name, digest in json.loads((state / _MANIFEST).read_text()).items():
            if _hash(state / name) != digest:
                return f"{name} is not as it was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, AttributeError) as error:
        return f"it cannot be read: {error}"
    return None


def state_number(state: Path) -> int:
    """The number of a state."""
    return int(state.name.removeprefix("state-"))


def remove_after(folder: Path, number: int) -> None:
    """Removes states after the one that a run continues from, and unfinished ones."""
    for other in _numbers(folder):
        if other > number:
            shutil.rmtree(folder / f"state-{other}")
    for unfinished in folder.glob("tmp-*"):
        shutil.rmtree(unfinished)


def _numbers(folder: Path) -> list[int]:
    return [int(match[1]) for path in folder.glob("state-*") if (match := _STATE.fullmatch(path.name))]


def _hash(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def identify_run(config: TrainingConfig, datasets: DatasetDict, processes: int) -> dict[str, Any]:
    """What identifies a run: its arguments, its data, and the number of processes, on which batches depend."""
    studies = ((split, study) for split, rows in datasets.items() for study in rows["study_id"])
    digest = hashlib.sha256()
    for split in ("train", "dev", "calib"):
        rows = datasets.get(split)
        if rows is not None:
            columns = [rows[name] for name in ("study_id", "label", "body_part") if name in rows.column_names]
            digest.update(json.dumps([split, columns], default=str).encode())
    identity = {"arguments": config.to_dict(), "split_digest": split_digest(studies)}
    return json.loads(json.dumps({**identity, "rows_digest": digest.hexdigest(), "processes": processes}))


def write_identity(file: Path, identity: dict[str, Any]) -> None:
    """Writes an identity atomically."""
    replace_file(file, (json.dumps(identity, indent=2) + "\n").encode())


def is_finished(folder: Path, identity: dict[str, Any], *, allowed: Collection[str] = ()) -> bool:
    """Whether a run is finished in a folder. If not, it may start there, or continue.

    Args:
        folder: Output folder of the run.
        identity: From `identify_run`.
        allowed: Names that the folder may contain before the run starts.

    Raises:
        DatasetError: If the folder contains a run with other arguments, data or number of processes, or other files.
    """
    for file in (FINISHED_FILE, RUN_FILE):
        if not (folder / file).is_file():
            continue
        found = json.loads((folder / file).read_text())
        if file == RUN_FILE and not any((folder / name).exists() for name in (STATES_FOLDER, CHECKPOINT_FOLDER)):
            return False  # no step was saved that could be lost
        different = differences(found, identity)
        if not different and file == RUN_FILE and found["processes"] != identity["processes"]:
            different.append(f"it ran on {found['processes']} processes, now there are {identity['processes']}")
        if different:
            raise DatasetError(
                f"{folder} contains a run with other settings: {'; '.join(different)}. Give the same settings to "
                "continue it, or choose a new folder"
            )
        return file == FINISHED_FILE
    others = sorted(one.name for one in folder.iterdir()) if folder.exists() else []
    others = [name for name in others if name not in allowed and name != RUN_FILE + ".new"]
    if others:
        raise DatasetError(
            f"{folder} is not empty (it contains {', '.join(others[:4])}), but no run started there; choose a new "
            "folder, so that nothing is lost"
        )
    return False


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """In what two identities differ, as texts. A key that only one of them has does not count."""
    former, current = _comparable(before), _comparable(now)
    found = [
        f"{key} was {former[key]!r}, now {value!r}"
        for key, value in current.items()
        if former.get(key, value) != value
    ]
    if any(before.get(name, now[name]) != now[name] for name in ("split_digest", "rows_digest")):
        found.append("the data, or their split, are different")
    return found


def _comparable(identity: dict[str, Any]) -> dict[str, Any]:
    """Arguments of an identity, each stage with all its settings, so that identities of the first edition compare."""
    config = config_from_record(identity)
    stages = [
        {"trains": stage.trains, "patch_size": stage.patch_size, **config.for_stage(stage).to_dict()}
        for stage in config.training.stages
    ]
    flat = config.to_dict() | ({"stages": stages, "epochs": None} if stages else {})
    written = identity.get("arguments", {})
    return {key: value for key, value in flat.items() if not written or key in written}
