"""The order in which training pictures are met."""

from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from torch.utils.data import Sampler


class Deck:
    """Cards of a pile, shuffled, dealt, and shuffled again when all are dealt, so that none comes more than once more
    often than another.

    Args:
        cards: What is dealt.
        rng: Shuffles.
    """

    def __init__(self, cards: Sequence[int], rng: np.random.Generator) -> None:
        self.cards = np.asarray(cards)
        self.rng = rng
        self.left: deque[int] = deque()

    def deal(self, n: int) -> list[int]:
        """The next `n` cards; all different where there are that many."""
        dealt: list[int] = []
        while len(dealt) < n:
            if not self.left:
                fresh = self.rng.permutation(self.cards).tolist()
                # Those that were dealt just now come last.
                again = set(dealt)
                self.left.extend(sorted(fresh, key=lambda card: card in again))
            dealt.append(self.left.popleft())
        return dealt


_Drawn = TypeVar("_Drawn", covariant=True)


class _EpochSampler(Sampler[_Drawn]):
    """What is drawn depends on the seed and the epoch alone, on every process."""

    def __init__(self, n: int, seed: int) -> None:
        self.n = n
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch that is drawn."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n


class TwinSampler(_EpochSampler[int]):
    """Rows in a new order each epoch, twins one after the other, so that they meet in a batch.

    In a pair that differs in the finding alone, all else cancels out of the gradient: a small network learns subtle
    findings in a fraction of the steps.

    Args:
        keys: By row; rows with the same key belong together. None where each stands alone.
        n: Number of rows.
        seed: With the epoch it fixes the order, on every process.
    """

    def __init__(self, keys: Sequence[Hashable] | None, n: int, seed: int = 0) -> None:
        self.groups = list(_group(range(n) if keys is None else keys).values())
        super().__init__(n, seed)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch, 2])
        for group in rng.permutation(len(self.groups)):
            yield from self.groups[group]


class BalancedSampler(_EpochSampler[int]):
    """As many rows of every class in an epoch, in a new order each epoch; rows of small classes come again, evenly.

    Args:
        classes: By row.
        seed: With the epoch it fixes the order, on every process.

    Raises:
        ValueError: If there are no rows.
    """

    def __init__(self, classes: Sequence[Hashable], seed: int = 0) -> None:
        self.groups = list(_group(classes).values())
        super().__init__(len(classes), seed)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch, 3])
        shares = np.full(len(self.groups), self.n // len(self.groups))
        shares[rng.permutation(len(shares))[: self.n % len(self.groups)]] += 1
        rows = [row for group, share in zip(self.groups, shares, strict=True) for row in Deck(group, rng).deal(share)]
        yield from rng.permutation(rows).tolist()


class ClassesBySamples(_EpochSampler[list[int]]):
    """Batches of P classes with K rows of each, for losses that compare within a batch.

    Hermans, Beyer and Leibe, "In defense of the triplet loss for person re-identification", arXiv 1703.07737.

    Args:
        classes: By row.
        n_classes: P; at most as many as there are.
        n_samples: K; rows of a class that has fewer come twice.
        seed: With the epoch it fixes the batches, on every process.

    Raises:
        ValueError: If there are fewer classes than P, or P or K is below 2 and 1.
    """

    def __init__(self, classes: Sequence[Hashable], n_classes: int, n_samples: int, seed: int = 0) -> None:
        self.groups = list(_group(classes).values())
        if not 2 <= n_classes <= len(self.groups) or n_samples < 1:
            raise ValueError(
                f"batches of {n_classes} classes with {n_samples} rows each cannot be made of {len(self.groups)} "
                "classes; give 2 to all of them, and 1 row or more"
            )
        self.n_classes = n_classes
        self.n_samples = n_samples
        super().__init__(max(1, len(classes) // (n_classes * n_samples)), seed)

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, self.epoch, 4])
        groups, decks = Deck(range(len(self.groups)), rng), [Deck(group, rng) for group in self.groups]
        for _ in range(self.n):
            yield [row for group in groups.deal(self.n_classes) for row in decks[group].deal(self.n_samples)]


def _group(classes: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    groups: dict[Hashable, list[int]] = {}
    for row, one in enumerate(classes):
        groups.setdefault(one, []).append(row)
    if not groups:
        raise ValueError("there are no rows to draw from")
    return groups
