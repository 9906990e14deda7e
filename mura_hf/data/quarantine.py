"""The quarantine manifest: files of a copy of MURA that are known to be bad, and are left out with a word."""

import csv
import os
from pathlib import Path

from ..errors import DatasetError

QUARANTINE_FILE = "quarantine.csv"
"""Lies beside MURA's own lists: a header, then path (from train or valid on) and reason."""

_HEADER = ["path", "reason"]


def read_quarantine(tree: Path) -> dict[str, str]:
    """Path from the split on -> reason; empty where there is no manifest.

    Raises:
        DatasetError: If the manifest is damaged; to go on without it would let bad files in.
    """
    file = tree / QUARANTINE_FILE
    if not file.exists():
        return {}
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            header, *rows = list(csv.reader(lines)) or [[]]
        if header != _HEADER or any(len(row) != len(_HEADER) for row in rows):
            raise ValueError("expected the columns path and reason")
    except (OSError, ValueError, csv.Error) as error:
        raise DatasetError(f"{file} cannot be used ({error}); write it again with scripts/verify_mura.py") from error
    return {path.removeprefix("MURA-v1.1/"): reason for path, reason in rows}


def write_quarantine(tree: Path, reasons: dict[str, str]) -> Path | None:
    """Puts a new manifest in the place of an old one, whole or not at all; with nothing to quarantine there is none.

    Args:
        tree: The folder with MURA's lists.
        reasons: Path from the split on -> reason.

    Raises:
        DatasetError: If it cannot be written.
    """
    file = tree / QUARANTINE_FILE
    try:
        if not reasons:
            file.unlink(missing_ok=True)
            return None
        fresh = file.with_name(f".{file.name}.{os.getpid()}")
        with fresh.open("w", newline="", encoding="utf-8") as lines:
            csv.writer(lines, lineterminator="\n").writerows([_HEADER, *sorted(reasons.items())])
            lines.flush()
            os.fsync(lines.fileno())
        os.replace(fresh, file)
    except OSError as error:
        raise DatasetError(f"{file} cannot be written ({error.strerror}); make the folder writable") from error
    return file
