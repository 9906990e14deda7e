"""Samplers: the order in which rows are drawn in training. It depends on seed and epoch only, in every process."""

from collections.abc import Hashable, Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


class _EpochSampler(Sampler[int]):
    """A sampler of `n` rows per epoch."""

    def __init__(self, n: int, seed: int) -> None:
        self.n = n
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n

    def _rng(self, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch, stream])


class GroupSampler(_EpochSampler):
    """Draws every row once in random order, with the rows of a group next to each other, so that a batch has both.

    For counterfactual pairs: everything but the finding cancels out of the gradient of a pair, and a small network
    learns subtle findings in a fraction of the steps.

    Args:
        keys: Group of each row. Every row is a group of its own if None.
        n: Number of rows.
        seed: Seed.
    """

    def __init__(self, keys: Sequence[Hashable] | None, n: int, seed: int = 0) -> None:
        self.groups = _group(range(n) if keys is None else keys)
        super().__init__(n, seed)

    def __iter__(self) -> Iterator[int]:
        for group in self._rng(2).permutation(len(self.groups)):
            yield from self.groups[group]


class BalancedSampler(_EpochSampler):
    """Draws equally many rows of every class, in random order. Rows of small classes are repeated equally often.

    Args:
        classes: Class of each row, at least one.
        seed: Seed.
    """

    def __init__(self, classes: Sequence[Hashable], seed: int = 0) -> None:
        self.groups = _group(classes)
        super().__init__(len(classes), seed)

    def __iter__(self) -> Iterator[int]:
        rng = self._rng(3)
        shares = np.full(len(self.groups), self.n // len(self.groups))
        shares[rng.permutation(len(shares))[: self.n % len(self.groups)]] += 1
        rows = [row for group, share in zip(self.groups, shares, strict=True) for row in _Deck(group, rng).deal(share)]
        yield from rng.permutation(rows).tolist()


class PerClassSampler(_EpochSampler):
    """Draws rows so that each batch of `n_classes * n_samples` consecutive rows holds P classes with K rows of each.

    For losses that compare samples within a batch. Source: Hermans, Beyer and Leibe, "In defense of the triplet loss
    for person re-identification", arXiv 1703.07737.

    Args:
        classes: Class of each row.
        n_classes: P, from 2 to the number of classes.
        n_samples: K, at least 1. Rows of a class with fewer than K rows are repeated.
        seed: Seed.

    Raises:
        ValueError: If `n_classes` or `n_samples` is out of range.
    """

    def __init__(self, classes: Sequence[Hashable], n_classes: int, n_samples: int, seed: int = 0) -> None:
        self.groups = _group(classes)
        if not 2 <= n_classes <= len(self.groups) or n_samples < 1:
            raise ValueError(
                f"batches of {n_classes} classes with {n_samples} rows each cannot be made of {len(self.groups)} "
                "classes; n_classes must be 2 to the number of classes, and n_samples at least 1"
            )
        self.n_classes, self.n_samples = n_classes, n_samples
        batch_size = n_classes * n_samples
        super().__init__(max(1, len(classes) // batch_size) * batch_size, seed)

    def __iter__(self) -> Iterator[int]:
        rng = self._rng(4)
        groups, decks = _Deck(range(len(self.groups)), rng), [_Deck(group, rng) for group in self.groups]
        for _ in range(self.n // (self.n_classes * self.n_samples)):
            for group in groups.deal(self.n_classes):
                yield from decks[group].deal(self.n_samples)


class _Deck:
    """Deals the rows of a shuffled pile and shuffles again when it is empty, so that rows are dealt equally often."""

    def __init__(self, rows: Sequence[int], rng: np.random.Generator) -> None:
        self.rows = np.asarray(rows)
        self.rng = rng
        self.left: list[int] = []

    def deal(self, n: int) -> list[int]:
        """Returns the next `n` rows, without repetition if there are that many."""
        dealt: list[int] = []
        while len(dealt) < n:
            if not self.left:
                again = set(dealt)  # these come last
                self.left = sorted(self.rng.permutation(self.rows).tolist(), key=lambda row: row in again)
            dealt.append(self.left.pop(0))
        return dealt


def _group(classes: Sequence[Hashable]) -> list[list[int]]:
    """Returns the rows of each class, in the order of first rows."""
    groups: dict[Hashable, list[int]] = {}
    for row, one in enumerate(classes):
        groups.setdefault(one, []).append(row)
    if not groups:
        raise ValueError("there are no rows to draw from")
    return list(groups.values())
