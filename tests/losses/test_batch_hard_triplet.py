import statistics
import time

import pytest
import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner
from pytorch_metric_learning.reducers import AvgNonZeroReducer, MeanReducer, SumReducer

from mura_hf.losses import batch_hard_triplet_loss

from .by_hand import batch, hardest, reduce

REDUCERS = {"sum": SumReducer, "mean": MeanReducer, "mean_nonzero": AvgNonZeroReducer}


def _theirs(margin, squared=False, normalize=False, reduction="sum"):
    distance = LpDistance(normalize_embeddings=normalize, power=2 if squared else 1)
    miner = BatchHardMiner(distance=distance)
    loss = TripletMarginLoss(margin=margin, distance=distance, reducer=REDUCERS[reduction]())
    return lambda embeddings, labels: loss(embeddings, labels, miner(embeddings, labels))


@pytest.mark.parametrize("reduction", REDUCERS)
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_equals_the_formula_and_pytorch_metric_learning(reduction, squared, normalize):
    embeddings, labels = batch()
    embeddings[labels == 0, 0] += 2  # some anchors far from trouble
    options = {"squared": squared, "normalize": normalize, "reduction": reduction}
    losses = [
        max(0.0, far - near + 0.1) for far, near in hardest(embeddings, labels, squared=squared, normalize=normalize)
    ]
    assert len(losses) == 23  # the last sample has no positive
    expected = pytest.approx(reduce(losses, reduction), rel=1e-5)
    assert float(batch_hard_triplet_loss(embeddings, labels, margin=0.1, **options)) == expected
    assert float(batch_hard_triplet_loss(embeddings.float(), labels, margin=0.1, **options)) == expected
    assert float(_theirs(0.1, **options)(embeddings, labels)) == expected


def test_is_the_studys_formula_by_default():
    embeddings, labels = batch(seed=2)
    expected = sum(max(0.0, far - near + 0.2) for far, near in hardest(embeddings, labels))
    assert float(batch_hard_triplet_loss(embeddings, labels)) == pytest.approx(expected, rel=1e-5)


def test_the_gradient_equals_pytorch_metric_learnings():
    embeddings, labels = batch(64, 32, seed=3)
    mine, other = embeddings.clone().requires_grad_(), embeddings.clone().requires_grad_()
    batch_hard_triplet_loss(mine, labels, margin=0.5).backward()
    _theirs(0.5)(other, labels).backward()
    torch.testing.assert_close(mine.grad, other.grad)


def test_a_common_offset_costs_no_digits():
    embeddings, labels = batch(64, 32, seed=4)
    expected = float(batch_hard_triplet_loss(embeddings, labels))
    moved = (embeddings + 1000).float()  # what is left of the digits, exactly
    exact = float(batch_hard_triplet_loss(moved.double(), labels))
    assert float(batch_hard_triplet_loss(moved, labels)) == pytest.approx(exact, rel=1e-5)
    assert exact == pytest.approx(expected, rel=1e-2)


def _median_ratio():
    embeddings, labels, theirs = torch.randn(128, 2048), torch.randint(0, 2, (128,)), _theirs(0.2)
    ratios = []
    for _ in range(25):
        times = []
        for loss in (batch_hard_triplet_loss, theirs):
            values = embeddings.clone().requires_grad_()
            start = time.perf_counter()
            loss(values, labels).backward()
            times.append(time.perf_counter() - start)
        ratios.append(times[0] / times[1])
    return statistics.median(ratios[5:])


def test_takes_half_of_pytorch_metric_learnings_time():
    """A reduced `scripts/measure.py mining`: in alternation; a busy machine gets three chances."""
    assert any(_median_ratio() <= 0.5 for _ in range(3))
