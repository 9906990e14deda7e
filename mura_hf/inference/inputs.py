"""Inputs of a predictor: the views of a study, the device and the dtype."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import RadiographError, first_line
from ..models import MuraImageProcessor
from ..radiographs import Radiograph, check_radiograph, read_radiograph
from ..retrieval import View
from .external_model import ExternalProcessor

_ARRAYS = (np.ndarray, torch.Tensor)
_SINGLE_VIEW = (str, bytes, bytearray, os.PathLike, Image.Image, Radiograph)


def list_views(views: View | Iterable[View], names: Sequence[str] | None) -> tuple[list[Any], Sequence[str]]:
    """Returns the views of one study as a list, and their names: by default file names, or "view 1" and so on.

    Raises:
        ValueError: If `views` is neither a view nor an iterable of at least one, or the number of names differs.
    """
    if isinstance(views, _SINGLE_VIEW) or (isinstance(views, _ARRAYS) and views.ndim == 2):
        listed: list[Any] = [views]
    elif isinstance(views, (*_ARRAYS, Mapping)) or hasattr(views, "read") or not isinstance(views, Iterable):
        raise ValueError(f"give the views of one study as a list, such as [view], not one {type(views).__name__}")
    else:
        listed = list(views)
    if not listed:
        raise ValueError("the list of views is empty; a study has at least one")
    for number, view in enumerate(listed, 1):
        # A pydicom data set claims to be an array, but has no shape.
        if not isinstance(view, _SINGLE_VIEW) and not (hasattr(view, "__array__") and hasattr(view, "shape")):
            raise ValueError(
                f"view {number} is a {type(view).__name__}, but a view is a path, file content, a PIL image, an array "
                "or a Radiograph. A call takes one study; for several, use predict_many(studies)"
            )
    if names is None:
        names = [
            Path(view).name if isinstance(view, str | os.PathLike) else f"view {number}"
            for number, view in enumerate(listed, 1)
        ]
    if len(names) != len(listed):
        raise ValueError(f"{len(listed)} views but {len(names)} names")
    return listed, names


def read_view(view: View, name: str, processor: MuraImageProcessor | ExternalProcessor) -> Radiograph:
    """Reads a view in any supported form; `name` is its name in error messages.

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
    except Exception as error:  # Pillow decodes here and raises dozens of types
        reason = first_line(error)
        raise RadiographError(f"{name} cannot be decoded ({reason}); open it again, or give its path.") from error
    return check_radiograph(Radiograph(pixels, 8, "array"), name)


def check_device(device: str | torch.device | None) -> torch.device:
    """Returns the named device; by default the accelerator if there is one, else the CPU.

    Raises:
        ValueError: If this machine has no such device.
    """
    if device is None:
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return found or torch.device("cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(f"device {device!r} cannot be used on this machine: {first_line(error)}") from error


def check_dtype(dtype: str | torch.dtype) -> str | torch.dtype:
    """Returns the named floating point type, or "auto".

    Raises:
        ValueError: If there is no such type.
    """
    found = getattr(torch, dtype, None) if isinstance(dtype, str) and dtype != "auto" else dtype
    if found != "auto" and not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise ValueError(f'dtype is {dtype!r}; it must be "auto" or a floating point type such as torch.bfloat16')
    return found
