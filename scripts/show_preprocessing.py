"""Draws what every option of the image processor does to radiographs, or to phantoms where no file is given."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mura_hf import read_radiograph
from mura_hf.errors import MuraError
from mura_hf.models.image_processing_mura import MuraImageProcessor
from mura_hf.phantoms import render_phantom

_PAPER, _INK, _QUIET, _ACCENT = "#14171c", "#f2f2f2", "#9aa4b2", "#ffb000"
_FILTERS: dict[str, tuple[str, ...]] = {
    "CLAHE on LAB": ("clahe_lab",),
    "CLAHE on gray": ("clahe_gray",),
    "High-frequency emphasis": ("high_frequency_emphasis",),
    "Emphasis, then CLAHE": ("high_frequency_emphasis", "clahe_gray"),
    "Unsharp masking": ("unsharp",),
}
_CELL = 2.2  # inches
_STRIP = 0.16  # height of a histogram, in cells
_DIMMED = 0.35  # of its brightness is left to what lies outside a frame

_Cell = tuple[tuple[str, str], np.ndarray, np.ndarray, tuple[int, int, int, int] | None]
"""A column's heading and detail, the picture, the pixels of its histogram, and a frame x0, y0, x1, y1 or None."""


def draw_preprocessing(pictures: Mapping[str, np.ndarray], path: str | Path, *, size: int = 320) -> None:
    """Draws a row for each picture and a column for each option: the original, squash, letterbox, border crop, centre
    crop, each filter with its default settings, and a list of two.

    Below each picture stands its histogram of tones, without the letterbox's bars.

    Args:
        pictures: uint8 `[H, W]` by name; at least one.
        path: PNG file to write.
        size: Height and width of the processed pictures; the centre crop keeps seven eighths of it, as 224 is of 256.

    Raises:
        ValueError: If there is no picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not pictures:
        raise ValueError("there is no picture to draw; give at least one")
    columns = 5 + len(_FILTERS)
    height = _CELL * (1 + _STRIP + 0.1) * len(pictures) + 0.75
    figure = Figure(figsize=(_CELL * columns * 1.03 + 0.5, height), facecolor=_PAPER)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        2 * len(pictures),
        columns,
        height_ratios=[1, _STRIP] * len(pictures),
        left=0.5 / figure.get_figwidth(),
        right=0.998,
        bottom=0.08 / height,
        top=1 - 0.62 / height,
        wspace=0.03,
        hspace=0.06,
    )
    for row, (name, plane) in enumerate(pictures.items()):
        for column, (title, shown, tones, frame) in enumerate(_cells(plane, size)):
            axes = figure.add_subplot(grid[2 * row, column])
            _draw_picture(axes, shown, frame)
            _draw_histogram(figure.add_subplot(grid[2 * row + 1, column]), tones)
            if row == 0:
                heading, detail = title
                axes.annotate(heading, (0.5, 1), (0, 18), **_above(_INK, 10.5, "bold"))
                axes.annotate(detail, (0.5, 1), (0, 5), **_above(_QUIET, 8.5))
            if column == 0:
                label = f"{name}\n{plane.shape[1]} x {plane.shape[0]} px"
                axes.set_ylabel(label, color=_INK, fontsize=9, labelpad=8)
    figure.savefig(path, dpi=150, facecolor=_PAPER)


def _cells(plane: np.ndarray, size: int) -> list[_Cell]:
    square = {"height": size, "width": size}
    kept = size * 7 // 8
    squash = MuraImageProcessor(size=square, resize_mode="squash")
    letterbox = MuraImageProcessor(
        size=square, crop_border=True, do_center_crop=True, crop_size={"height": kept, "width": kept}
    )
    field = x0, y0, x1, y1 = letterbox.find_field(plane)
    squashed, boxed = squash.prepare_plane(plane), letterbox.prepare_plane(plane, crop_border=False)
    inside = letterbox.prepare_mask(np.full_like(plane, 255), (0, 0, *plane.shape[::-1])) > 0
    start = (size - kept) // 2
    middle = (start, start, start + kept, start + kept)
    cells: list[_Cell] = [
        (("Original", "as the file has it"), plane, plane, None),
        (("Squash", f"{size} x {size}"), squashed, squashed, None),
        (("Letterbox", f"{size} x {size}"), boxed, boxed[inside], None),
        (("Border crop", "only the frame is kept"), plane, plane[y0:y1, x0:x1], field),
        (("Centre crop", f"{kept} of {size}"), boxed, letterbox.center_crop(boxed), middle),
    ]
    for title, names in _FILTERS.items():
        processor = MuraImageProcessor(size=square, enhance=names)
        enhanced = processor.prepare_plane(plane)
        detail = _describe(processor.enhance[0]) if len(names) == 1 else "a list runs in its order"
        cells.append(((title, detail), enhanced, enhanced[inside], None))
    return cells


def _describe(chosen: Mapping[str, Any]) -> str:
    return {
        "clahe": "clip limit {clip_limit:g}, {tiles} x {tiles} tiles",
        "high_frequency_emphasis": "cutoff {cutoff:g}, gain {low:g} to {high:g}",
        "unsharp": "radius {radius:g} px, amount {amount:g}",
    }[chosen["name"]].format(**chosen)


def _draw_picture(axes: Any, shown: np.ndarray, frame: tuple[int, int, int, int] | None) -> None:
    from matplotlib.patches import Rectangle

    height, width = shown.shape
    if frame is not None:
        x0, y0, x1, y1 = frame
        dimmed = (shown * _DIMMED).astype(np.uint8)
        dimmed[y0:y1, x0:x1] = shown[y0:y1, x0:x1]
        shown = dimmed
    axes.imshow(shown, cmap="gray", vmin=0, vmax=255, interpolation="antialiased")
    if frame is not None:
        # A pixel's middle has whole coordinates here, so its edge lies half a pixel before.
        outline = Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor=_ACCENT, linewidth=1.4)
        outline.set_clip_on(False)
        axes.add_patch(outline)
    # Every cell is as large as the longer side, so that shapes can be compared along a row.
    middle, half = ((width - 1) / 2, (height - 1) / 2), max(shown.shape) / 2
    axes.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] + half, middle[1] - half), facecolor=_PAPER)
    _bare(axes)


def _draw_histogram(axes: Any, tones: np.ndarray) -> None:
    counts, _ = np.histogram(tones, bins=64, range=(0, 256))
    # The background would dwarf the bones, so a bin is cut off at three times the ninth decile.
    counts = np.minimum(counts, 3 * max(1.0, float(np.quantile(counts, 0.9))))
    axes.fill_between(np.arange(64), counts / counts.max(), step="mid", color=_QUIET, linewidth=0)
    axes.set(xlim=(-0.5, 63.5), ylim=(0, 1.02), facecolor=_PAPER)
    _bare(axes)


def _bare(axes: Any) -> None:
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _above(color: str, size: float, weight: str = "normal") -> dict[str, Any]:
    return {
        "xycoords": "axes fraction",
        "textcoords": "offset points",
        "ha": "center",
        "va": "bottom",
        "color": color,
        "fontsize": size,
        "fontweight": weight,
    }


PHANTOMS = {"wrist": 3, "hand": 5, "elbow": 8}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", help="radiographs, a row each")
    parser.add_argument("--output", default="preprocessing.png", help="PNG file to write")
    parser.add_argument("--size", type=int, default=320, help="pixels a side of the processed pictures")
    options = parser.parse_args()
    pictures = {Path(file).stem: read_radiograph(file).to_uint8() for file in options.files}
    if not pictures:
        pictures = {f"phantom {part}": render_phantom(seed, body_part=part).pixels for part, seed in PHANTOMS.items()}
    draw_preprocessing(pictures, options.output, size=options.size)
    print(f"Preprocessing: {options.output}")


if __name__ == "__main__":
    try:
        main()
    except MuraError as error:
        raise SystemExit(str(error)) from None
