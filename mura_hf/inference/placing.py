"""Where a checkpoint runs, and in what precision."""

import torch


def check_device(device: str | torch.device | None) -> torch.device:
    """The device to run on; the first accelerator, or else the CPU, where None.

    Raises:
        ValueError: If this machine has no such device.
    """
    if device is None:
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return found or torch.device("cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"device {device!r} cannot be used on this machine: {reason}") from error


def check_dtype(dtype: str | torch.dtype) -> str | torch.dtype:
    """The dtype of the weights, or "auto".

    Raises:
        ValueError: If it is no floating point type.
    """
    kind = getattr(torch, dtype, None) if isinstance(dtype, str) and dtype != "auto" else dtype
    if kind != "auto" and not (isinstance(kind, torch.dtype) and kind.is_floating_point):
        raise ValueError(f'dtype is {dtype!r}: it must be "auto" or a floating point type such as torch.bfloat16')
    return kind
