"""Rows to look at, and the files of their views."""

from typing import Any

import numpy as np


def spread(n: int, most: int) -> np.ndarray:
    """Places in `range(n)`, at most so many, spread evenly: int64, each once and in order."""
    return np.unique(np.linspace(0, n - 1, min(most, n)).astype(int))


def file_of(image: dict[str, Any]) -> Any:
    """What a reader takes of a view that is not decoded: its path, or its content where it has none.

    Args:
        image: Of the column `image`, cast to `Image(decode=False)`.
    """
    return image["path"] if image["bytes"] is None else image["bytes"]
