"""Filters that make a radiograph's detail easier to see, by name and with settings that travel in the checkpoint.

Each takes a gray plane, uint8 `[H, W]`, and gives one back; the same picture gives the same bits every time. The
frequency-domain filter rounds floating point, so that another machine may differ by one level in a few pixels.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

try:
    import cv2
except ImportError:  # only CLAHE needs it, and transformers with timm alone do not bring it
    cv2 = None  # type: ignore[assignment]

CLAHE_SPACES = ("gray", "lab")


@dataclass(frozen=True)
class Setting:
    """One setting of a filter.

    Attributes:
        default: Its value where none is given; its type is the setting's.
        low: Least value of a number.
        high: Greatest value of a number.
        above: Whether the number must be greater than `low`, which is then not allowed itself.
        choices: What a text may be.
    """

    default: float | int | str
    low: float = 0.0
    high: float = 0.0
    above: bool = False
    choices: tuple[str, ...] = ()

    def check(self, value: Any, label: str) -> Any:
        """Gives the value back as the setting's type.

        Raises:
            ValueError: If it is none of the choices, not of the type, or out of range.
        """
        if self.choices:
            if value not in self.choices:
                raise ValueError(f"{label} is {value!r}: it must be one of {', '.join(self.choices)}")
            return value
        whole = isinstance(self.default, int)
        if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
            raise ValueError(f"{label} is {value!r}: it must be a {'whole number' if whole else 'number'}")
        number: float = int(value) if isinstance(value, Integral) and whole else float(value)
        if not (self.low < number if self.above else self.low <= number) or not number <= self.high:  # also NaN
            least = "above" if self.above else "from"
            raise ValueError(f"{label} is {value}: it must be {least} {self.low:g} and up to {self.high:g}")
        return number


def clahe(plane: np.ndarray, *, space: str, clip_limit: float, tiles: int) -> np.ndarray:
    """Contrast-limited adaptive histogram equalisation: each tile's histogram is made even, as far as the limit lets.

    In LAB the plane becomes gray RGB, L alone is equalised, and the way back ends with the luminance that
    `gray_plane` takes of any colour picture, since OpenCV's own way back leaves the channels one level apart.

    Args:
        plane: uint8 `[H, W]`.
        space: `"gray"` or `"lab"`.
        clip_limit: Most pixels a histogram bin may hold, in multiples of an even histogram's.
        tiles: Tiles along each side.

    Returns:
        uint8 `[H, W]`.

    Source:
        Zuiderveld, "Contrast Limited Adaptive Histogram Equalization", Graphics Gems IV (1994), pages 474-485, as
        OpenCV computes it.
    """
    equalizer = cv2.createCLAHE(clipLimit=clip_limit, tileGridSize=(tiles, tiles))
    if space == "gray":
        return equalizer.apply(plane)
    lab = cv2.cvtColor(np.repeat(plane[..., None], 3, axis=2), cv2.COLOR_RGB2LAB)
    lab[..., 0] = equalizer.apply(np.ascontiguousarray(lab[..., 0]))
    return np.asarray(Image.fromarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)).convert("L"))


def high_frequency_emphasis(plane: np.ndarray, *, cutoff: float, low: float, high: float) -> np.ndarray:
    """High-frequency emphasis, k1 + k2 (1 - exp(-f^2 / (2 cutoff^2))), in the frequency domain.

    `low` is the gain of an even tone, k1; `high` that of the finest detail, k1 + k2. Below 1, `low` darkens the whole
    picture; Gonzalez & Woods therefore let histogram equalisation follow, here `"clahe_gray"` after it in the list.
    The picture is mirrored at its edges before the transform, so that opposite edges do not bleed into each other.

    Args:
        plane: uint8 `[H, W]`.
        cutoff: The Gaussian's frequency in cycles a pixel, that is, as a share of the sampling rate (.5 is the finest
            detail that pixels can show). It means the same detail at every size of picture.
        low: Gain of frequency 0.
        high: Gain far above the cutoff.

    Returns:
        uint8 `[H, W]`, rounded and cut off at 0 and 255.

    Source:
        Gonzalez & Woods, Digital Image Processing, 4th edition, section 4.9, "Unsharp masking, high-boost filtering,
        and high-frequency-emphasis filtering"; the defaults are those of its chest radiograph (k1 .5, k2 .75).
    """
    height, width = plane.shape
    mirrored = np.pad(plane.astype(np.float32), ((0, height), (0, width)), mode="symmetric")
    # A Gaussian of both frequencies is the product of one for each, which spares most of the exponentials.
    down, across = (
        np.exp(frequencies**2 / (-2 * cutoff**2)).astype(np.float32)
        for frequencies in (np.fft.fftfreq(2 * height), np.fft.rfftfreq(2 * width))
    )
    spectrum = np.fft.rfft2(mirrored)
    spectrum *= np.float32(high) - np.float32(high - low) * down[:, None] * across
    filtered = np.fft.irfft2(spectrum, s=mirrored.shape)[:height, :width]
    return np.rint(np.clip(filtered, 0, 255)).astype(np.uint8)


def unsharp(plane: np.ndarray, *, radius: float, amount: float, threshold: int) -> np.ndarray:
    """Unsharp masking: what a Gaussian blur takes away is added once more, `amount` times.

    Args:
        plane: uint8 `[H, W]`.
        radius: Standard deviation of the blur in pixels of the processed picture.
        amount: Share of the difference that is added; Pillow counts in hundredths.
        threshold: Differences of fewer levels are left alone, which spares noise.

    Returns:
        uint8 `[H, W]`.

    Source:
        Gonzalez & Woods, Digital Image Processing, 4th edition, section 3.6, "Unsharp masking and highboost
        filtering", as Pillow's `ImageFilter.UnsharpMask` computes it.
    """
    sharpener = ImageFilter.UnsharpMask(radius=radius, percent=round(100 * amount), threshold=threshold)
    return np.asarray(Image.fromarray(plane).filter(sharpener))


_FILTERS: dict[str, tuple[Callable[..., np.ndarray], dict[str, Setting]]] = {
    "clahe": (
        clahe,
        {
            "space": Setting("lab", choices=CLAHE_SPACES),
            "clip_limit": Setting(2.0, low=0, high=100, above=True),
            "tiles": Setting(8, low=1, high=64),
        },
    ),
    "high_frequency_emphasis": (
        high_frequency_emphasis,
        {
            "cutoff": Setting(0.05, low=0, high=0.5, above=True),
            "low": Setting(0.5, low=0, high=10),
            "high": Setting(1.25, low=0, high=10, above=True),
        },
    ),
    "unsharp": (
        unsharp,
        {
            "radius": Setting(2.0, low=0, high=100, above=True),
            "amount": Setting(1.0, low=0.01, high=10),
            "threshold": Setting(0, low=0, high=255),
        },
    ),
}
_SHORT = {"clahe_lab": ("clahe", {"space": "lab"}), "clahe_gray": ("clahe", {"space": "gray"})}


def complete_filters(enhance: Any) -> list[dict[str, Any]]:
    """Writes out a choice of filters, so that a saved checkpoint depends on no default.

    Args:
        enhance: None, a name, a dict of a name and settings, or a list of these in the order of their use. Names are
            `"clahe"`, `"clahe_lab"`, `"clahe_gray"`, `"high_frequency_emphasis"` and `"unsharp"`; settings are the
            arguments of the functions of this module.

    Returns:
        A dict for each filter, with its name and every setting.

    Raises:
        ValueError: If a filter or a setting is unknown, or a value out of range.
        ImportError: If a filter needs OpenCV and it is not installed.
    """
    if enhance is None:
        return []
    if isinstance(enhance, str | Mapping):
        enhance = [enhance]
    if not isinstance(enhance, Iterable):
        raise ValueError(f"enhance is {enhance!r}: it must be a filter's name, a dict with its settings, or a list")
    return [_complete(chosen) for chosen in enhance]


def apply_filters(plane: np.ndarray, filters: Iterable[Mapping[str, Any]]) -> np.ndarray:
    """Runs filters, as `complete_filters` gives them, one after another over a gray plane, uint8 `[H, W]`."""
    for chosen in filters:
        settings = {name: value for name, value in chosen.items() if name != "name"}
        plane = _FILTERS[chosen["name"]][0](plane, **settings)
    return plane


def _complete(chosen: Any) -> dict[str, Any]:
    given = {"name": chosen} if isinstance(chosen, str) else chosen
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        raise ValueError(f"enhance holds {chosen!r}: a filter is a name, or a dict with a name and settings")
    name, fixed = _SHORT.get(given["name"], (given["name"], {}))
    if name not in _FILTERS:
        raise ValueError(f"enhance knows no filter {name!r}{_nearest(name, [*_FILTERS, *_SHORT])}")
    settings = _FILTERS[name][1]
    for key in given:
        if key != "name" and (key not in settings or key in fixed):
            others = [other for other in settings if other not in fixed]
            raise ValueError(f"the filter {given['name']} has no setting {key!r}{_nearest(str(key), others)}")
    given = {**fixed, **given}
    values = {
        key: setting.check(given.get(key, setting.default), f"{name}'s {key}") for key, setting in settings.items()
    }
    if name == "high_frequency_emphasis" and not values["high"] > values["low"]:
        raise ValueError(f"{name}'s high is {values['high']}: it must be above low, {values['low']}")
    if name == "clahe" and cv2 is None:
        raise ImportError("enhance asks for CLAHE, which needs OpenCV: pip install opencv-python-headless")
    return {"name": name, **values}


def _nearest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"


__all__ = ["CLAHE_SPACES", "apply_filters", "clahe", "complete_filters", "high_frequency_emphasis", "unsharp"]
