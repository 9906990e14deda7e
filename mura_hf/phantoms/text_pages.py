"""Pages of text: reports, tables, journals, slides."""

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

_VOCABULARY = (
    "the of and in with no is was are at on left right patient report study view frontal lateral history findings "
    "impression comparison technique there normal alignment joint space soft tissue swelling evidence acute fracture "
    "fragment margin cortex density unchanged mild moderate severe follow clinical correlation recommended date "
    "referred physician department hospital procedure series image number page signed electronically approved result "
    "measured range reference value unit sample total mean average method table figure section chapter water paper"
)
_WORDS = _VOCABULARY.split()
_MARGIN = 0.06  # of the width


def draw_text(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Draws a page, dark on white or white on black, straight or slightly rotated as from a scanner.

    Args:
        shape: Height and width in pixels.
        rng: Generator of the image.

    Returns:
        float32 `[H, W]`, black 0 and white 1, not clipped.
    """
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
        self.margin = _MARGIN * self.width
        self.stroke = int(rng.integers(0, 2))

    def write(self, place: tuple[float, float], text: str, size: float, *, bold: bool = False) -> None:
        font = ImageFont.load_default(size)
        self.draw.text(place, text, 255, font, stroke_width=self.stroke * bold)

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
