"""Textures as in photographs."""

import cv2
import numpy as np

from .noise import coloured_noise


def draw_texture(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Draws clouds, wood, fur, bricks, checks, water, pebbles, or a heap of shaded objects.

    Args:
        shape: Height and width in pixels.
        rng: Generator of the image.

    Returns:
        float32 `[H, W]`, black 0 and white 1, not clipped.
    """
    draw = _TEXTURES[int(rng.integers(len(_TEXTURES)))]
    picture = draw(shape, rng)
    low, high = np.percentile(picture, [0.5, 99.5])
    picture = np.clip((picture - low) / max(high - low, 1e-6), 0, 1) ** rng.uniform(0.7, 1.4)
    dark, light = rng.uniform(0.0, 0.25), rng.uniform(0.7, 1.0)
    blurred = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), float(rng.uniform(0.3, 1.0)))
    return dark + (light - dark) * blurred + rng.uniform(0.003, 0.025) * rng.standard_normal(shape)


def _grid(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows from the centre in units of the long side, float32 `[H, W]` each."""
    rows, columns = np.indices(shape, np.float32)
    return (columns - shape[1] / 2) / max(shape), (rows - shape[0] / 2) / max(shape)


def _turned(shape: tuple[int, int], rng: np.random.Generator, spread: float = np.pi) -> tuple[np.ndarray, np.ndarray]:
    """The grid, rotated by up to `spread` radians."""
    x, y = _grid(shape)
    angle = rng.uniform(-spread, spread)
    return x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)


def _clouds(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Noise of many scales, sometimes cut off below."""
    noise = coloured_noise(shape, float(rng.uniform(2.2, 3.4)), rng)
    return np.maximum(noise, -0.3) if rng.random() < 0.5 else noise


def _wood(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Growth rings, cut along or across, with pores."""
    x, y = _turned(shape, rng)
    wander = 0.03 * coloured_noise(shape, 3.2, rng)
    rings = np.hypot(x - rng.uniform(-0.6, 0.6), (y - rng.uniform(-0.6, 0.6)) * rng.uniform(0.05, 1)) + wander
    year = (rings * rng.uniform(14, 45)) % 1
    pores = cv2.GaussianBlur(rng.standard_normal(shape).astype(np.float32), (0, 0), sigmaX=0.6, sigmaY=9)
    return year ** rng.uniform(1.5, 4) + 0.25 * pores / pores.std()


def _fur(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Grass or fur: thousands of strokes along a smooth field of directions."""
    way = rng.uniform(-np.pi, np.pi) + rng.uniform(0.2, 0.9) * coloured_noise(shape, 3.2, rng)
    canvas = np.full(shape, 60, np.uint8)
    long = rng.uniform(0.02, 0.09) * max(shape)
    for _ in range(int(rng.integers(2500, 6000))):
        column, row = int(rng.integers(shape[1])), int(rng.integers(shape[0]))
        angle, reach = way[row, column] + rng.normal(0, 0.15), long * rng.uniform(0.5, 1.3)
        end = (round(column + reach * np.cos(angle)), round(row + reach * np.sin(angle)))
        cv2.line(canvas, (column, row), end, int(rng.integers(20, 255)), int(rng.integers(1, 3)), cv2.LINE_AA)
    return canvas / np.float32(255)


def _bricks(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A brick wall or a chequered floor, in perspective."""
    x, y = _turned(shape, rng, 0.5)
    near = 1 + rng.uniform(-0.7, 0.7) * x + rng.uniform(-0.7, 0.7) * y
    x, y = x / near, y / near
    count = rng.uniform(5, 14)
    rough = 0.15 * coloured_noise(shape, 1.6, rng)
    if rng.random() < 0.4:
        return ((np.floor(x * count) + np.floor(y * count)) % 2 + rough).astype(np.float32)
    row = np.floor(y * count * 2)
    column = x * count + 0.5 * (row % 2)
    mortar = np.minimum(
        np.minimum(column % 1, 1 - column % 1) * 2, np.minimum(y * count * 2 % 1, 1 - y * count * 2 % 1)
    )
    tone = np.sin(row * 12.9898 + np.floor(column) * 78.233) * 43758.5453 % 1  # one brick, one tone
    return np.where(mortar < 0.06, 0.9, 0.25 + 0.4 * tone).astype(np.float32) + rough


def _water(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Waves of many lengths from one direction, in perspective, with glints."""
    x, y = _grid(shape)
    near = 1 / (1.25 + y * rng.uniform(0.8, 2.2))
    x, y = x * near, near
    main, surface = rng.uniform(0, np.pi), np.zeros(shape, np.float32)
    for _ in range(24):
        wave, way = rng.uniform(15, 160), main + rng.normal(0, 0.5)
        surface += np.sin(wave * (x * np.cos(way) + y * np.sin(way)) + rng.uniform(0, 7)) * (25 / wave) ** 0.8
    return surface + np.maximum(surface / surface.std() - 1.2, 0) ** 2


def _pebbles(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Rounded stones (or cells) with individual tones, lit from one side."""
    seeds = np.full(shape, 255, np.uint8)
    for _ in range(int(rng.integers(60, 600))):
        seeds[int(rng.integers(shape[0])), int(rng.integers(shape[1]))] = 0
    _, cells = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    edge = (cells != np.roll(cells, 1, 0)) | (cells != np.roll(cells, 1, 1))
    depth = cv2.distanceTransform((~edge).astype(np.uint8), cv2.DIST_L2, 5)
    height = cv2.GaussianBlur(np.sqrt(depth), (0, 0), 2)
    light = np.gradient(height, axis=0) * rng.choice([-1, 1]) + np.gradient(height, axis=1) * rng.choice([-1, 1])
    tone = rng.random(int(cells.max()) + 1)[cells]
    return (
        0.5 * tone
        + 0.25 * height / height.max()
        + light * rng.uniform(0.5, 1.5)
        + 0.05 * coloured_noise(shape, 1, rng)
    )


def _heap(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Shaded, rough objects of all sizes that occlude each other: the dead leaves model of photographs."""
    x, y = _grid(shape)
    picture = 0.5 + 0.15 * coloured_noise(shape, 2.5, rng)
    for size in np.sort(0.5 * rng.random(int(rng.integers(60, 180))) ** 2 + 0.012)[::-1]:
        cx, cy, angle, flat = (
            rng.uniform(-0.6, 0.6),
            rng.uniform(-0.6, 0.6),
            rng.uniform(0, np.pi),
            rng.uniform(0.3, 1),
        )
        u = ((x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)) / size
        v = (-(x - cx) * np.sin(angle) + (y - cy) * np.cos(angle)) / (size * flat)
        inside = np.abs(u) ** 2 + np.abs(v) ** 2 < 1 if rng.random() < 0.6 else np.maximum(np.abs(u), np.abs(v)) < 1
        shade = rng.random() + rng.uniform(-0.3, 0.3) * u + rng.uniform(-0.3, 0.3) * v
        picture = np.where(inside, shade, picture)
    return (picture + 0.03 * coloured_noise(shape, 1.5, rng)).astype(np.float32)


_TEXTURES = (_clouds, _wood, _fur, _bricks, _water, _pebbles, _heap)
