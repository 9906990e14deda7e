"""Split manifests: keyed hashes of the patients of each split, which prove that two splits share no patient.

A plain hash of "patient00042" could be reversed by trying all numbers. An HMAC (RFC 2104) needs a key, which never
leaves this machine. Only a digest of the splits is published with a checkpoint.
"""

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common import home_folder
from ..errors import DatasetError

KEY_FILE = "split.key"
_ALGORITHM = "HMAC-SHA256"


@dataclass(frozen=True)
class SplitManifest:
    """Hashed patients of each split."""

    key_id: str  # identifies the key without revealing it
    splits: dict[str, frozenset[str]]  # split -> hexadecimal hashes of its patients

    def shared_with(self, other: "SplitManifest") -> dict[tuple[str, str], int]:
        """Returns the number of shared patients for each pair of splits that shares any.

        Args:
            other: Another manifest, or the same one to compare its different splits.

        Raises:
            DatasetError: If the keys differ.
        """
        if self.key_id != other.key_id:
            raise DatasetError(
                "the two manifests were written with different keys, so they cannot be compared; write both on one "
                f"machine, or copy its {KEY_FILE} first"
            )
        pairs = [(own, their) for own in self.splits for their in other.splits if other is not self or own < their]
        counts = {(own, their): len(self.splits[own] & other.splits[their]) for own, their in pairs}
        return {pair: count for pair, count in counts.items() if count}


def make_manifest(members: Iterable[tuple[str, str]], source: str, key: bytes | None = None) -> SplitManifest:
    """Hashes the patients of splits.

    Args:
        members: (split, patient) pairs, with or without repetitions.
        source: Name of the dataset. The same id in another dataset is another patient.
        key: At least 16 bytes. Defaults to the key of this machine.

    Raises:
        DatasetError: If the key of this machine is damaged.
    """
    key = key or _machine_key()
    splits: dict[str, set[str]] = {}
    for split, patient in set(members):
        splits.setdefault(split, set()).add(hmac.new(key, f"{source}\0{patient}".encode(), hashlib.sha256).hexdigest())
    key_id = hashlib.sha256(b"mura_hf split key\0" + key).hexdigest()[:16]
    return SplitManifest(key_id, {split: frozenset(splits[split]) for split in sorted(splits)})


def manifest_source(description: Mapping[str, Any]) -> str:
    """Returns the name of a dataset, with the settings of synthetic data, from the `data` block of training.json."""
    made_with = description.get("made_with")
    return description["name"] + (json.dumps(made_with, sort_keys=True) if made_with else "")


def write_manifest(manifest: SplitManifest, file: str | Path) -> None:
    """Writes a manifest as JSON."""
    record = {
        "algorithm": _ALGORITHM,
        "key_id": manifest.key_id,
        "splits": {split: sorted(hashes) for split, hashes in manifest.splits.items()},
    }
    Path(file).write_text(json.dumps(record, indent=1) + "\n")


def read_manifest(file: str | Path) -> SplitManifest:
    """Reads a manifest. Raises `DatasetError` if the file is not one."""
    try:
        record = json.loads(Path(file).read_text())
        if record["algorithm"] != _ALGORITHM:
            raise ValueError(f"its algorithm is {record['algorithm']}")
        splits = {split: frozenset(hashes) for split, hashes in record["splits"].items()}
        return SplitManifest(str(record["key_id"]), splits)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problem = "cannot be read" if isinstance(error, OSError) else "is not a split manifest"
        raise DatasetError(f"{file} {problem} ({error}); training writes one into its output folder") from error


def _machine_key() -> bytes:
    """Returns the key of this machine. It is created on first use, readable by its owner only."""
    file = home_folder() / KEY_FILE
    if not file.exists():
        fresh = file.with_name(f"{KEY_FILE}.{os.getpid()}")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(secrets.token_hex(32).encode())
        try:
            os.link(fresh, file)  # unlike a rename, a link never replaces the key of another process
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    key = file.read_bytes()
    if len(key) < 16:
        raise DatasetError(f"{file} is damaged; remove it. Manifests written with it can no longer be compared.")
    return key
