"""The golden check when a checkpoint is loaded: does it answer here as it did where it was made?"""

from pathlib import Path

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache

from ..models import GOLDEN_FILE, Golden, read_golden
from .sources import HUB_TIMEOUT, Source

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
    file = _find_file(source)
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


def _find_file(source: Source) -> Path | None:
    if Path(source.location).is_dir():
        file = Path(source.location) / GOLDEN_FILE
        return file if file.is_file() else None
    cached = try_to_load_from_cache(source.location, GOLDEN_FILE, revision=source.revision)
    if isinstance(cached, str):
        return Path(cached)
    if cached is not None:  # the Hub was asked before, and has none
        return None
    try:
        return Path(hf_hub_download(source.location, GOLDEN_FILE, revision=source.revision, etag_timeout=HUB_TIMEOUT))
    except Exception:  # a check that cannot be had must not keep its checkpoint from being loaded
        return None
