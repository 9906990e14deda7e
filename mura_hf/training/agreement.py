"""What the processes of a run agree on between two steps."""

import os
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from torch import distributed

_OF_A_GROUP = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Agreement:
    """Takes the largest of what the processes say, over a channel of the CPUs that does not wait for a GPU.

    Args:
        accelerator: Of the run; every process makes its agreement at the same place.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.alone = accelerator.num_processes == 1
        self.group: Any = None if self.alone else distributed.new_group(backend="gloo")

    def largest(self, *said: int) -> tuple[int, ...]:
        """The largest of each number over the processes, the same on all of them."""
        if self.alone:
            return said
        values = torch.tensor(said, dtype=torch.int64)
        distributed.all_reduce(values, distributed.ReduceOp.MAX, group=self.group)
        return tuple(values.tolist())


def leave_processes() -> bool:
    """Ends the work of several processes, after which each is on its own; called by all.

    Returns:
        Whether this is the main one, which may go on alone.
    """
    state = PartialState()
    main = state.is_main_process
    if state.num_processes > 1:
        state.wait_for_everyone()
        state.destroy_process_group()
        AcceleratorState._reset_state(reset_partial_state=True)
        for name in _OF_A_GROUP:
            os.environ.pop(name, None)
    return main
