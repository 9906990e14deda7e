"""The golden check when a checkpoint is loaded: does it answer here as it did where it was made?"""

import torch

from ..models import GOLDEN_FILE, Golden, read_golden
from .files import find_file
from .sources import Source

TOLERANCE = 1e-3
"""Largest difference of a logit in float32 that rounding explains."""

HALF_TOLERANCE = 0.05
"""As `TOLERANCE`, of half precision, which was measured to move logits by up to .008."""

UNREADABLE = (
    "The checkpoint's golden check cannot be read, so it is not known whether it answers here as it did where it was "
    "made."
)


def find_golden(source: Source) -> Golden | None:
    """The golden check of a checkpoint; None where it has none, or the Hub does not hand it out.

    Raises:
        ValueError: If there is one that cannot be read.
    """
    file = find_file(source, GOLDEN_FILE)
    return None if file is None else read_golden(file)


def golden_warning(difference: float, dtype: torch.dtype) -> str | None:
    """A sentence about logits that differ by more than rounding; None where they do not.

    Args:
        difference: Largest one of a logit.
        dtype: Of the weights.
    """
    if difference <= (TOLERANCE if dtype in (torch.float32, torch.float64) else HALF_TOLERANCE):
        return None
    return (
        f"The checkpoint's golden check differs by {difference:.3g}: on the picture that came with it, its logits are "
        "not those that it had where it was made, so its figures may not hold here; compare the versions of torch, "
        "transformers and timm with those on its card."
    )
