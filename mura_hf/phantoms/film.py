"""From attenuation to a film: exposure, scatter, noise, blur, display window, side marker and collimation."""

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
        total, normal, flesh: Attenuation of everything in the beam, of the patient without the finding, and of soft
            tissue, where the window is computed; float32 `[H, W]`.
        exposure: Ranges of the exposure.
        rng, noise: Generators of the exposure and of the quantum noise.
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
    # A smooth upper end of the curve keeps metal whiter than bone.
    return cv2.pow(1.1 * level / cv2.pow(cv2.pow(level, 2.6) + 1.0, 1 / 2.6), rng.uniform(*exposure.gamma))


def draw_marker(shape: tuple[int, int], letter: str, rng: np.random.Generator) -> np.ndarray:
    """Draws a lead letter near a border, attenuation as float32 `[H, W]`."""
    height, width = shape
    canvas = np.zeros(shape, np.uint8)
    size = rng.uniform(0.7, 1.5) * max(height, width) / 512
    thickness = max(1, round(size * rng.uniform(2.0, 4.0)))
    x = int(width * (rng.uniform(0.03, 0.12) if rng.random() < 0.5 else rng.uniform(0.82, 0.9)))
    y = int(height * rng.uniform(0.1, 0.9))
    font = int(rng.choice([cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX]))
    cv2.putText(canvas, letter, (x, y), font, size, 255, thickness, cv2.LINE_AA)
    turned = cv2.getRotationMatrix2D((float(x), float(y)), float(rng.normal(0, 12)), 1.0)
    canvas = cv2.warpAffine(canvas, turned, (width, height))
    return canvas.astype(np.float32) * np.float32(rng.uniform(1.0, 2.2) / 255)


def collimation(shape: tuple[int, int], rng: np.random.Generator, collimated: bool | None = None) -> np.ndarray:
    """Transmission of the collimator, float32 `[H, W]` in [0, 1]: dark outside of its slightly rotated blades."""
    height, width = shape
    drawn = bool(rng.random() >= 0.45)  # always drawn, so that the blades keep their position
    if not (drawn if collimated is None else collimated):
        return np.ones(shape, np.float32)
    inset = rng.uniform(-0.03, 0.09, 4)
    corners = np.array([
        (inset[0] * width, inset[1] * height), ((1 - inset[2]) * width, inset[1] * height),
        ((1 - inset[2]) * width, (1 - inset[3]) * height), (inset[0] * width, (1 - inset[3]) * height)
    ])  # fmt: skip
    turn = rng.normal(0, 0.05)
    middle = np.array([width / 2, height / 2])
    c, s = np.cos(turn), np.sin(turn)
    corners = (corners - middle) @ np.array([[c, s], [-s, c]]) + middle
    opened = np.zeros(shape, np.uint8)
    cv2.fillConvexPoly(opened, np.round(corners * 16).astype(np.int32), 255, cv2.LINE_AA, 4)
    return cv2.GaussianBlur(opened, (0, 0), 1.2).astype(np.float32) / 255 * 0.98 + 0.02
