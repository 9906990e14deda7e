"""Marks by which two files of one patient are known as such, and which tell nothing else."""

import hashlib
import secrets

_BYTES = 12
MARK_LENGTH = 2 * _BYTES
"""Characters of a mark."""

_key = secrets.token_bytes(32)


def mark_patient(patient: str) -> str | None:
    """A mark of what a file calls its patient: the same for the same patient, as long as this process lives.

    A keyed hash (BLAKE2b, RFC 7693) under a key that is drawn when the process starts and never leaves it but to its
    own workers, so that a mark says nothing about who the patient is, here or anywhere else, then or later.

    Args:
        patient: As it stands in the file.

    Returns:
        Hexadecimal digits; None where the file names no patient.
    """
    told = " ".join(patient.replace("\0", " ").split())
    return hashlib.blake2b(told.encode(), key=_key, digest_size=_BYTES).hexdigest() if told else None


def mark_key() -> str:
    """The key, for a worker of this process."""
    return _key.hex()


def use_mark_key(key: str) -> None:
    """Makes this process's marks those of the process whose worker it is."""
    global _key
    _key = bytes.fromhex(key)
