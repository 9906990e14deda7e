"""`render_unrelated`: images that are not radiographs of an upper limb, so a checkpoint should flag them.

This file draws pages of text and textures; `radiographs` draws chests and skulls. Each kind is drawn by a function of
the shape in pixels and a generator; it returns `[H, W]`, black 0 and white 1, not clipped.
"""

from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .radiographs import coloured_noise, draw_chest, draw_skull

_VOCABULARY = (
    "the of and in with no is was are at on left right patient report study view frontal lateral history findings "
    "impression comparison technique there normal alignment joint space soft tissue swelling evidence acute fracture "
    "fragment margin cortex density unchanged mild moderate severe follow clinical correlation recommended date "
    "referred physician department hospital procedure series image number page signed electronically approved result "
    "measured range reference value unit sample total mean average method table figure section chapter water paper"
)
_WORDS = _VOCABULARY.split()


def draw_text(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Draws a page, dark on white or white on black, straight or slightly rotated as from a scanner."""
    ink = _Ink(shape, rng)
    (_report, _table, _columns, _slide)[int(rng.choice(4, p=[0.4, 0.3, 0.15, 0.15]))](ink, rng)
    page = np.asarray(ink.page, np.float32) / 255
    if rng.random() < 0.5:
        middle = (shape[1] / 2, shape[0] / 2)
        turned = cv2.getRotationMatrix2D(middle, float(rng.normal(0, 2.5)), float(rng.uniform(0.94, 1.06)))
        page = cv2.warpAffine(page, turned, shape[::-1])
    if rng.random() < 0.6:
        page = cv2.GaussianBlur(page, (0, 0), float(rng.uniform(0.3, 1.0)))
    paper, black = rng.uniform(0.82, 1.0), rng.uniform(0.0, 0.25)
    picture = black + (paper - black) * (1 - page)
    if rng.random() < 0.4:  # a photograph of the page: uneven light
        slope = rng.uniform(-0.25, 0.25, 2)
        light = slope[0] * np.linspace(-1, 1, shape[0])[:, None] + slope[1] * np.linspace(-1, 1, shape[1])[None]
        picture = picture * (1 + light)
    picture = picture if rng.random() < 0.6 else 1 - picture
    return picture + rng.uniform(0, 0.03) * rng.standard_normal(shape)


class _Ink:
    """A page to write on; ink is 255."""

    def __init__(self, shape: tuple[int, int], rng: np.random.Generator) -> None:
        self.height, self.width = shape
        self.page = Image.new("L", (self.width, self.height))
        self.draw = ImageDraw.Draw(self.page)
        self.margin = 0.06 * self.width
        self.stroke = int(rng.integers(0, 2))

    def write(self, place: tuple[float, float], text: str, size: float, *, bold: bool = False) -> None:
        self.draw.text(place, text, 255, ImageFont.load_default(size), stroke_width=self.stroke * bold)

    def fill(
        self, left: float, top: float, right: float, bottom: float, size: float, rng: np.random.Generator
    ) -> None:
        """Writes paragraphs until the bottom; some lines end early."""
        font = ImageFont.load_default(size)
        while top + size < bottom:
            for line in range(int(rng.integers(2, 8))):
                wide = (right - left) * (rng.uniform(0.3, 1) if line and rng.random() < 0.15 else 1)
                words = ""
                while font.getlength(longer := f"{words} {rng.choice(_WORDS)}".strip()) < wide:
                    words = longer
                if top + size >= bottom:
                    return
                self.draw.text((left, top), words.capitalize() if not line else words, 255, font)
                top += size * 1.3
            top += size * rng.uniform(0.5, 1.2)


def _report(ink: _Ink, rng: np.random.Generator) -> None:
    """A heading, a few labelled fields, then paragraphs."""
    size = ink.width * rng.uniform(0.022, 0.042)
    top = ink.margin
    ink.write((ink.margin, top), " ".join(rng.choice(_WORDS, 3)).upper(), size * 1.8, bold=True)
    top += size * 2.8
    for _ in range(int(rng.integers(2, 6))):
        ink.write((ink.margin, top), f"{str(rng.choice(_WORDS)).capitalize()}:", size, bold=True)
        ink.write((ink.width * 0.35, top), f"{rng.choice(_WORDS)} {rng.integers(1, 99999)}", size)
        top += size * 1.4
    ink.draw.line((ink.margin, top + 2, ink.width - ink.margin, top + 2), 255, 1)
    end = ink.height * rng.uniform(0.6, 0.97)
    ink.fill(ink.margin, top + size, ink.width - ink.margin, end, size, rng)


def _table(ink: _Ink, rng: np.random.Generator) -> None:
    """Words and numbers in rows and columns, with or without rules."""
    rows, columns, ruled = int(rng.integers(6, 24)), int(rng.integers(3, 7)), rng.random() < 0.7
    pitch, wide = (ink.height - 2 * ink.margin) / rows, (ink.width - 2 * ink.margin) / columns
    size = min(pitch * 0.6, wide * 0.22)
    for row in range(rows):
        top = ink.margin + row * pitch
        for column in range(columns):
            text = str(rng.choice(_WORDS)) if row == 0 or column == 0 else f"{rng.gamma(1.0, 80):.1f}"
            ink.write((ink.margin + column * wide + 3, top + pitch * 0.15), text[:9], size, bold=row == 0)
        if ruled or row < 2:
            ink.draw.line((ink.margin, top, ink.width - ink.margin, top), 255, 1)
    if ruled:
        ink.draw.rectangle((ink.margin, ink.margin, ink.width - ink.margin, ink.height - ink.margin), outline=255)
        for column in range(1, columns):
            left = ink.margin + column * wide
            ink.draw.line((left, ink.margin, left, ink.height - ink.margin), 255, 1)


def _columns(ink: _Ink, rng: np.random.Generator) -> None:
    """A page of a journal: a title over two or three columns, sometimes with a box."""
    size, count = ink.width * rng.uniform(0.016, 0.024), int(rng.integers(2, 4))
    ink.write((ink.margin, ink.margin), " ".join(rng.choice(_WORDS, 5)).capitalize(), size * 2.2, bold=True)
    wide, top = (ink.width - ink.margin) / count, ink.margin + size * 4
    for column in range(count):
        left, start = ink.margin + column * wide, top
        if rng.random() < 0.4:
            start = top + wide * rng.uniform(0.5, 1)
            ink.draw.rectangle((left, top, left + wide - ink.margin, start - size), outline=255)
        ink.fill(left, start, left + wide - ink.margin, ink.height - ink.margin, size, rng)


def _slide(ink: _Ink, rng: np.random.Generator) -> None:
    """A few large lines."""
    size = ink.width * rng.uniform(0.05, 0.1)
    top = ink.height * rng.uniform(0.05, 0.3)
    while top + size < ink.height * 0.92:
        line = " ".join(rng.choice(_WORDS, int(rng.integers(1, 5))))
        ink.write((ink.margin * rng.uniform(1, 3), top), line.capitalize(), size * rng.uniform(0.7, 1.1), bold=True)
        top += size * rng.uniform(1.3, 2.2)


def draw_texture(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Draws clouds, wood, fur, bricks, checks, water, pebbles, or a heap of shaded objects."""
    picture = _TEXTURES[int(rng.integers(len(_TEXTURES)))](shape, rng)
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
    across, down = column % 1, y * count * 2 % 1
    mortar = np.minimum(np.minimum(across, 1 - across) * 2, np.minimum(down, 1 - down))
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
    picture = 0.5 * tone + 0.25 * height / height.max() + light * rng.uniform(0.5, 1.5)
    return picture + 0.05 * coloured_noise(shape, 1, rng)


def _heap(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Shaded, rough objects of all sizes that occlude each other: the dead leaves model of photographs."""
    x, y = _grid(shape)
    picture = 0.5 + 0.15 * coloured_noise(shape, 2.5, rng)
    for size in np.sort(0.5 * rng.random(int(rng.integers(60, 180))) ** 2 + 0.012)[::-1]:
        cx, cy, angle, flat = (rng.uniform(*limits) for limits in ((-0.6, 0.6), (-0.6, 0.6), (0, np.pi), (0.3, 1)))
        u = ((x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)) / size
        v = (-(x - cx) * np.sin(angle) + (y - cy) * np.cos(angle)) / (size * flat)
        inside = np.abs(u) ** 2 + np.abs(v) ** 2 < 1 if rng.random() < 0.6 else np.maximum(np.abs(u), np.abs(v)) < 1
        shade = rng.random() + rng.uniform(-0.3, 0.3) * u + rng.uniform(-0.3, 0.3) * v
        picture = np.where(inside, shade, picture)
    return (picture + 0.03 * coloured_noise(shape, 1.5, rng)).astype(np.float32)


_TEXTURES = (_clouds, _wood, _fur, _bricks, _water, _pebbles, _heap)


_DRAW: dict[str, Callable[[tuple[int, int], np.random.Generator], np.ndarray]] = {
    "text": draw_text, "texture": draw_texture, "chest": draw_chest, "skull": draw_skull,
}  # fmt: skip

KINDS = tuple(_DRAW)

_STREAM = 30  # different from the streams of `render_phantom`


def render_unrelated(seed: int, kind: str, size: int = 512) -> np.ndarray:
    """Draws one unrelated image.

    Args:
        seed: The same seed gives the same image.
        kind: One of `KINDS`.
        size: Approximate number of pixels on the long side, which is drawn between .8 and 1.25 times as many.

    Returns:
        uint8 `[H, W]`.
    """
    rng = np.random.default_rng([seed, _STREAM, 1 + KINDS.index(kind)])
    long = round(size * rng.uniform(0.8, 1.25))
    short = round(long * rng.uniform(0.72, 1.0))
    picture = _DRAW[kind]((long, short) if rng.random() < 0.6 else (short, long), rng)
    return np.clip(np.rint(picture * 255), 0, 255).astype(np.uint8)
