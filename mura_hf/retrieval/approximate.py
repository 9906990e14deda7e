"""The nearest codes of millions, by FAISS: most of them, in a fraction of the time."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import CheckpointError
from .exact import exact_distances

_TRAINED_ON = 262_144  # codes at most
_BLOCK = 65_536  # codes that are added at once
_AHEAD = 8  # candidates for each neighbour that is wanted; the nearest of them are measured


class FaissSearcher:
    """Finds most of the nearest codes by Euclidean distance. What FAISS proposes is measured exactly, so that order
    and distances are right whatever its index keeps of the codes.

    Args:
        codes: float32 `[N, D]`.
        index: FAISS's own, of the same codes.
        file: The one that it is mapped from; None where it lies in memory.
    """

    def __init__(self, codes: torch.Tensor, index: Any, file: Path | None = None) -> None:
        self.codes = codes
        self.index = index
        self.file = file

    @classmethod
    def build(cls, codes: torch.Tensor, factory: str, parameters: str = "") -> "FaissSearcher":
        """Trains an index and fills it.

        Args:
            codes: float32 `[N, D]`.
            factory: As `faiss.index_factory` takes it, such as "IVF1024,SQ8".
            parameters: As `faiss.ParameterSpace` takes them, such as "nprobe=8".

        Raises:
            CheckpointError: If FAISS is not installed.
            ValueError: If FAISS does not know the factory string or a parameter, or there are too few codes for it.
        """
        faiss = _import_faiss()
        try:
            index = faiss.index_factory(codes.shape[1], factory, faiss.METRIC_L2)
            chosen = np.random.default_rng(0).permutation(len(codes))[:_TRAINED_ON]
            index.train(codes.numpy()[np.sort(chosen)])
            for block in codes.split(_BLOCK):
                index.add(block.numpy())
            faiss.ParameterSpace().set_index_parameters(index, parameters)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ValueError(
                f"FAISS cannot build {factory!r} with {parameters!r} of {len(codes)} codes: {reason}"
            ) from error
        return cls(codes, index)

    @classmethod
    def load(cls, codes: torch.Tensor, file: Path, parameters: str = "") -> "FaissSearcher":
        """Opens the index of `save`, mapped into memory where its kind allows.

        Raises:
            CheckpointError: If FAISS is not installed, or the file cannot be read.
        """
        faiss = _import_faiss()
        try:
            index = faiss.read_index(str(file), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
            faiss.ParameterSpace().set_index_parameters(index, parameters)
        except RuntimeError as error:
            raise CheckpointError(f"{file} cannot be read by FAISS; build the index again") from error
        if (index.ntotal, index.d) != tuple(codes.shape):
            raise CheckpointError(f"{file} is FAISS's index of other codes; build the index again")
        return cls(codes, index, file)

    def save(self, file: Path) -> None:
        """Writes FAISS's index, not the codes."""
        if self.file is None:
            _import_faiss().write_index(self.index, str(file))
        else:  # FAISS cannot write what is mapped
            shutil.copyfile(self.file, file)

    def search(
        self, queries: torch.Tensor, k: int, allowed: torch.Tensor | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `ExactSearcher.search`, but some of the nearest may be missed."""
        found, rows = np.full((len(queries), k), np.inf), np.full((len(queries), k), -1)
        ahead, places = _AHEAD * k, np.arange(len(queries))
        while len(places):
            # Not every kind of index can be told which rows count, so more are asked for where too few do.
            proposed = self.index.search(queries.numpy()[places], min(ahead, len(self.codes)))[1]
            left = []
            for place, line in zip(places, proposed, strict=True):
                near = np.sort(line[line >= 0])
                if allowed is not None:
                    near = near[(allowed if allowed.ndim == 1 else allowed[place]).numpy()[near]]
                if len(near) < k and ahead < len(self.codes) and (line >= 0).all():
                    left.append(place)
                    continue
                measured = exact_distances(self.codes.numpy(), queries[place].numpy(), near)
                order = np.argsort(measured, kind="stable")[:k]
                found[place, : len(order)], rows[place, : len(order)] = measured[order], near[order]
            ahead, places = 4 * ahead, np.asarray(left, np.int64)
        return found, rows


_ANY_WIDTH = 3840  # that most factory strings can divide


def check_factory(factory: str) -> None:
    """Makes sure that FAISS is there and knows a factory string.

    Args:
        factory: As `faiss.index_factory` takes it.

    Raises:
        CheckpointError: If FAISS is not installed.
        ValueError: If it does not know the string.
    """
    faiss = _import_faiss()
    try:
        faiss.index_factory(_ANY_WIDTH, factory, faiss.METRIC_L2)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(f"FAISS does not know the factory string {factory!r}: {reason}") from error


def _import_faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise CheckpointError(
            'an approximate index needs FAISS, which is not installed; run pip install "mura_hf[faiss]", or build '
            "the index without a factory string"
        ) from error
    return faiss
