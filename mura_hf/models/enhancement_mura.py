"""Filters that enhance the detail of a radiograph. Their settings are stored in the checkpoint.

Each filter takes and returns a gray plane, uint8 `[H, W]`, and is deterministic. The frequency-domain filter rounds
floating-point values, so another machine may differ by one level in a few pixels.
"""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

try:
    import cv2
except ImportError:  # only CLAHE needs it, and transformers and timm do not require it
    cv2 = None  # type: ignore[assignment]


def clahe(plane: np.ndarray, *, space: str = "lab", clip_limit: float = 2.0, tiles: int = 8) -> np.ndarray:
    """Contrast-limited adaptive histogram equalization.

    In LAB, the plane is converted to gray RGB, and only L is equalized. The result is the luminance of the RGB image,
    because OpenCV converts back to channels which may differ by one level. Source: Zuiderveld, "Contrast Limited
    Adaptive Histogram Equalization", Graphics Gems IV (1994), pages 474-485, as OpenCV computes it.

    Args:
        plane: uint8 `[H, W]`.
        space: `"gray"` or `"lab"`.
        clip_limit: Maximum of a histogram bin, as a multiple of that of a uniform histogram.
        tiles: Tiles along each side.
    """
    equalizer = cv2.createCLAHE(clipLimit=clip_limit, tileGridSize=(tiles, tiles))
    if space == "gray":
        return equalizer.apply(plane)
    lab = cv2.cvtColor(np.repeat(plane[..., None], 3, axis=2), cv2.COLOR_RGB2LAB)
    lab[..., 0] = equalizer.apply(np.ascontiguousarray(lab[..., 0]))
    return np.asarray(Image.fromarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)).convert("L"))


def high_frequency_emphasis(
    plane: np.ndarray, *, cutoff: float = 0.05, low: float = 0.5, high: float = 1.25
) -> np.ndarray:
    """High-frequency emphasis, k1 + k2 (1 - exp(-f^2 / (2 cutoff^2))), in the frequency domain.

    `low` is k1, the gain of a uniform tone; `high` is k1 + k2, the gain of the finest detail. A `low` below 1 darkens
    the image, so Gonzalez & Woods equalize the histogram afterwards; here, put `"clahe_gray"` after this filter. The
    plane is mirrored at its edges before the transform, so that opposite edges do not influence each other. Source:
    Gonzalez & Woods, Digital Image Processing, 4th edition, section 4.9, "Unsharp masking, high-boost filtering, and
    high-frequency-emphasis filtering"; the defaults are those of its chest radiograph (k1 .5, k2 .75).

    Args:
        plane: uint8 `[H, W]`.
        cutoff: Standard deviation of the Gaussian in cycles per pixel (.5 is the finest detail that pixels can show).
            It means the same detail for every image size.
        low: Gain of frequency 0.
        high: Gain far above the cutoff.
    """
    height, width = plane.shape
    mirrored = np.pad(plane.astype(np.float32), ((0, height), (0, width)), mode="symmetric")
    # A 2-D Gaussian is the product of two 1-D ones, which saves most of the exponentials.
    down, across = (
        np.exp(frequencies**2 / (-2 * cutoff**2)).astype(np.float32)
        for frequencies in (np.fft.fftfreq(2 * height), np.fft.rfftfreq(2 * width))
    )
    spectrum = np.fft.rfft2(mirrored)
    spectrum *= np.float32(high) - np.float32(high - low) * down[:, None] * across
    filtered = np.fft.irfft2(spectrum, s=mirrored.shape)[:height, :width]
    return np.rint(np.clip(filtered, 0, 255)).astype(np.uint8)


def unsharp(plane: np.ndarray, *, radius: float = 2.0, amount: float = 1.0, threshold: int = 0) -> np.ndarray:
    """Unsharp masking: adds the difference from a Gaussian blur.

    Source: Gonzalez & Woods, Digital Image Processing, 4th edition, section 3.6, "Unsharp masking and highboost
    filtering", as Pillow's `ImageFilter.UnsharpMask` computes it.

    Args:
        plane: uint8 `[H, W]`.
        radius: Standard deviation of the blur in pixels of the processed image.
        amount: Factor of the added difference; Pillow rounds it to hundredths.
        threshold: Smaller differences, in gray levels, are not added, which avoids noise.
    """
    sharpener = ImageFilter.UnsharpMask(radius=radius, percent=round(100 * amount), threshold=threshold)
    return np.asarray(Image.fromarray(plane).filter(sharpener))


_FILTERS: dict[str, Callable[..., np.ndarray]] = {
    "clahe": clahe,
    "high_frequency_emphasis": high_frequency_emphasis,
    "unsharp": unsharp,
}
_RANGES = {
    "clip_limit": (0.001, 100),
    "tiles": (1, 64),
    "cutoff": (0.001, 0.5),
    "low": (0, 10),
    "high": (0.001, 10),
    "radius": (0.001, 100),
    "amount": (0.01, 10),
    "threshold": (0, 255),
}
_ALIASES = {"clahe_lab": ("clahe", {"space": "lab"}), "clahe_gray": ("clahe", {"space": "gray"})}


def complete_filters(enhance: Any) -> list[dict[str, Any]]:
    """Adds the default settings to a choice of filters, so that a saved checkpoint keeps its settings
    if the defaults change.

    Args:
        enhance: None, a name, a dict of a name and settings, or a list of these in the order of their use. Names are
            `"clahe"`, `"clahe_lab"`, `"clahe_gray"`, `"high_frequency_emphasis"` and `"unsharp"`; settings are the
            arguments of the functions of this module.

    Raises:
        ValueError: If a filter or a setting is unknown, or a value is out of range.
        ImportError: If a filter needs OpenCV and it is not installed.
    """
    if enhance is None:
        return []
    if isinstance(enhance, str | Mapping):
        enhance = [enhance]
    if not isinstance(enhance, Iterable):
        raise ValueError(f"enhance is {enhance!r}: it must be a filter's name, a dict with its settings, or a list")
    return [_complete(filter_) for filter_ in enhance]


def apply_filters(plane: np.ndarray, filters: Iterable[Mapping[str, Any]]) -> np.ndarray:
    """Applies filters from `complete_filters` to a gray plane, uint8 `[H, W]`, one after another."""
    for filter_ in filters:
        settings = {name: value for name, value in filter_.items() if name != "name"}
        plane = _FILTERS[filter_["name"]](plane, **settings)
    return plane


def _complete(filter_: Any) -> dict[str, Any]:
    given = {"name": filter_} if isinstance(filter_, str) else filter_
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        raise ValueError(f"enhance holds {filter_!r}: a filter is a name, or a dict with a name and settings")
    name, fixed = _ALIASES.get(given["name"], (given["name"], {}))
    if name not in _FILTERS:
        raise ValueError(f"enhance has no filter {name!r}{_suggest(name, [*_FILTERS, *_ALIASES])}")
    parameters = inspect.signature(_FILTERS[name]).parameters.values()
    defaults = {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}
    free = [key for key in defaults if key not in fixed]
    for key in given:
        if key != "name" and key not in free:
            raise ValueError(f"the filter {given['name']} has no setting {key!r}{_suggest(str(key), free)}")
    values = {
        key: _check_setting(f"{name}'s {key}", {**fixed, **given}.get(key, default), default, _RANGES.get(key))
        for key, default in defaults.items()
    }
    if name == "high_frequency_emphasis" and not values["high"] > values["low"]:
        raise ValueError(f"{name}'s high is {values['high']}: it must be above low, {values['low']}")
    if name == "clahe" and cv2 is None:
        raise ImportError("CLAHE in enhance needs OpenCV: pip install opencv-python-headless")
    return {"name": name, **values}


def _check_setting(label: str, value: Any, default: Any, limits: tuple[float, float] | None) -> Any:
    """Returns a value in the type of the default, or raises a ValueError."""
    if limits is None:
        if value not in ("gray", "lab"):
            raise ValueError(f"{label} is {value!r}: it must be gray or lab")
        return value
    whole = isinstance(default, int)
    if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
        raise ValueError(f"{label} is {value!r}: it must be a {'whole number' if whole else 'number'}")
    if not limits[0] <= value <= limits[1]:  # type: ignore[operator]  # also true for NaN
        raise ValueError(f"{label} is {value}: it must be from {limits[0]:g} to {limits[1]:g}")
    return type(default)(value)


def _suggest(name: str, known: list[str]) -> str:
    similar = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {similar[0]!r}?" if similar else f"; choose one of {', '.join(known)}"
