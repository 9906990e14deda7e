"""Noise images, and coloured noise for other images."""

import cv2
import numpy as np


def coloured_noise(shape: tuple[int, int], exponent: float, rng: np.random.Generator) -> np.ndarray:
    """Draws noise with a power spectrum of 1 / frequency ** `exponent`: 0 white, 1 pink, 2 brown.

    Returns:
        float32 `[H, W]` with mean 0 and standard deviation 1.
    """
    spectrum = np.fft.rfft2(rng.standard_normal(shape))
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None])
    frequency[0, 0] = np.inf
    noise = np.fft.irfft2(spectrum * frequency ** (-exponent / 2), shape)
    return ((noise - noise.mean()) / noise.std()).astype(np.float32)


def draw_noise(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Draws white, coloured or striped noise, or salt and pepper, of any contrast and grain.

    Args:
        shape: Height and width in pixels.
        rng: Generator of the image.

    Returns:
        float32 `[H, W]`, black 0 and white 1, not clipped.
    """
    draw = (_white, _coloured, _salt_and_pepper, _striped)[int(rng.choice(4, p=[0.3, 0.3, 0.25, 0.15]))]
    return draw(shape, rng)


def _white(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Gaussian or uniform noise, with grains of one pixel or more."""
    grain = int(rng.choice([1, 1, 2, 3, 5, 8]))
    coarse = (-(-shape[0] // grain), -(-shape[1] // grain))
    drawn = rng.standard_normal(coarse) if rng.random() < 0.7 else rng.uniform(-1.7, 1.7, coarse)
    fine = np.repeat(np.repeat(drawn, grain, 0), grain, 1)[: shape[0], : shape[1]].astype(np.float32)
    if rng.random() < 0.4:
        fine = cv2.GaussianBlur(fine, (0, 0), rng.uniform(0.5, 1.5) * grain)
        fine /= fine.std()
    return rng.uniform(0.15, 0.85) + rng.uniform(0.03, 0.4) * fine


def _coloured(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    noise = coloured_noise(shape, float(rng.uniform(0.4, 1.5)), rng)
    return rng.uniform(0.25, 0.75) + rng.uniform(0.06, 0.3) * noise


def _salt_and_pepper(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """White and black dots of one to three pixels on a graded background."""
    rows, columns = np.linspace(-0.5, 0.5, shape[0])[:, None], np.linspace(-0.5, 0.5, shape[1])[None]
    slope = rng.uniform(-0.5, 0.5, 2)
    ground = (rng.uniform(0.1, 0.9) + slope[0] * rows + slope[1] * columns).astype(np.float32)
    grain = int(rng.choice([1, 1, 2, 3]))
    drawn = rng.random((-(-shape[0] // grain), -(-shape[1] // grain)))
    drawn = np.repeat(np.repeat(drawn, grain, 0), grain, 1)[: shape[0], : shape[1]]
    share, salt = rng.uniform(0.02, 0.6), rng.uniform(0.2, 0.8)
    ground[drawn < share] = 0
    ground[drawn < share * salt] = 1
    return ground


def _striped(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Rows or columns that change together, as on a screen without signal."""
    lines = coloured_noise((shape[0], 1), float(rng.uniform(0, 1.2)), rng)
    along = rng.uniform(5, 40) if rng.random() < 0.6 else 0.01
    fine = cv2.GaussianBlur(rng.standard_normal(shape).astype(np.float32), (0, 0), sigmaX=along, sigmaY=0.01)
    picture = rng.uniform(0.3, 0.7) + rng.uniform(0.05, 0.25) * lines + rng.uniform(0.05, 0.25) * fine / fine.std()
    return picture if rng.random() < 0.7 else np.flip(cv2.resize(picture.T, shape[::-1]))
