"""`render_foreign`: pictures that are no radiographs of an upper limb, and ought to get no answer."""

from collections.abc import Callable

import numpy as np

from .foreign_chest import draw_chest
from .foreign_noise import draw_noise
from .foreign_skull import draw_skull
from .foreign_text import draw_text
from .foreign_textures import draw_texture

_DRAW: dict[str, Callable[[tuple[int, int], np.random.Generator], np.ndarray]] = {
    "noise": draw_noise,
    "text": draw_text,
    "texture": draw_texture,
    "chest": draw_chest,
    "skull": draw_skull,
}

FOREIGN_KINDS = tuple(_DRAW)
"""Kinds of pictures that are no radiographs of an upper limb."""

_SIDES = (0.8, 1.25)  # of the size asked for, on the long side
_SHORT = (0.72, 1.0)  # of the long side
_STREAM = 30  # apart from the streams of `render_phantom`


def render_foreign(seed: int, kind: str, size: int = 512) -> np.ndarray:
    """Draws one picture of a kind that no checkpoint of the package can judge.

    Noise: white, coloured or of salt and pepper. Text: pages of reports and tables, dark on white or white on black.
    Texture: clouds, wood, fur, bricks, water, pebbles and heaps of shaded things. Chest and skull: phantoms of these,
    flat layers of tissue instead of bodies in space, exposed as the phantoms of limbs are.

    Args:
        seed: 0 or above; the same seed gives the same picture.
        kind: One of `FOREIGN_KINDS`.
        size: Pixels on the long side, about: it is drawn between .8 and 1.25 times as many.

    Returns:
        uint8 `[H, W]`.

    Raises:
        ValueError: If the kind is unknown, the seed negative, or the size below 64.
    """
    if kind not in FOREIGN_KINDS:
        raise ValueError(f"unknown kind {kind!r} of foreign picture; there are {', '.join(FOREIGN_KINDS)}")
    if seed < 0 or size < 64:
        raise ValueError(f"seed must be 0 or above and size 64 or above, not {seed} and {size}")
    rng = np.random.default_rng([seed, _STREAM, FOREIGN_KINDS.index(kind)])
    long = round(size * rng.uniform(*_SIDES))
    short = round(long * rng.uniform(*_SHORT))
    picture = _DRAW[kind]((long, short) if rng.random() < 0.6 else (short, long), rng)
    return np.clip(np.rint(picture * 255), 0, 255).astype(np.uint8)
