"""Short vectors that are never farther apart than the codes they stand for.

The nearest codes, as a search in float64 would find them, at the price of one matrix product in float32.

Squared distances come from |q|^2 - 2 q'x + |x|^2, which is one product, but loses digits where codes are close. So the
product only rules codes out: its rounding error has a bound, and whatever may be among the nearest within that bound
is measured again by the differences themselves, in float64. Large sets of wide codes are first scanned as short
vectors (`Sketch`), a sixth of the memory; where these rule too little out, all codes are scanned.
The nearest codes of millions, by FAISS: most of them, in a fraction of the time.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import CheckpointError

_SAMPLE = 8192  # codes that the directions are found from
_ROUNDS = 3  # of the subspace iteration
_BLOCK = 4096  # codes that are turned at once, in float64


@dataclass(frozen=True)
class Sketch:
    """Codes seen along the directions in which most of them differ, and the length of the rest.

    For a code x, with m the mean and P the orthonormal basis, its short vector is y = P'(x - m) with |x - m - P y|
    behind it. By Pythagoras, and since lengths differ by no more than vectors do, two short vectors are never farther
    apart than their codes. A scan over them can rule codes out, whatever the data; how many depends on the data.

    Attributes:
        mean: float64 `[D]`.
        basis: float64 `[D, p]`, orthonormal columns.
        vectors: float32 `[N, p + 1]`, of the codes; column by column in memory, which a product with one vector reads
            about three times as fast.
    """

    mean: torch.Tensor
    basis: torch.Tensor
    vectors: torch.Tensor

    @classmethod
    def fit(cls, codes: torch.Tensor, size: int, seed: int = 0) -> "Sketch":
        """Finds the directions by subspace iteration (Halko, Martinsson and Tropp, SIAM Review 53, 2011, algorithm
        4.4), from a sample where there are many codes.

        Args:
            codes: float32 `[N, D]`.
            size: How many directions, p.
            seed: Of the sample and the start.
        """
        generator = torch.Generator().manual_seed(seed)
        sample = codes[torch.randperm(len(codes), generator=generator)[:_SAMPLE]]
        mean = sample.double().mean(0)
        centred = sample - mean.float()
        basis = torch.randn(codes.shape[1], size, generator=generator)
        for _ in range(_ROUNDS):
            basis = torch.linalg.qr(centred.T @ (centred @ basis))[0]
        basis = torch.linalg.qr(basis.double())[0]  # orthonormal to the last digit of float64
        turned = [_turn(block, mean, basis).T for block in codes.split(_BLOCK)]
        return cls(mean, basis, torch.cat(turned, dim=1).T)

    def turn(self, codes: torch.Tensor) -> torch.Tensor:
        """Short vectors float32 `[..., p + 1]` of codes `[..., D]`."""
        return _turn(codes, self.mean, self.basis)


def _turn(codes: torch.Tensor, mean: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    # In float64, so that only the last rounding is left to be allowed for.
    centred = codes.double() - mean
    along = centred @ basis
    rest = (centred.square().sum(-1) - along.square().sum(-1)).clamp_min(0).sqrt()
    return torch.cat([along, rest[..., None]], dim=-1).float()


_ROUNDING = 2.0**-24  # of float32
_BATCH = 512  # queries that are scanned at once
_COLUMNS = 4096  # vectors of one product for several queries; what a processor's caches hold goes a third faster
_BLOCK = 4096  # codes that are measured at once, in float64
_MARGIN = 16  # codes beyond k that are looked at first, to learn how far the k-th may be
_SHARES = 16, 64  # a sketch that leaves more than such a part of the codes is given up: for one query, for several
_WORTH = 4096, 6  # a sketch needs so many codes, and has one direction for so many of their dimensions
_LEAST_SIZE = 32  # directions of a sketch
_LARGEST = float(np.finfo(np.float32).max)  # of what is not infinite

Found = tuple[np.ndarray, np.ndarray]
"""Distances float64 and rows int64 of one query, `[k]` or fewer."""


def make_sketch(codes: torch.Tensor) -> Sketch | None:
    """A sketch of codes float32 `[N, D]` where there are enough for it to save time; else None."""
    least, part = _WORTH
    size = codes.shape[1] // part
    return Sketch.fit(codes, size) if len(codes) >= least and size >= _LEAST_SIZE else None


def exact_distances(codes: np.ndarray, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Euclidean distances, float64 `[n]`, of a query `[D]` to the codes `[N, D]` of some rows, int64 `[n]`."""
    found = np.empty(len(rows))
    for start in range(0, len(rows), _BLOCK):
        apart = codes[rows[start : start + _BLOCK]].astype(np.float64)
        apart -= query
        found[start : start + _BLOCK] = np.sqrt(np.einsum("nd,nd->n", apart, apart))
    return found


class _Scan:
    """Squared distances to vectors by one product, with a bound of what rounding does to them.

    Args:
        vectors: float32 `[N, D]`.
        squares: Their squared lengths float32 `[N]`; computed where None.
    """

    def __init__(self, vectors: torch.Tensor, squares: torch.Tensor | None = None) -> None:
        self.vectors = vectors
        self.squares = sum_squares(vectors) if squares is None else squares
        self._longest = float(self.squares.max()) ** 0.5
        # A product of n terms is off by n u / (1 - n u) of the vectors' lengths multiplied, in whatever order it is
        # summed (Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section 3.1), and 2 a b is at most
        # (a + b)^2 / 2. Beside it stand the roundings of the squares, of three sums, and of the vectors themselves.
        terms = vectors.shape[1] * _ROUNDING
        self._error = terms / (1 - terms) / 2 + 16 * _ROUNDING

    def __call__(self, queries: torch.Tensor) -> tuple[torch.Tensor, list[float]]:
        """Squared distances float32 `[Q, N]` of vectors `[Q, D]`, and by how much each query's may be wrong."""
        squares = sum_squares(queries)
        if len(queries) == 1:
            values = torch.addmv(self.squares, self.vectors, queries[0], alpha=-2)[None]
        else:
            values = torch.empty(len(queries), len(self.vectors))
            blocks = (values.split(_COLUMNS, 1), self.squares.split(_COLUMNS), self.vectors.split(_COLUMNS))
            for out, squares_of_block, vectors in zip(*blocks, strict=True):
                torch.addmm(squares_of_block[None], queries, vectors.T, alpha=-2, out=out)
        return values.add_(squares[:, None]), [self._slack(square) for square in squares.tolist()]

    def some(self, query: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, float]:
        """The same of one vector `[D]` and some rows: values `[n]`, and a number."""
        square = float(np.dot(query, query.astype(np.float64)))
        products = np.einsum("nd,d->n", self.vectors.numpy()[rows], query)  # unlike @, on this thread
        values = self.squares.numpy()[rows] - 2 * products + np.float32(square)
        return values, self._slack(square)

    def _slack(self, square: float) -> float:
        return self._error * (square**0.5 + self._longest) ** 2


def sum_squares(vectors: torch.Tensor) -> torch.Tensor:
    """Squared lengths float32 `[N]` of vectors `[N, D]`, summed in float64."""
    blocks = [block.double().square().sum(1).float() for block in vectors.split(_BLOCK)]
    return torch.cat(blocks) if blocks else torch.empty(0)


class ExactSearcher:
    """Finds the nearest codes by Euclidean distance. Threads may share it.

    Args:
        codes: float32 `[N, D]`, at least one.
        sketch: Of the codes; None to scan them all at once.
        squares: Their squared lengths float32 `[N]`, where they are known.
    """

    def __init__(self, codes: torch.Tensor, sketch: Sketch | None = None, squares: torch.Tensor | None = None) -> None:
        self.codes = codes
        self.sketch = sketch
        self.squares = sum_squares(codes) if squares is None else squares
        self._whole = _Scan(codes, self.squares)
        self._short = None if sketch is None else _Scan(sketch.vectors)

    def search(
        self, queries: torch.Tensor, k: int, allowed: torch.Tensor | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest codes of each query, nearest first, the lower row first where two are as near.

        Args:
            queries: float32 `[Q, D]`.
            k: At least 1.
            allowed: bool `[N]`, or `[Q, N]`: which rows may be found; all where None.

        Returns:
            Distances float64 `[Q, k]` and rows int64 `[Q, k]`; infinity and -1 where there are fewer.
        """
        distances = np.full((len(queries), k), np.inf)
        rows = np.full((len(queries), k), -1)
        scans = [scan for scan in (self._short, self._whole) if scan is not None]
        for start in range(0, len(queries), _BATCH):
            places = torch.arange(start, min(start + _BATCH, len(queries)))
            for scan in list(scans):
                left = []
                for place, found in self._search(scan, queries, places, k, allowed):
                    if found is None:
                        left.append(place)
                    else:
                        distances[place, : len(found[0])], rows[place, : len(found[1])] = found
                if len(left) > len(places) / 2:
                    scans = [self._whole]  # the codes are not such that a sketch tells them apart
                places = torch.tensor(left, dtype=torch.int64)
        return distances, rows

    def _search(
        self, scan: _Scan, queries: torch.Tensor, places: torch.Tensor, k: int, allowed: torch.Tensor | None
    ) -> Iterator[tuple[int, Found | None]]:
        """What each of some queries finds; None where the scan leaves too many codes to be measured."""
        if not len(places):
            return
        short = scan is not self._whole
        chosen = queries[places]
        values, slacks = scan(self.sketch.turn(chosen) if short and self.sketch is not None else chosen)
        if allowed is not None:
            values.masked_fill_(~(allowed if allowed.ndim == 1 else allowed[places]), torch.inf)
        firsts = values.topk(min(k + _MARGIN, len(self.codes)), largest=False).indices.numpy()
        most = len(self.codes) // _SHARES[len(places) > 1]  # a product for several queries reads the codes but once
        finish = self._narrow_and_measure if short else self._measure
        # From here on query by query, in numpy: these arrays are too small to be worth waking several threads for.
        for place, query, line, slack, first in zip(
            places.tolist(), chosen.numpy(), values.numpy(), slacks, firsts, strict=True
        ):
            yield place, finish(query, line, slack, first[line[first] < np.inf], k, most)

    def _measure(
        self, query: np.ndarray, line: np.ndarray, slack: float, first: np.ndarray, k: int, most: int
    ) -> Found | None:
        """Distances and rows of the k nearest, from the codes' squared distances; see `_narrow_and_measure`."""
        bound = min(_kth(line[first], k) + 2 * slack, _LARGEST)
        inside = len(first) > k and line[first[-1]] > bound  # then all that counts is among the first
        near = np.sort(first[line[first] <= bound]) if inside else np.flatnonzero(line <= bound)
        return self._sort(query, near, k)

    def _narrow_and_measure(
        self, query: np.ndarray, line: np.ndarray, slack: float, first: np.ndarray, k: int, most: int
    ) -> Found | None:
        """Distances and rows of the k nearest, from squared distances of short vectors; None where these leave too
        many codes to be looked at.

        Args:
            query: `[D]`.
            line: Squared distances `[N]`, which may be wrong by `slack`; infinite for rows that may not be found.
            slack: See there.
            first: The rows with the smallest of them, in their order, as far as they may be found.
            k: How many are wanted.
            most: How many rows are worth a look at their codes.
        """
        values, error = self._whole.some(query, first)
        reach = _kth(values, k) + error
        near = np.flatnonzero(line <= min(reach + slack, _LARGEST))
        if len(near) > max(most, len(first)):
            return None
        values, _ = self._whole.some(query, near)
        return self._sort(query, near[values <= min(reach, _kth(values, k) + error) + error], k)

    def _sort(self, query: np.ndarray, rows: np.ndarray, k: int) -> Found:
        """Distances and rows of the k nearest among ascending rows."""
        measured = exact_distances(self.codes.numpy(), query, rows)
        order = np.argsort(measured, kind="stable")[:k]  # rows ascend, and stay so among equals
        return measured[order], rows[order]


def _kth(values: np.ndarray, k: int) -> float:
    """The k-th smallest; infinity where there are fewer."""
    return float(np.partition(values, k - 1)[k - 1]) if len(values) >= k else np.inf


_TRAINED_ON = 262_144  # codes at most
_FAISS_BLOCK = 65_536  # codes that are added at once
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
            for block in codes.split(_FAISS_BLOCK):
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
