"""The triplet losses evaluated by hand: plain loops in float64."""

import math

import torch


def batch(n=24, size=6, classes=3, seed=0):
    """Embeddings float64 `[n, size]` and labels, of which the last has a class of its own."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (n,), generator=generator)
    labels[-1] = classes
    return torch.randn(n, size, generator=generator, dtype=torch.float64) * 0.4, labels


def pairs(embeddings, labels, squared=False, normalize=False):
    """For each anchor: the distances to its positives and to its negatives."""
    rows = embeddings.tolist()
    if normalize:
        rows = [[value / math.hypot(*row) for value in row] for row in rows]
    for a, row in enumerate(rows):
        distances = [math.dist(row, other) ** (2 if squared else 1) for other in rows]
        same = [label == labels[a] for label in labels.tolist()]
        yield (
            [d for n, d in enumerate(distances) if same[n] and n != a],
            [d for n, d in enumerate(distances) if not same[n]],
        )


def hardest(embeddings, labels, **options):
    """D*_ap and D*_an of each anchor that has both."""
    for positives, negatives in pairs(embeddings, labels, **options):
        if positives and negatives:
            yield max(positives), min(negatives)


def reduce(losses, reduction):
    if reduction == "sum":
        return sum(losses)
    kept = [loss for loss in losses if loss != 0] if reduction == "mean_nonzero" else losses
    return sum(kept) / max(len(kept), 1)
