"""Draws what each option of the image processor does to radiographs, or to phantoms if no file is given."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mura_hf import read_radiograph
from mura_hf.errors import MuraError
from mura_hf.models import MuraImageProcessor
from mura_hf.phantoms import render_phantom

_BACKGROUND, _TEXT, _GRAY, _ACCENT = "#14171c", "#f2f2f2", "#9aa4b2", "#ffb000"
_FILTERS: dict[str, tuple[str, ...]] = {
    "CLAHE on LAB": ("clahe_lab",),
    "CLAHE on gray": ("clahe_gray",),
    "High-frequency emphasis": ("high_frequency_emphasis",),
    "Emphasis, then CLAHE": ("high_frequency_emphasis", "clahe_gray"),
    "Unsharp masking": ("unsharp",),
}
_CELL = 2.2  # inches
_STRIP = 0.16  # height of a histogram, in cells
_DIMMED = 0.35  # brightness of what lies outside a frame

_Cell = tuple[tuple[str, str], np.ndarray, np.ndarray, tuple[int, int, int, int] | None]
"""Heading and detail of a column, the image, the pixels of its histogram, and a frame x0, y0, x1, y1 or None."""


def draw_preprocessing(images: Mapping[str, np.ndarray], path: str | Path, *, size: int = 320) -> None:
    """Draws a row for each image and a column for each option: the original, squash, letterbox, center crop,
    each filter with its default settings, and a list of two filters.

    The histogram of gray values below each image leaves out the bars of the letterbox.

    Args:
        images: Name -> uint8 `[H, W]`; at least one.
        path: PNG file to write.
        size: Height and width of the processed images. The center crop keeps 7 / 8 of it, like 224 of 256.

    Raises:
        ValueError: If there is no image.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not images:
        raise ValueError("there is no image to draw; give at least one")
    columns = 4 + len(_FILTERS)
    height = _CELL * (1 + _STRIP + 0.1) * len(images) + 0.75
    figure = Figure(figsize=(_CELL * columns * 1.03 + 0.5, height), facecolor=_BACKGROUND)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        2 * len(images),
        columns,
        height_ratios=[1, _STRIP] * len(images),
        left=0.5 / figure.get_figwidth(),
        right=0.998,
        bottom=0.08 / height,
        top=1 - 0.62 / height,
        wspace=0.03,
        hspace=0.06,
    )
    for row, (name, plane) in enumerate(images.items()):
        for column, (title, shown, tones, frame) in enumerate(_cells(plane, size)):
            axes = figure.add_subplot(grid[2 * row, column])
            _draw_image(axes, shown, frame)
            _draw_histogram(figure.add_subplot(grid[2 * row + 1, column]), tones)
            if row == 0:
                heading, detail = title
                axes.annotate(heading, (0.5, 1), (0, 18), **_above(_TEXT, 10.5, "bold"))
                axes.annotate(detail, (0.5, 1), (0, 5), **_above(_GRAY, 8.5))
            if column == 0:
                label = f"{name}\n{plane.shape[1]} x {plane.shape[0]} px"
                axes.set_ylabel(label, color=_TEXT, fontsize=9, labelpad=8)
    figure.savefig(path, dpi=150, facecolor=_BACKGROUND)


def _cells(plane: np.ndarray, size: int) -> list[_Cell]:
    square = {"height": size, "width": size}
    kept = size * 7 // 8
    squash = MuraImageProcessor(size=square, resize_mode="squash")
    letterbox = MuraImageProcessor(size=square, do_center_crop=True, crop_size={"height": kept, "width": kept})
    squashed, boxed = squash.prepare_plane(plane), letterbox.prepare_plane(plane)
    inside = letterbox.prepare_mask(np.full_like(plane, 255)) > 0
    start = (size - kept) // 2
    middle = (start, start, start + kept, start + kept)
    cells: list[_Cell] = [
        (("Original", "as in the file"), plane, plane, None),
        (("Squash", f"{size} x {size}"), squashed, squashed, None),
        (("Letterbox", f"{size} x {size}"), boxed, boxed[inside], None),
        (("Center crop", f"{kept} of {size}"), boxed, letterbox.center_crop(boxed), middle),
    ]
    for title, names in _FILTERS.items():
        processor = MuraImageProcessor(size=square, enhance=names)
        enhanced = processor.prepare_plane(plane)
        detail = _describe(processor.enhance[0]) if len(names) == 1 else "filters in order"
        cells.append(((title, detail), enhanced, enhanced[inside], None))
    return cells


def _describe(chosen: Mapping[str, Any]) -> str:
    return {
        "clahe": "clip limit {clip_limit:g}, {tiles} x {tiles} tiles",
        "high_frequency_emphasis": "cutoff {cutoff:g}, gain {low:g} to {high:g}",
        "unsharp": "radius {radius:g} px, amount {amount:g}",
    }[chosen["name"]].format(**chosen)


def _draw_image(axes: Any, shown: np.ndarray, frame: tuple[int, int, int, int] | None) -> None:
    from matplotlib.patches import Rectangle

    height, width = shown.shape
    if frame is not None:
        x0, y0, x1, y1 = frame
        dimmed = (shown * _DIMMED).astype(np.uint8)
        dimmed[y0:y1, x0:x1] = shown[y0:y1, x0:x1]
        shown = dimmed
    axes.imshow(shown, cmap="gray", vmin=0, vmax=255, interpolation="antialiased")
    if frame is not None:
        # The center of a pixel has integer coordinates, so its edge lies half a pixel before.
        outline = Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor=_ACCENT, linewidth=1.4)
        outline.set_clip_on(False)
        axes.add_patch(outline)
    # Every cell has the size of the longer side, so that shapes can be compared along a row.
    middle, half = ((width - 1) / 2, (height - 1) / 2), max(shown.shape) / 2
    axes.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] + half, middle[1] - half))
    axes.set_facecolor(_BACKGROUND)
    _bare(axes)


def _draw_histogram(axes: Any, tones: np.ndarray) -> None:
    counts, _ = np.histogram(tones, bins=64, range=(0, 256))
    # The background would dwarf the bones, so bins are clipped at three times the ninth decile.
    counts = np.minimum(counts, 3 * max(1.0, float(np.quantile(counts, 0.9))))
    axes.fill_between(np.arange(64), counts / counts.max(), step="mid", color=_GRAY, linewidth=0)
    axes.set(xlim=(-0.5, 63.5), ylim=(0, 1.02), facecolor=_BACKGROUND)
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


PHANTOMS = {"wrist": 3, "hand": 5, "elbow": 8}  # body part -> seed


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", help="radiographs, a row each")
    parser.add_argument("--output", default="preprocessing.png", help="PNG file to write")
    parser.add_argument("--size", type=int, default=320, help="side of the processed images in pixels")
    options = parser.parse_args(argv)
    try:
        images = {Path(file).stem: read_radiograph(file).to_uint8() for file in options.files}
    except MuraError as error:
        raise SystemExit(str(error)) from None
    if not images:
        images = {f"phantom {part}": render_phantom(seed, body_part=part).pixels for part, seed in PHANTOMS.items()}
    draw_preprocessing(images, options.output, size=options.size)
    print(f"Preprocessing: {options.output}")


if __name__ == "__main__":
    main()
