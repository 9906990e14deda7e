"""The film of a foreign body part: exposed, marked and collimated as the phantoms of limbs are."""

import numpy as np

from .developing import develop
from .exposure import EXPOSURES
from .extras import collimation, draw_marker

_UNDEREXPOSED, _MARKED = 0.1, 0.5  # shares of films


def expose(flesh: np.ndarray, bones: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Develops layers of tissue.

    Args:
        flesh: Attenuation of all that is no bone, float32 `[H, W]`.
        bones: Attenuation of bones and metal, float32 `[H, W]`.
        rng: What exposure, noise, marker and blades are drawn from.

    Returns:
        float32 `[H, W]`, bone bright, not clipped.
    """
    flesh = np.maximum(flesh, 0).astype(np.float32)
    normal = flesh + bones.astype(np.float32)
    total = normal
    if rng.random() < _MARKED:
        total = normal + draw_marker(flesh.shape, str(rng.choice(["L", "R"])), rng)
    exposure = EXPOSURES["underexposed" if rng.random() < _UNDEREXPOSED else "standard"]
    return develop(total, normal, flesh, exposure, rng, rng) * collimation(flesh.shape, rng)
