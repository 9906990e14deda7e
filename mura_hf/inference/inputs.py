"""The views of a study in the forms in which a caller may have them.

Where a model runs, and in which precision.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..errors import RadiographError
from ..models import MuraImageProcessor
from ..radiographs import Radiograph, check_radiograph, read_radiograph
from .external_processor import ExternalProcessor

View = str | os.PathLike[str] | bytes | bytearray | Image.Image | np.ndarray | Radiograph

_SINGLE = (str, bytes, bytearray, os.PathLike, Image.Image, np.ndarray, torch.Tensor, Radiograph, Mapping)


def take_views(views: Iterable[View], names: Sequence[str] | None) -> tuple[list[View], Sequence[str]]:
    """The views of one study as a list, and what to call them: their file names, or "view 1" and so on, where None.

    Raises:
        ValueError: If they are no list of at least one view, or the names are not as many.
    """
    if isinstance(views, _SINGLE) or not isinstance(views, Iterable):
        raise ValueError(f"give the views of one study as a list, such as [view], not one {type(views).__name__}")
    views = list(views)
    if not views:
        raise ValueError("the list of views is empty; a study has at least one")
    if names is None:
        names = [_name(view, number) for number, view in enumerate(views, 1)]
    if len(names) != len(views):
        raise ValueError(f"{len(views)} views but {len(names)} names")
    return views, names


def read_view(view: View, name: str, processor: MuraImageProcessor | ExternalProcessor) -> Radiograph:
    """Reads one view.

    Args:
        view: In any of the forms.
        name: What to call it in messages.
        processor: Says which arrays and pictures are pictures.

    Raises:
        RadiographError: If it cannot be read.
    """
    if isinstance(view, Radiograph):
        return check_radiograph(view, name)
    if isinstance(view, str | os.PathLike | bytes | bytearray):
        return read_radiograph(Path(view) if isinstance(view, os.PathLike) else view, name=name)
    try:
        pixels = processor.gray_plane(view).astype(np.float32) / np.float32(255)
    except ValueError as error:
        raise RadiographError(f"{name}: {error}") from error
    return check_radiograph(Radiograph(pixels, 8, "array"), name)


def _name(view: View, number: int) -> str:
    return Path(view).name if isinstance(view, str | os.PathLike) else f"view {number}"


def check_device(device: str | torch.device | None) -> torch.device:
    """The device of that name; the first accelerator, or else the CPU, where None.

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
    """The floating point type of that name, or "auto".

    Raises:
        ValueError: If there is no such type.
    """
    kind = getattr(torch, dtype, None) if isinstance(dtype, str) and dtype != "auto" else dtype
    if kind != "auto" and not (isinstance(kind, torch.dtype) and kind.is_floating_point):
        raise ValueError(f'dtype is {dtype!r}: it must be "auto" or a floating point type such as torch.bfloat16')
    return kind
