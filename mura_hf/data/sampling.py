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


_MOST = 4.0
"""By how many times the mean a row's loss may lift its share of an epoch."""

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


class GroupSampler(_EpochSampler[int]):
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


class PerClassSampler(_EpochSampler[int]):
    """Draws rows so that each batch of `n_classes * n_samples` consecutive rows holds P classes with K rows of each.

    For losses that compare samples within a batch. Source: Hermans, Beyer and Leibe, "In defense of the triplet loss
    for person re-identification", arXiv 1703.07737.

    Args:
        classes: Class of each row.
        n_classes: P, from 2 to the number of classes.
        n_samples: K, at least 1. Rows of a class with fewer than K rows are repeated.
        seed: Seed of the order.

    Raises:
        ValueError: If there are no rows, or `n_classes` or `n_samples` is out of range.
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
        batch_size = n_classes * n_samples
        super().__init__(max(1, len(classes) // batch_size) * batch_size, seed)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch, 4])
        groups, decks = Deck(range(len(self.groups)), rng), [Deck(group, rng) for group in self.groups]
        for _ in range(self.n // (self.n_classes * self.n_samples)):
            for group in groups.deal(self.n_classes):
                yield from decks[group].deal(self.n_samples)


class HardSampler(_EpochSampler[int]):
    """Rows drawn by how badly the model did on them when it met them last, in a new order each epoch.

    The first epoch has every row once. From then on an epoch has as many draws as rows, and row i is expected

        (1 - share) + share * l_i / mean(l)

    times, where l_i is the loss that the row had when it was met last, cut at `_MOST` times the mean of all (a wrong
    label is not to fill an epoch), and the mean of all for a row that has not been met. It comes that often rounded
    down or up: draws are systematic (Kitagawa 1996, "Monte Carlo filter and smoother", appendix), not independent. No
    gradient is weighted back: hard rows are to count for more, unlike in importance sampling (Katharopoulos and
    Fleuret, arXiv 1803.00942); choosing by the loss is that of Shrivastava et al., arXiv 1604.03540.

    Args:
        n: Number of rows.
        share: Of the draws that go by the losses, in [0, 1]; 0 has every row once an epoch.
        seed: With the epoch and the losses it fixes the order, on every process.

    Raises:
        ValueError: If there are no rows, or the share is none.
    """

    def __init__(self, n: int, share: float = 0.5, seed: int = 0) -> None:
        if n < 1 or not 0 <= share <= 1:
            raise ValueError(f"{n} rows with a share of {share} cannot be drawn; give rows, and a share in [0, 1]")
        self.share = share
        self.losses = np.full(n, np.nan)
        super().__init__(n, seed)

    def set_losses(self, rows: Sequence[int] | np.ndarray, losses: Sequence[float] | np.ndarray) -> None:
        """Takes note of what rows have just cost; of a row that comes twice, the last.

        Args:
            rows: `[m]`.
            losses: `[m]`, 0 or above.

        Raises:
            ValueError: If a loss is negative or not finite.
        """
        fresh = np.asarray(losses, np.float64)
        if not (fresh >= 0).all() or not np.isfinite(fresh).all():
            raise ValueError("losses must be finite and 0 or above, or rows cannot be drawn by them")
        self.losses[np.asarray(rows, np.int64)] = fresh

    def expected(self) -> np.ndarray:
        """How often each row is expected in an epoch, float64 `[n]`; sums to n."""
        known = self.losses[~np.isnan(self.losses)]
        mean = known.mean() if len(known) else 0.0
        if mean == 0:
            return np.ones(self.n)
        cut = np.minimum(np.where(np.isnan(self.losses), mean, self.losses), _MOST * mean)
        return (1 - self.share) + self.share * cut / cut.mean()

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch, 5])
        line = rng.permutation(self.n)
        ends = np.cumsum(self.expected()[line])
        ends[-1] = self.n  # whatever the rounding
        times = np.diff(np.floor(ends + rng.random()).astype(int), prepend=0)
        yield from rng.permutation(np.repeat(line, times)).tolist()


def _group(classes: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    groups: dict[Hashable, list[int]] = {}
    for row, one in enumerate(classes):
        groups.setdefault(one, []).append(row)
    if not groups:
        raise ValueError("there are no rows to draw from")
    return groups
