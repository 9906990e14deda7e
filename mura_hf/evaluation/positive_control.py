"""The shortcut audit's positive control: who took a planted shortcut must be caught, the package's model cleared.

The worst examples of a shortcut audit on one sheet to look at; it shows patients, so it stays on this machine.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from accelerate.state import AcceleratorState

from ..common import BUNDLED
from ..data import load_data
from ..errors import DatasetError
from ..inference import StudyPredictor
from ..models import LABELS
from ..phantoms import write_phantom_mura
from ..training import change_recipe, load_recipe, train
from .masking import CAUGHT, CLEARED, Shift
from .shortcuts import audit_shortcuts
from .splits import describe_source

RECIPE = "p_base"
SETTINGS = ("image_size=128", "batch_size=16", "learning_rate=1e-3", "epochs=4", "body_part_head=false")


def measure_planted(
    folder: str | Path,
    *,
    n_studies: int = 500,
    seed: int = 61,
    size: int = 256,
    settings: Sequence[str] = SETTINGS,
    twins: int = 210,
    honest_size: int = 512,
    workers: int = 1,
) -> dict[str, Any]:
    """Trains a small model on phantoms whose side marker gives the label away, and audits it and the bundled one.

    The recipe is `p_base`, for smaller pictures: it starts from the bundled checkpoint's backbone, so that what
    differs between the two models is the shortcut, not how well they see.

    Args:
        folder: New or empty; gets `data`, and `run` with the checkpoint.
        n_studies: Of the planted tree, held-out ones included.
        seed: Of the phantoms; another one than that of the bundled checkpoint's.
        size: Pixels on the long side of these phantoms, and of those that the model is audited with.
        settings: Changes of the recipe, as `change_recipe` takes them.
        twins: Patients of the audits with twins.
        honest_size: Pixels on the long side of the phantoms that the bundled checkpoint is audited with.
        workers: Processes that render.

    Returns:
        `planted` and `mura-phantom`: the record of `audit_shortcuts`. That of `planted` has `masking` too, on its
        held-out films. `passed`: whether the planted marker is caught both ways, and that of mura-phantom cleared.
    """
    folder = Path(folder)
    tree = write_phantom_mura(folder / "data", n_studies, seed, size=size, planted_marker=True, workers=workers)
    recipe, _ = change_recipe(load_recipe(RECIPE), settings)
    datasets, source = load_data(tree, **recipe.cut())
    description = describe_source(source, tree)
    AcceleratorState._reset_state(reset_partial_state=True)
    checkpoint = train(
        datasets, recipe, folder / "run", data_description={**description, "body_parts": "all"},
        trained_on_phantoms=True, cpu=True, cache_dir=folder / "pixels",
    )  # fmt: skip
    planted = audit_shortcuts(
        StudyPredictor.from_pretrained(checkpoint, device="cpu"), datasets["valid"], twins=twins, size=size
    ).record
    bundled = StudyPredictor.from_pretrained(BUNDLED["mura-phantom"], device="cpu")
    honest = audit_shortcuts(bundled, twins=twins, size=honest_size).record
    verdicts = [planted["twins"]["marker"]["verdict"], planted["masking"]["markers"]["verdict"]]
    passed = verdicts == [CAUGHT, CAUGHT] and honest["twins"]["marker"]["verdict"] == CLEARED
    return {"planted": planted, "mura-phantom": honest, "passed": passed}


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
