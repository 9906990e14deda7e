"""Taking up a run that was cut off."""

import shutil
from pathlib import Path

from tqdm.auto import tqdm

from .keeping import write_history
from .run import STATES_FOLDER, Run
from .snapshot import read_progress
from .states import newest_state, remove_after, state_number


def take_up(run: Run) -> None:
    """Finds the newest whole state of a run, which then goes on from it; a new run stays as it is.

    Says which states are damaged, and where the run goes on.
    """
    folder, accelerator = run.output_dir / STATES_FOLDER, run.accelerator
    state, told = newest_state(folder)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        for sentence in told:
            tqdm.write(sentence)
        remove_after(folder, 0 if state is None else state_number(state))
        if told and state is None:
            tqdm.write(f"No state in {folder} is whole, so the run begins anew")
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
