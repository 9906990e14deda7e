"""From attenuation to a film."""

import cv2
import numpy as np

from .exposure import Exposure


def develop(
    total: np.ndarray,
    normal: np.ndarray,
    flesh: np.ndarray,
    exposure: Exposure,
    rng: np.random.Generator,
    noise: np.random.Generator,
) -> np.ndarray:
    """From attenuation to display values in [0, 1]: Beer and Lambert, scatter, noise, blur, window.

    Scatter and window come from the patient without finding, so that a finding changes nothing afar.

    Args:
        total: Attenuation of all that stands in the beam, float32 `[H, W]`.
        normal: Of it, what the patient is without finding.
        flesh: Of it, what is no bone; the window is set where there is some.
        exposure: The ranges that the film draws its values from.
        rng: What they are drawn from.
        noise: What the quanta are drawn from.
    """
    shape = total.shape
    tenth = cv2.resize(np.exp(-normal), (max(shape[1] // 8, 8), max(shape[0] // 8, 8)), interpolation=cv2.INTER_AREA)
    scatter = cv2.resize(cv2.GaussianBlur(tenth, (0, 0), 0.06 * max(tenth.shape)), shape[::-1])
    share = rng.uniform(*exposure.scatter)
    dose = (cv2.exp(-total) + share * scatter) / (1 + share)
    grain = noise.standard_normal(shape, dtype=np.float32)
    grain = cv2.GaussianBlur(grain, (0, 0), rng.uniform(*exposure.grain_size))
    dose = np.maximum(dose + rng.uniform(*exposure.grain) * grain * np.sqrt(dose), 0.003)
    value = -cv2.log(cv2.GaussianBlur(dose, (0, 0), rng.uniform(*exposure.blur)))
    plain = -np.log((np.exp(-normal[::4, ::4]) + share * scatter[::4, ::4]) / (1 + share))
    body = plain[flesh[::4, ::4] > 0.03]
    high = float(np.percentile(body, 99.6)) if body.size else 1.0
    low = float(np.percentile(plain, 1.0)) + rng.uniform(*exposure.floor) * high
    level = np.maximum(value - low, 0) / max(high * rng.uniform(*exposure.ceiling) - low, 1e-3)
    # A soft shoulder leaves metal whiter than bone.
    return cv2.pow(1.1 * level / cv2.pow(cv2.pow(level, 2.6) + 1.0, 1 / 2.6), rng.uniform(*exposure.gamma))
