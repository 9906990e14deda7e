"""Taking up a run that was cut off."""

import shutil
from pathlib import Path

from accelerate.utils import broadcast_object_list
from tqdm.auto import tqdm

from ..errors import TrainingError
from .keeping import STATES_FOLDER, write_history
from .run import Run
from .snapshot import read_progress
from .states import newest_state, remove_after, state_number


def take_up(run: Run) -> None:
    """Finds the newest whole state of a run, which then goes on from it; a new run stays as it is.

    Says which states are damaged, and where the run goes on.

    Raises:
        TrainingError: If there are states, and none is whole.
    """
    folder, accelerator = run.output_dir / STATES_FOLDER, run.accelerator
    state, told = newest_state(folder)
    found = [None if state is None else state.name]
    broadcast_object_list(found)  # what the main process could read is what all go on from
    state = None if found[0] is None else folder / found[0]
    if told and state is None:
        raise TrainingError(
            f"no state in {folder} is whole: {'; '.join(told)}. Nothing was removed: bring one back from a copy, or "
            "remove the folder to begin anew; the best epoch so far stands beside it in checkpoint"
        )
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        for sentence in told:
            tqdm.write(f"{sentence}, so the run goes back to the state before it")
        remove_after(folder, 0 if state is None else state_number(state))
    accelerator.wait_for_everyone()
    if state is None:
        return
    run.state, run.progress, run.taken_up = state, read_progress(state), True
    run.progress.resumed += 1
    run.restart_clock()
    if accelerator.is_main_process:
        if run.progress.history:
            write_history(run.progress.history, run.output_dir)
        tqdm.write(
            f"Going on from {state}: stage {run.progress.stage + 1}, epoch {run.progress.epoch + 1}, after step "
            f"{run.progress.step} of it, {run.progress.total} steps in all"
        )


def clear_states(output_dir: Path) -> None:
    """Removes the states of a run that is finished."""
    shutil.rmtree(output_dir / STATES_FOLDER, ignore_errors=True)
