"""From attenuation to a film: exposure, scatter, noise, blur and display window."""

from dataclasses import dataclass

import cv2
import numpy as np

Range = tuple[float, float]


@dataclass(frozen=True)
class Exposure:
    """Ranges (lowest, highest) from which each film draws its exposure.

    Attributes:
        scatter: Share of scattered radiation.
        grain: Standard deviation of the quantum noise in the direct beam.
        grain_size: Standard deviation in pixels of the Gaussian that blurs the noise.
        blur: Standard deviation in pixels of the Gaussian that blurs the film.
        floor: Share of the window that stays black at its lower end.
        ceiling: Upper end of the window, in units of the densest bone.
        gamma: Exponent of the display values; above 1, films are darker.
    """

    scatter: Range = (0.06, 0.16)
    grain: Range = (0.006, 0.016)
    grain_size: Range = (0.45, 0.8)
    blur: Range = (0.45, 0.8)
    floor: Range = (0.0, 0.12)
    ceiling: Range = (0.98, 1.15)
    gamma: Range = (0.8, 1.1)


EXPOSURES = {
    "standard": Exposure(),
    "underexposed": Exposure(
        scatter=(0.25, 0.45), grain=(0.035, 0.06), grain_size=(0.7, 1.1), blur=(1.0, 1.6), gamma=(1.5, 2.0)
    ),
}
"""Exposures by name. "underexposed" films are noisier, softer and darker than any "standard" one."""


def develop(
    total: np.ndarray,
    normal: np.ndarray,
    flesh: np.ndarray,
    exposure: Exposure,
    rng: np.random.Generator,
    noise: np.random.Generator,
) -> np.ndarray:
    """Converts attenuation to display values in [0, 1]: Beer-Lambert law, scatter, noise, blur, window.

    Scatter and window depend on the patient without the finding, so that a finding changes the film only locally.

    Args:
        total: Attenuation of everything in the beam, float32 `[H, W]`.
        normal: Part of it from the patient without the finding.
        flesh: Part of it from soft tissue; the window is computed where there is some.
        exposure: Ranges of the exposure.
        rng: Generator of the exposure.
        noise: Generator of the quantum noise.
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
