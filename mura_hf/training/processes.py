"""Accelerator, agreement between processes, and signals that stop a run."""

import os
import signal
import threading
import warnings
from datetime import timedelta
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DataLoaderConfiguration, DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import distributed

from ..errors import ConfigError
from .arguments import TrainingConfig

_TIMEOUT = timedelta(hours=6)  # the main process builds the pixel cache while the others wait
_GROUP_VARIABLES = (
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT",
    "TORCHELASTIC_RUN_ID",
)  # fmt: skip


def make_accelerator(
    config: TrainingConfig, *, cpu: bool, tracker: str | None = None, folder: Path | None = None
) -> Accelerator:
    """Creates the accelerator of a run.

    Raises:
        ConfigError: If the device does not support the precision, or the tracker is unknown or not installed.
    """
    precision = config.training.precision
    try:
        accelerator = Accelerator(
            mixed_precision="no" if precision == "fp32" else precision,
            cpu=cpu,
            dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True),
            step_scheduler_with_optimizer=False,
            log_with=tracker,
            project_dir=folder,
            kwargs_handlers=[
                # A stage of metric learning or FuseNet leaves parts of the model unused.
                DistributedDataParallelKwargs(find_unused_parameters=config.model.family != "classifier"),
                InitProcessGroupKwargs(timeout=_TIMEOUT),
            ],
        )
    except ValueError as error:
        raise ConfigError(f"precision {precision}, tracker {tracker}: {error}") from error
    on_cpu = accelerator.device.type == "cpu"
    if precision == "fp16" and on_cpu:
        raise ConfigError("fp16 needs a GPU; set precision to bf16 or fp32")
    if precision == "bf16" and on_cpu and not cpu_has_bf16():
        warnings.warn(
            "this processor has no instructions for bf16, so bf16 is much slower than fp32; set precision to fp32",
            stacklevel=2,
        )
    if tracker is not None and not accelerator.log_with:
        raise ConfigError(f"the tracker {tracker} is not installed; install it with pip, or choose another")
    return accelerator


def cpu_has_bf16() -> bool:
    """Whether the processor has instructions for bf16."""
    return any(supported for name, supported in torch.cpu.get_capabilities().items() if "bf16" in name)


class ProcessGroup:
    """Lets processes agree on numbers over a CPU channel, which does not wait for a GPU."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.single = accelerator.num_processes == 1
        self.group: Any = None if self.single else distributed.new_group(backend="gloo")

    def maximum(self, *values: int) -> tuple[int, ...]:
        """The maximum of each value over all processes."""
        if self.single:
            return values
        reduced = torch.tensor(values, dtype=torch.int64)
        distributed.all_reduce(reduced, distributed.ReduceOp.MAX, group=self.group)
        return tuple(reduced.tolist())


def leave_processes() -> bool:
    """Ends the process group, so that each process is on its own; called by all.

    Returns:
        Whether this is the main process, which may go on alone.
    """
    state = PartialState()
    main = state.is_main_process
    if state.num_processes > 1:
        state.wait_for_everyone()
        state.destroy_process_group()
    forget_processes()
    return main


def forget_processes() -> None:
    """Forgets a process group that has ended, so that this process works alone from now on."""
    AcceleratorState._reset_state(reset_partial_state=True)
    for name in _GROUP_VARIABLES:
        os.environ.pop(name, None)


class StopSignals:
    """Context in which SIGTERM and SIGINT are only noted; the run checks for them between two steps.

    Launchers pass signals on, so one request may arrive twice. Outside the main thread, where Python allows no
    handlers, nothing is noted.

    Attributes:
        received: Number of the first signal; 0 before.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, before in self._before.items():
            if before is not None:
                signal.signal(number, before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or number
