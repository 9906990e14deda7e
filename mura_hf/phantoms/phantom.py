"""`Phantom`: a synthetic radiograph with the truth about it, and its parts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BODY_PARTS = ("elbow", "finger", "forearm", "hand", "humerus", "shoulder", "wrist")


@dataclass(frozen=True)
class Phantom:
    """A synthetic radiograph.

    Attributes:
        pixels: uint8 `[H, W]`, bone bright.
        mask: bool `[H, W]`, pixels that the finding changed; all False where there is none.
        box: (x0, y0, x1, y1) around the finding in pixels, half open; None where none shows in this projection.
        body_part: One of the seven.
        finding: What is abnormal, or None.
        view: Number of the projection.
        seed: The patient's seed.
    """

    pixels: np.ndarray
    mask: np.ndarray
    box: tuple[int, int, int, int] | None
    body_part: str
    finding: str | None
    view: int
    seed: int


def random_stream(seed: int, stream: int, view: int = 0) -> np.random.Generator:
    """One of a patient's independent sources of randomness, so that switching one thing moves no other."""
    return np.random.default_rng([seed, stream, view])


def choose_body_part(
    body_part: str | None, finding: str | None, findings: Sequence[str], rng: np.random.Generator
) -> str:
    """The body part asked for, or one drawn from `rng` where None.

    Raises:
        ValueError: If the body part or the finding is unknown.
    """
    if body_part is None:
        body_part = BODY_PARTS[int(rng.integers(len(BODY_PARTS)))]
    if body_part not in BODY_PARTS:
        raise ValueError(f"unknown body part {body_part!r}; there are {', '.join(BODY_PARTS)}")
    if finding is not None and finding not in findings:
        raise ValueError(f"unknown finding {finding!r}; there are {', '.join(findings)}, or None for a normal phantom")
    return body_part


def bounding_box(change: np.ndarray, share: float) -> tuple[int, int, int, int] | None:
    """Rectangle (x0, y0, x1, y1) around what changed by at least a share of the strongest change; None where hardly
    anything did.

    Args:
        change: float32 `[H, W]`, change of attenuation, 0 or above.
        share: In [0, 1].
    """
    seen = change > max(0.03, share * float(change.max()))
    if seen.sum() < 12:
        return None
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
