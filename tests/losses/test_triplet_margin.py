import pytest
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.reducers import AvgNonZeroReducer, MeanReducer, SumReducer

from mura_hf.losses import triplet_margin_loss

from .by_hand import batch, pairs, reduce

REDUCERS = {"sum": SumReducer, "mean": MeanReducer, "mean_nonzero": AvgNonZeroReducer}


@pytest.mark.parametrize("reduction", REDUCERS)
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_equals_the_formula_and_pytorch_metric_learning(reduction, squared, normalize):
    embeddings, labels = batch()
    options = {"margin": 0.3, "squared": squared, "normalize": normalize, "reduction": reduction}
    losses = [
        max(0.0, positive - negative + 0.3)
        for positives, negatives in pairs(embeddings, labels, squared, normalize)
        for positive in positives
        for negative in negatives
    ]
    theirs = TripletMarginLoss(
        margin=0.3,
        distance=LpDistance(normalize_embeddings=normalize, power=2 if squared else 1),
        reducer=REDUCERS[reduction](),
    )
    assert 0 in losses
    expected = pytest.approx(reduce(losses, reduction), rel=1e-5)
    assert float(triplet_margin_loss(embeddings, labels, **options)) == expected
    assert float(triplet_margin_loss(embeddings.float(), labels, **options)) == expected
    assert float(theirs(embeddings, labels)) == expected


def test_is_the_studys_formula_by_default():
    embeddings, labels = batch()
    losses = [
        max(0.0, positive - negative + 0.2)
        for positives, negatives in pairs(embeddings, labels, squared=True)
        for positive in positives
        for negative in negatives
    ]
    assert float(triplet_margin_loss(embeddings, labels)) == pytest.approx(sum(losses) / len(losses), rel=1e-5)
