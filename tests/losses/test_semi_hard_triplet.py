import pytest
import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import TripletMarginMiner
from pytorch_metric_learning.reducers import MeanReducer, SumReducer

from mura_hf.losses import semi_hard_triplet_loss

from .by_hand import batch, pairs, reduce


def _by_hand(embeddings, labels, margin, squared=True, normalize=False):
    losses, without = [], 0
    for positives, negatives in pairs(embeddings, labels, squared, normalize):
        for positive in positives:
            farther = [negative for negative in negatives if negative > positive]
            if farther and min(farther) - positive <= margin:
                losses.append(positive - min(farther) + margin)
            else:
                without += 1
    return losses, without


@pytest.mark.parametrize("reduction", ["sum", "mean", "mean_nonzero"])
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_equals_the_formula(reduction, squared, normalize):
    embeddings, labels = batch()
    losses, without = _by_hand(embeddings, labels, 0.1, squared, normalize)
    assert len(losses) > 5
    assert without > 5
    expected = pytest.approx(reduce(losses, reduction), rel=1e-5)
    options = {"margin": 0.1, "squared": squared, "normalize": normalize, "reduction": reduction}
    assert float(semi_hard_triplet_loss(embeddings, labels, **options)) == expected
    assert float(semi_hard_triplet_loss(embeddings.float(), labels, **options)) == expected


@pytest.mark.parametrize(("reduction", "reducer"), [("sum", SumReducer()), ("mean", MeanReducer())])
@pytest.mark.parametrize("power", [1, 2])
def test_equals_pytorch_metric_learnings_miner_where_its_nearest_negatives_are_kept(reduction, reducer, power):
    embeddings, labels = batch(seed=1)
    distance = LpDistance(normalize_embeddings=False, power=power)
    mined = TripletMarginMiner(margin=0.2, type_of_triplets="semihard", distance=distance)(embeddings, labels)
    between, nearest = distance(embeddings), {}
    for a, p, n in zip(*(index.tolist() for index in mined), strict=True):
        if (a, p) not in nearest or between[a, n] < between[a, nearest[a, p]]:
            nearest[a, p] = n
    assert 0 < len(nearest) < len(mined[0])
    kept = tuple(torch.tensor(index) for index in zip(*((*pair, n) for pair, n in nearest.items()), strict=True))
    theirs = TripletMarginLoss(margin=0.2, distance=distance, reducer=reducer)(embeddings, labels, kept)
    ours = semi_hard_triplet_loss(embeddings, labels, margin=0.2, squared=power == 2, reduction=reduction)
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)


def test_negatives_nearer_than_the_positive_or_as_near_are_none():
    labels = torch.tensor([0, 0, 1, 1])
    line = torch.tensor([[0.0], [1.0], [1.0], [-0.5]])  # from 0: positive at 1, negatives at 1 and .5
    assert semi_hard_triplet_loss(line[:, :1], labels, margin=0.2, squared=False) == 0
    line[2] = 1.1  # now .1 farther than the positive, seen from 0; from -.5 and 1.1 nothing is
    assert float(semi_hard_triplet_loss(line, labels, margin=0.2, squared=False)) == pytest.approx(0.1, abs=1e-6)
