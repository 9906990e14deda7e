"""Which weights a checkpoint has: what was made for some must not be used with others."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path


def digest_weights(checkpoint: str | os.PathLike[str]) -> str:
    """SHA-256 of a checkpoint's `model.safetensors`; of the SHA-256 of its parts where it is in several."""
    files = sorted(Path(checkpoint).glob("model*.safetensors"))
    if len(files) == 1:
        with files[0].open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    return digest_files(files)


def digest_files(files: Sequence[Path]) -> str:
    """SHA-256 of the SHA-256 of files, in their order."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


__all__ = ["digest_files", "digest_weights"]
