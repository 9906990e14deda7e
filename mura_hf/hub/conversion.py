"""What became of each weight of a file that was converted."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .state_dicts import bare_name

BODY = "mura.backbone."
"""What stands in front of a backbone's weights in a checkpoint."""

COUNTER = "num_batches_tracked"
"""Of batch norms: counts training steps, and no answer depends on it."""


@dataclass(frozen=True)
class ConvertedKey:
    """What became of one weight.

    Attributes:
        source: Its name in the file; None for what the file does not have.
        target: Its name in the checkpoint; None where it was left out.
        note: How it was changed, or why it was left out or added; empty where it was taken as it is.
    """

    source: str | None
    target: str | None
    note: str = ""


@dataclass(frozen=True)
class Conversion:
    """A checkpoint made from someone else's weights.

    Attributes:
        folder: Of the checkpoint.
        architecture: timm's name of it.
        keys: One for each weight in the file, in its order, and for each that the file does not have.
    """

    folder: Path
    architecture: str
    keys: list[ConvertedKey] = field(default_factory=list)

    @property
    def left_out(self) -> list[ConvertedKey]:
        """What is in the file and not in the checkpoint."""
        return [key for key in self.keys if key.target is None]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {"architecture": self.architecture, "keys": [asdict(key) for key in self.keys]}

    def describe(self) -> str:
        """A line for each group of weights, for each that was changed by itself, and for each that was left out."""
        plain = [key for key in self.keys if key.target is not None and key.source is not None and not key.note]
        groups = Counter((_group(key.source or ""), _group((key.target or "").removeprefix(BODY))) for key in plain)
        lines = [f"{count:5d}  {source} -> {BODY}{target}" for (source, target), count in groups.items()]
        counters = sum(key.source is None and (key.target or "").endswith(COUNTER) for key in self.keys)
        if counters:
            lines.append(f"{counters:5d}  ({COUNTER}, not in the file) -> 0")
        for key in self.keys:
            if key.note and not (key.source is None and (key.target or "").endswith(COUNTER)):
                lines.append(f"    1  {key.source or '(not in the file)'} -> {key.target or 'left out'}: {key.note}")
        return "\n".join(lines)


def _group(name: str) -> str:
    """The part of the network that a weight belongs to."""
    return ".".join(bare_name(name).split(".")[:-1][:2])
