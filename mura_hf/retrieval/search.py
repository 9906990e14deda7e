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
_QUERIES, _VALUES = 512, 2**26  # at most so many queries, and distances (256 MiB), at once
_COLUMNS = 4096  # codes per matrix product; blocks that fit the processor's cache are a third faster
_MARGIN = 16  # candidates beyond the k nearest


def exact_distances(codes: np.ndarray, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns the Euclidean distances of a query `[D]` to the codes `[N, D]` in the given rows, float64 `[n]`."""
    distances = np.empty(len(rows))
    for start in range(0, len(rows), _BLOCK):
        difference = codes[rows[start : start + _BLOCK]].astype(np.float64)
        difference -= query
        distances[start : start + _BLOCK] = np.sqrt(np.einsum("nd,nd->n", difference, difference))
    return distances


def sum_squares(codes: torch.Tensor) -> torch.Tensor:
    """Returns the squared lengths of codes `[N, D]`, float32 `[N]`, summed in float64."""
    blocks = [block.double().square().sum(1).float() for block in codes.split(_BLOCK)]
    return torch.cat(blocks) if blocks else torch.empty(0)


def _keep_nearest(
    codes: torch.Tensor, query: torch.Tensor, candidates: np.ndarray, distances: np.ndarray, rows: np.ndarray
) -> None:
    """Writes the nearest of some sorted candidates into a line of distances and of rows."""
    found = exact_distances(codes.numpy(), query.numpy(), candidates)
    order = np.argsort(found, kind="stable")[: len(rows)]
    distances[: len(order)], rows[: len(order)] = found[order], candidates[order]


class ExactSearcher:
    """Finds exactly the neighbours that a search in float64 would find. Threads may share it.

    One matrix product in float32 gives |x|^2 - 2 q'x for all codes, whose rounding error has a known bound (Higham,
    "Accuracy and Stability of Numerical Algorithms", 2002, section 3.1). Every code that may be among the k nearest
    within this bound is a candidate, and the distances of all candidates are computed in float64.

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
            queries: float32 `[Q, D]`.
            k: Number of neighbours, at least 1.
            allowed: Rows that may be returned, bool `[N]` or `[Q, N]`; all rows if None.

        Returns:
            Distances, float64 `[Q, k]`, and rows, int64 `[Q, k]`. If there are fewer than k, the rest is infinity and
            -1.
        """
        distances, rows = np.full((len(queries), k), np.inf), np.full((len(queries), k), -1)
        size = max(1, min(_QUERIES, _VALUES // len(self.codes)))
        for start in range(0, len(queries), size):
            batch = queries[start : start + size]
            values = self._products(batch)
            if allowed is not None:
                values.masked_fill_(~(allowed if allowed.ndim == 1 else allowed[start : start + size]), torch.inf)
            nearest, places = values.topk(min(k + _MARGIN, len(self.codes)), largest=False)
            error = self._relative_error * (sum_squares(batch).double().sqrt() + self._longest) ** 2
            kth = nearest[:, k - 1].double() if k <= len(self.codes) else torch.tensor(torch.inf)
            bounds = (kth + 2 * error).clamp(max=_LARGEST)
            complete = (nearest[:, -1] > bounds).tolist()  # then all candidates are among `places`
            for offset, bound in enumerate(bounds.tolist()):
                if complete[offset]:
                    candidates = np.sort(places[offset].numpy()[nearest[offset].numpy() <= bound])
                else:
                    candidates = np.flatnonzero(values[offset].numpy() <= bound)
                place = start + offset
                _keep_nearest(self.codes, batch[offset], candidates, distances[place], rows[place])
        return distances, rows

    def _products(self, queries: torch.Tensor) -> torch.Tensor:
        """|x|^2 - 2 q'x, float32 `[Q, N]`."""
        if len(queries) == 1:
            return torch.addmv(self.squares, self.codes, queries[0], alpha=-2)[None]
        values = torch.empty(len(queries), len(self.codes))
        blocks = (values.split(_COLUMNS, 1), self.squares.split(_COLUMNS), self.codes.split(_COLUMNS))
        for out, squares, codes in zip(*blocks, strict=True):
            torch.addmm(squares[None], queries, codes.T, alpha=-2, out=out)
        return values


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
        distances, rows = np.full((len(queries), k), np.inf), np.full((len(queries), k), -1)
        wanted, places = _CANDIDATES * k, np.arange(len(queries))
        while len(places):
            # Not all types of index can filter rows, so queries with too few allowed candidates ask for more.
            proposed = self.index.search(queries.numpy()[places], min(wanted, len(self.codes)))[1]
            unfinished = []
            for place, line in zip(places, proposed, strict=True):
                candidates = np.sort(line[line >= 0])
                if allowed is not None:
                    candidates = candidates[(allowed if allowed.ndim == 1 else allowed[place]).numpy()[candidates]]
                if len(candidates) < k and wanted < len(self.codes) and (line >= 0).all():
                    unfinished.append(place)
                    continue
                _keep_nearest(self.codes, queries[place], candidates, distances[place], rows[place])
            wanted, places = 4 * wanted, np.asarray(unfinished, np.int64)
        return distances, rows


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
