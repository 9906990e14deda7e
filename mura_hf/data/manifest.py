"""Who was in which split, as keyed hashes: enough to prove that two sets share no patient, too little to name one.

A plain hash of "patient00042" is undone by trying all numbers. An HMAC (RFC 2104) needs the key, which stays on this
machine; only a digest of the splits travels with a checkpoint.
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
    """Patients of each split, hashed.

    Attributes:
        key_id: Tells keys apart without giving them away; manifests of different keys cannot be compared.
        splits: Split -> hashes of its patients, in hexadecimal.
    """

    key_id: str
    splits: dict[str, frozenset[str]]

    def shared_with(self, other: "SplitManifest") -> dict[tuple[str, str], int]:
        """Counts the patients that each pair of splits shares, (own split, other's) -> number above 0.

        With itself, the pairs of different splits are compared.

        Raises:
            DatasetError: If the keys differ.
        """
        if self.key_id != other.key_id:
            raise DatasetError(
                "the two manifests were written with different keys, so that nobody can compare them; write both on "
                f"one machine, or copy its {KEY_FILE} first"
            )
        pairs = [
            (mine, theirs) for mine in self.splits for theirs in other.splits if other is not self or mine < theirs
        ]
        counts = {(mine, theirs): len(self.splits[mine] & other.splits[theirs]) for mine, theirs in pairs}
        return {pair: count for pair, count in counts.items() if count}


def make_manifest(members: Iterable[tuple[str, str]], source: str, key: bytes | None = None) -> SplitManifest:
    """Hashes who is where.

    Args:
        members: (split, patient) pairs, repeats allowed.
        source: Name of the data that the patients belong to; the same number in other data is another patient.
        key: At least 16 bytes; this machine's own where None.
    """
    key = key or _machine_key()
    splits: dict[str, set[str]] = {}
    for split, patient in sorted(set(members)):
        splits.setdefault(split, set()).add(hmac.new(key, f"{source}\0{patient}".encode(), hashlib.sha256).hexdigest())
    return SplitManifest(_key_id(key), {split: frozenset(hashes) for split, hashes in splits.items()})


def manifest_source(description: Mapping[str, Any]) -> str:
    """What a manifest calls data, from their description in `training.json`; phantoms are told apart by how they were
    made.
    """
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
    """Reads a manifest.

    Raises:
        DatasetError: If it is none.
    """
    try:
        record = json.loads(Path(file).read_text())
        if record["algorithm"] != _ALGORITHM:
            raise ValueError(f"its algorithm is {record['algorithm']}")
        splits: Mapping[str, list[str]] = record["splits"]
        return SplitManifest(str(record["key_id"]), {split: frozenset(hashes) for split, hashes in splits.items()})
    except OSError as error:
        raise DatasetError(f"{file} cannot be read ({error.strerror}); training writes one beside its run") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{file} is no split manifest ({error}); training writes one beside its run") from error


def _key_id(key: bytes) -> str:
    return hashlib.sha256(b"mura_hf split key\0" + key).hexdigest()[:16]


def _machine_key() -> bytes:
    """The key of this machine, made when it is first wanted; only its owner may read it."""
    file = home_folder() / KEY_FILE
    if not file.exists():
        fresh = file.with_name(f"{KEY_FILE}.{os.getpid()}")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(secrets.token_hex(32).encode())
        try:
            os.link(fresh, file)  # unlike a rename, it never takes the place of one that another process made
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    key = file.read_bytes()
    if len(key) < 16:
        raise DatasetError(f"{file} is damaged; remove it, and manifests written with it cannot be compared any more")
    return key
