"""How a phantom's film was exposed and developed: the ranges that each film draws its own values from."""

from dataclasses import dataclass

Range = tuple[float, float]


@dataclass(frozen=True)
class Exposure:
    """A way to expose films; each value is a lowest and a highest one.

    Attributes:
        scatter: Share of scattered light.
        grain: Deviation of the quantum noise where nothing stands in the beam.
        grain_size: Deviation of the Gauss that blurs the noise, in pixels.
        blur: Deviation of the Gauss that blurs the film, in pixels.
        floor: Share of the window that stays black at its lower end.
        ceiling: Where the window ends, in units of the densest bone.
        gamma: Exponent of the display values; above 1 the film is darker.
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
"""Ways to expose by name. Default trees are all "standard"; "underexposed" has few quanta, much scatter, and is
grainier, softer and darker than any of them.
"""
