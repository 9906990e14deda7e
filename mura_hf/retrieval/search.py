"""Search for the nearest codes by Euclidean distance: exact, or approximate with FAISS for millions of codes."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import CheckpointError

_BLOCK = 4096  # codes that are converted to float64 at once
_UNIT_ROUNDOFF = 2.0**-24  # of float32
_LARGEST = float(np.finfo(np.float32).max)


def rank_rows(codes: torch.Tensor, query: torch.Tensor, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Finds the k nearest of some rows of codes `[N, D]` to a query `[D]`, in float64.

    Returns:
        Distances, float64 `[k]`, the smallest first, and rows, int64 `[k]`. Of equal distances the lower row comes
        first. If there are fewer than k rows, the rest is infinity and -1.
    """
    rows, wide = np.sort(rows), query.double()
    blocks = [(codes[part].double() - wide).norm(dim=1) for part in torch.from_numpy(rows).split(_BLOCK)]
    distances = torch.cat(blocks).numpy()
    order = np.argsort(distances, kind="stable")[:k]
    missing = k - len(order)
    return np.append(distances[order], [np.inf] * missing), np.append(rows[order], np.full(missing, -1))


def sum_squares(codes: torch.Tensor) -> torch.Tensor:
    """Returns the squared lengths of codes `[N, D]`, float32 `[N]`, summed in float64."""
    return torch.cat([block.double().square().sum(1).float() for block in codes.split(_BLOCK)])


class ExactSearcher:
    """Finds exactly the neighbours that a search in float64 would find. Threads may share it.

    One matrix product in float32 gives |x|^2 - 2 q'x for all codes, whose rounding error has a known bound (Higham,
    "Accuracy and Stability of Numerical Algorithms", 2002, section 3.1). Every code that may be among the k nearest
    within this bound is a candidate. Candidates are ranked by their distances in float64.

    Args:
        codes: float32 `[N, D]`, N at least 1.
        squares: Their squared lengths, float32 `[N]`; computed if None.
    """

    def __init__(self, codes: torch.Tensor, squares: torch.Tensor | None = None) -> None:
        self.codes = codes
        self.squares = sum_squares(codes) if squares is None else squares
        self._longest = float(self.squares.max()) ** 0.5
        # The product of D terms is wrong by at most D u / (1 - D u) |q| |x|, and 2 |q| |x| <= (|q| + |x|)^2 / 2. The
        # rest covers the rounding of the squared lengths and of the sum.
        terms = codes.shape[1] * _UNIT_ROUNDOFF
        self._relative_error = terms / (1 - terms) / 2 + 16 * _UNIT_ROUNDOFF

    def search(
        self, queries: torch.Tensor, k: int, allowed: torch.Tensor | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the k nearest codes of each query, the nearest first. Of equal distances the lower row comes first.

        Args:
            queries: float32 `[Q, D]`, such as the views of a study.
            k: Number of neighbours, at least 1.
            allowed: Rows that may be returned, bool `[N]`; all rows if None.

        Returns:
            Distances, float64 `[Q, k]`, and rows, int64 `[Q, k]`. If there are fewer than k, the rest is infinity and
            -1.
        """
        values = torch.addmm(self.squares[None], queries, self.codes.T, alpha=-2)
        if allowed is not None:
            values.masked_fill_(~allowed, torch.inf)
        kth = values.topk(min(k, len(self.codes)), largest=False).values[:, -1].double()
        error = self._relative_error * (sum_squares(queries).double().sqrt() + self._longest) ** 2
        bounds = (kth + 2 * error).clamp(max=_LARGEST).float()  # which excludes rows that are not allowed
        candidates = [np.flatnonzero(one) for one in (values <= bounds[:, None]).numpy()]
        return _rank(self.codes, queries, candidates, k)


def _rank(
    codes: torch.Tensor, queries: torch.Tensor, candidates: list[np.ndarray], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """`rank_rows` of each query and its candidates."""
    ranked = [rank_rows(codes, query, rows, k) for query, rows in zip(queries, candidates, strict=True)]
    return np.stack([distances for distances, _ in ranked]), np.stack([rows for _, rows in ranked])


_TRAINING_CODES = 262_144  # at most so many train FAISS's index
_ADDED_CODES = 65_536  # codes that are added at once
_CANDIDATES = 8  # per neighbour; the nearest of them are returned
_ANY_WIDTH = 3840  # a width that most factory strings can divide


class FaissSearcher:
    """Finds most of the nearest codes with FAISS. Distances of its candidates are computed exactly.

    Args:
        codes: float32 `[N, D]`.
        index: FAISS's index of the same codes.
        file: The file that the index is mapped from; None if it is in memory.
    """

    def __init__(self, codes: torch.Tensor, index: Any, file: Path | None = None) -> None:
        self.codes = codes
        self.index = index
        self.file = file

    @classmethod
    def build(cls, codes: torch.Tensor, factory: str, parameters: str = "") -> "FaissSearcher":
        """Trains and fills an index, see `RetrievalIndex.build`.

        Raises:
            CheckpointError: If FAISS is not installed.
            ValueError: If FAISS does not know the factory string or a parameter, or needs more codes.
        """
        faiss = _import_faiss()
        try:
            index = faiss.index_factory(codes.shape[1], factory, faiss.METRIC_L2)
            chosen = np.random.default_rng(0).permutation(len(codes))[:_TRAINING_CODES]
            index.train(codes.numpy()[np.sort(chosen)])
            for block in codes.split(_ADDED_CODES):
                index.add(block.numpy())
            faiss.ParameterSpace().set_index_parameters(index, parameters)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ValueError(
                f"FAISS cannot build {factory!r} with {parameters!r} from {len(codes)} codes: {reason}"
            ) from error
        return cls(codes, index)

    @classmethod
    def load(cls, codes: torch.Tensor, file: Path, parameters: str = "") -> "FaissSearcher":
        """Opens the file of `save`, memory-mapped if the type of the index allows it.

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
        """Writes FAISS's index, without the codes."""
        if self.file is None:
            _import_faiss().write_index(self.index, str(file))
        else:  # FAISS cannot write a mapped index
            shutil.copyfile(self.file, file)

    def search(
        self, queries: torch.Tensor, k: int, allowed: torch.Tensor | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `ExactSearcher.search`, but some of the nearest codes may be missing."""
        return _rank(self.codes, queries, [self._propose(query, k, allowed) for query in queries], k)

    def _propose(self, query: torch.Tensor, k: int, allowed: torch.Tensor | None) -> np.ndarray:
        wanted = _CANDIDATES * k
        while True:
            # Not all types of index can filter rows, so a query with too few allowed candidates asks for more.
            found = self.index.search(query[None].numpy(), min(wanted, len(self.codes)))[1][0]
            rows = found[found >= 0]
            if allowed is not None:
                rows = rows[allowed.numpy()[rows]]
            if len(rows) >= k or wanted >= len(self.codes) or (found < 0).any():
                return rows
            wanted *= 4


def check_factory(factory: str) -> None:
    """Checks that FAISS is installed and knows a factory string.

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
            'approximate search needs FAISS, which is not installed; run pip install "mura_hf[faiss]", or build the '
            "index without a factory string"
        ) from error
    return faiss
