"""`render_unrelated`: images that are not radiographs of an upper limb, so a checkpoint should flag them."""

from collections.abc import Callable

import numpy as np

from .noise import draw_noise
from .text_pages import draw_text
from .textures import draw_texture
from .unrelated_radiographs import draw_chest, draw_skull

_DRAW: dict[str, Callable[[tuple[int, int], np.random.Generator], np.ndarray]] = {
    "noise": draw_noise,
    "text": draw_text,
    "texture": draw_texture,
    "chest": draw_chest,
    "skull": draw_skull,
}

UNRELATED_KINDS = tuple(_DRAW)
"""Kinds of unrelated images."""

_LONG_SIDE = (0.8, 1.25)  # relative to the size
_SHORT_SIDE = (0.72, 1.0)  # relative to the long side
_STREAM = 30  # different from the streams of `render_phantom`


def render_unrelated(seed: int, kind: str, size: int = 512) -> np.ndarray:
    """Draws one unrelated image.

    Noise is white, coloured, striped or salt and pepper. Text is a page of a report, table, journal or slide. Textures
    are clouds, wood, fur, bricks, water, pebbles and heaps of objects. Chest and skull are phantoms from flat layers
    of tissue, exposed like the phantoms of limbs.

    Args:
        seed: 0 or more; the same seed gives the same image.
        kind: One of `UNRELATED_KINDS`.
        size: Approximate number of pixels on the long side, which is drawn between .8 and 1.25 times as many.

    Returns:
        uint8 `[H, W]`.

    Raises:
        ValueError: If the kind is unknown, the seed is negative, or the size is below 64.
    """
    if kind not in UNRELATED_KINDS:
        raise ValueError(f"unknown kind {kind!r} of unrelated image; known are {', '.join(UNRELATED_KINDS)}")
    if seed < 0 or size < 64:
        raise ValueError(f"seed must be 0 or more and size 64 or more, not {seed} and {size}")
    rng = np.random.default_rng([seed, _STREAM, UNRELATED_KINDS.index(kind)])
    long = round(size * rng.uniform(*_LONG_SIDE))
    short = round(long * rng.uniform(*_SHORT_SIDE))
    picture = _DRAW[kind]((long, short) if rng.random() < 0.6 else (short, long), rng)
    return np.clip(np.rint(picture * 255), 0, 255).astype(np.uint8)
