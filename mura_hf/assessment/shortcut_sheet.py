"""The worst examples of a shortcut audit on one sheet to look at; it shows patients, so it stays on this machine."""

from pathlib import Path

import cv2
import numpy as np

from ..errors import DatasetError
from ..models import LABELS
from .shifts import Shift

_STRIP, _GAP = 20, 6  # pixels: for the words below a picture, and between pairs


def draw_worst(worst: dict[str, list[Shift]], path: str | Path, *, side: int = 220, columns: int = 4) -> None:
    """Draws pairs of pictures, without and with what moved the answer, each with its probability.

    Args:
        worst: Of a `ShortcutAudit`.
        path: PNG file to write.
        side: Of a picture in pixels.
        columns: Pairs side by side, at most.

    Raises:
        DatasetError: If there is nothing to draw, or the file cannot be written.
    """
    if not any(worst.values()):
        raise DatasetError("no answer was measured, so there is nothing to draw; give more studies")
    lines = []
    for what, shifts in worst.items():
        cells = [_pair(shift, side) for shift in shifts[:columns]]
        cells += [np.zeros_like(cells[0])] * (columns - len(cells))
        title = np.zeros((_STRIP, columns * cells[0].shape[1]), np.uint8)
        lines += [_write(title, f"{what}: without it (left) and with it (right)"), np.hstack(cells)]
    if not cv2.imwrite(str(path), np.vstack(lines)):
        raise DatasetError(f"{path} cannot be written; check that its folder is there and writable")


def _pair(shift: Shift, side: int) -> np.ndarray:
    cell = np.zeros((side + 2 * _STRIP, 2 * side + _GAP), np.uint8)
    for place, (picture, probability) in enumerate(zip(shift.pictures, (shift.before, shift.after), strict=True)):
        scale = side / max(picture.shape)
        small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)[:side, :side]
        left = place * side
        cell[: small.shape[0], left : left + small.shape[1]] = small
        _write(cell[side : side + _STRIP, left : left + side], f"{probability:.3f}")
    _write(cell[side + _STRIP :], f"{shift.study[-36:]} {LABELS[shift.label]}")
    return cell


def _write(strip: np.ndarray, words: str) -> np.ndarray:
    """Writes into the strip and returns it."""
    strip[:] = cv2.putText(
        strip.copy(), words, (3, strip.shape[0] - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.42, 235, 1, cv2.LINE_AA
    )
    return strip
