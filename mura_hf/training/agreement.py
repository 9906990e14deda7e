"""What the processes of a run agree on between two steps."""

from typing import Any

import torch
from accelerate import Accelerator
from torch import distributed


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
