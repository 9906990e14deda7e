"""The nearest codes, as a search in float64 would find them, at the price of one matrix product in float32.

Squared distances come from |q|^2 - 2 q'x + |x|^2, which is one product, but loses digits where codes are close. So the
product only rules codes out: its rounding error has a bound, and whatever may be among the nearest within that bound
is measured again by the differences themselves, in float64. Large sets of wide codes are first scanned as short
vectors (`Sketch`), a sixth of the memory; where these rule too little out, all codes are scanned.
"""

from collections.abc import Iterator

import numpy as np
import torch

from .sketch import Sketch

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
