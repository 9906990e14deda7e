"""Each triplet loss against its formula in plain Python and against pytorch-metric-learning."""

import math
import statistics
import time

import pytest
import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner, TripletMarginMiner
from pytorch_metric_learning.reducers import AvgNonZeroReducer, MeanReducer, SumReducer

from mura_hf.losses import (
    batch_hard_triplet_loss,
    selectively_contrastive_triplet_loss,
    semi_hard_triplet_loss,
    triplet_focal_loss,
    triplet_margin_loss,
)

from .by_hand import batch, hardest, pairs, reduce

REDUCERS = {"sum": SumReducer, "mean": MeanReducer, "mean_nonzero": AvgNonZeroReducer}


def _all_triplets(embeddings, labels, margin, **options):
    for positives, negatives in pairs(embeddings, labels, **options):
        yield from (max(0.0, p - n + margin) for p in positives for n in negatives)


def _semi_hard(embeddings, labels, margin, **options):
    for positives, negatives in pairs(embeddings, labels, **options):
        for positive in positives:
            farther = [negative for negative in negatives if negative > positive]
            if farther and min(farther) - positive <= margin:
                yield positive - min(farther) + margin


def _batch_hard(embeddings, labels, margin, **options):
    yield from (max(0.0, far - near + margin) for far, near in hardest(embeddings, labels, **options))


def _focal(embeddings, labels, margin, **options):
    for far, near in hardest(embeddings, labels, **options):
        yield max(0.0, math.exp(far) - math.exp(near) + margin)


FORMULAS = [  # with the defaults of the papers
    (triplet_margin_loss, _all_triplets, True, "mean"),
    (semi_hard_triplet_loss, _semi_hard, True, "mean"),
    (batch_hard_triplet_loss, _batch_hard, False, "sum"),
    (triplet_focal_loss, _focal, False, "sum"),
]


@pytest.mark.parametrize("reduction", REDUCERS)
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(("loss", "formula"), [row[:2] for row in FORMULAS])
def test_equals_the_formula(loss, formula, reduction, squared, normalize):
    embeddings, labels = batch()
    embeddings[labels == 0, 0] += 2  # some anchors are far from the other classes
    losses = list(formula(embeddings, labels, 0.3, squared=squared, normalize=normalize))
    assert len(losses) > 5
    assert formula is _semi_hard or normalize or 0 in losses
    expected = pytest.approx(reduce(losses, reduction), rel=1e-5)
    options = {"margin": 0.3, "squared": squared, "normalize": normalize, "reduction": reduction}
    assert float(loss(embeddings, labels, **options)) == expected
    assert float(loss(embeddings.float(), labels, **options)) == expected


@pytest.mark.parametrize(("loss", "formula", "squared", "reduction"), FORMULAS)
def test_defaults_are_those_of_the_papers(loss, formula, squared, reduction):
    embeddings, labels = batch(seed=2)
    expected = reduce(list(formula(embeddings, labels, 0.2, squared=squared)), reduction)
    assert float(loss(embeddings, labels)) == pytest.approx(expected, rel=1e-5)


def _reference(margin, squared=False, reduction="sum", mined=True):
    distance = LpDistance(normalize_embeddings=False, power=2 if squared else 1)
    miner = BatchHardMiner(distance=distance)
    loss = TripletMarginLoss(margin=margin, distance=distance, reducer=REDUCERS[reduction]())
    return lambda embeddings, labels: loss(embeddings, labels, miner(embeddings, labels) if mined else None)


@pytest.mark.parametrize(("loss", "mined"), [(batch_hard_triplet_loss, True), (triplet_margin_loss, False)])
@pytest.mark.parametrize("reduction", REDUCERS)
@pytest.mark.parametrize("squared", [False, True])
def test_value_and_gradient_equal_pytorch_metric_learning(loss, mined, reduction, squared):
    embeddings, labels = batch(64, 32, seed=3)
    ours, theirs = embeddings.clone().requires_grad_(), embeddings.clone().requires_grad_()
    found = loss(ours, labels, margin=0.5, squared=squared, reduction=reduction)
    expected = _reference(0.5, squared, reduction, mined)(theirs, labels)
    found.backward()
    expected.backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize(("reduction", "reducer"), [("sum", SumReducer()), ("mean", MeanReducer())])
@pytest.mark.parametrize("power", [1, 2])
def test_semi_hard_equals_pytorch_metric_learning_with_the_nearest_negatives(reduction, reducer, power):
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


def test_semi_hard_skips_negatives_that_are_not_farther_than_the_positive():
    labels = torch.tensor([0, 0, 1, 1])
    line = torch.tensor([[0.0], [1.0], [1.0], [-0.5]])  # seen from 0: positive at 1, negatives at 1 and .5
    assert semi_hard_triplet_loss(line, labels, margin=0.2, squared=False) == 0
    line[2] = 1.1  # now .1 farther than the positive
    assert float(semi_hard_triplet_loss(line, labels, margin=0.2, squared=False)) == pytest.approx(0.1, abs=1e-6)


def test_batch_hard_keeps_its_digits_under_a_common_offset():
    embeddings, labels = batch(64, 32, seed=4)
    moved = (embeddings + 1000).float()
    exact = float(batch_hard_triplet_loss(moved.double(), labels))
    assert float(batch_hard_triplet_loss(moved, labels)) == pytest.approx(exact, rel=1e-5)


def _median_ratio():
    embeddings, labels, theirs = torch.randn(128, 2048), torch.randint(0, 2, (128,)), _reference(0.2)
    ratios = []
    for _ in range(9):
        times = []
        for loss in (batch_hard_triplet_loss, theirs):
            values = embeddings.clone().requires_grad_()
            start = time.perf_counter()
            loss(values, labels).backward()
            times.append(time.perf_counter() - start)
        ratios.append(times[0] / times[1])
    return statistics.median(ratios[2:])


def test_batch_hard_takes_at_most_half_the_time_of_pytorch_metric_learning():
    assert any(_median_ratio() <= 0.5 for _ in range(3))  # three attempts, for a busy machine


def test_focal_stays_finite_for_large_distances():
    embeddings, labels = batch(32, 16)
    embeddings = (embeddings * 2000).float().requires_grad_()
    loss = triplet_focal_loss(embeddings, labels)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(embeddings.grad.square().sum())
    plain = embeddings.detach().clone().requires_grad_()
    batch_hard_triplet_loss(plain, labels).backward()
    # Beyond 30 sigma the exponential is its tangent, so the gradient is that of the distances times exp(30).
    torch.testing.assert_close(embeddings.grad / math.exp(30), plain.grad, rtol=1e-4, atol=1e-6)


def test_focal_tangent_joins_the_exponential():
    labels = torch.tensor([0, 0, 1])
    near, far = (
        triplet_focal_loss(torch.tensor([[0.0], [at], [at + 0.01]], dtype=torch.float64), labels)
        for at in (29.999, 30.001)
    )
    assert float(far / near) == pytest.approx(math.exp(0.002), rel=1e-3)


def _contrastive(to_positive, to_negative, weight):
    if to_negative > to_positive:
        return weight * to_negative, True
    return -math.log(math.exp(to_positive) / (math.exp(to_positive) + math.exp(to_negative))), False


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("positives", ["hardest", "easiest", "all"])
def test_selectively_contrastive_equals_the_formula(positives, reduction):
    embeddings, labels = batch(seed=6)
    embeddings[labels == 0, 0] += 4  # one class apart, the others mixed
    terms = []
    for same, other in pairs(embeddings, labels, squared=True, normalize=True):
        same, other = [1 - d / 2 for d in same], [1 - d / 2 for d in other]  # cosines from distances on the sphere
        chosen = {"hardest": [min(same, default=0)], "easiest": [max(same, default=0)], "all": same}[positives]
        terms += [_contrastive(s, max(other), 0.7) for s in chosen if same]
    assert {hard for _, hard in terms} == {True, False}
    expected = pytest.approx(reduce([loss for loss, _ in terms], reduction), rel=1e-5)
    options = {"negative_weight": 0.7, "positives": positives, "reduction": reduction}
    assert float(selectively_contrastive_triplet_loss(embeddings, labels, **options)) == expected


def test_selectively_contrastive_does_not_move_the_positive_of_a_hard_triplet():
    embeddings, labels = batch(3, 4, seed=8)
    labels[:] = labels.new_tensor([0, 0, 1])
    embeddings[2] = embeddings[0] + 0.1 * embeddings[1]  # much closer to sample 0 than sample 1 is
    embeddings.requires_grad_()
    selectively_contrastive_triplet_loss(embeddings, labels).backward()
    # Both anchors have sample 2 as their negative, and only these two similarities appear in the gradient.
    moved = embeddings.detach().clone().requires_grad_()
    values = moved / moved.norm(dim=1, keepdim=True)
    ((values[0] @ values[2] + values[1] @ values[2]) / 2).backward()
    assert embeddings.grad[0].any()
    assert embeddings.grad.numpy() == pytest.approx(moved.grad.numpy(), abs=1e-9)


def test_invalid_options_are_rejected():
    with pytest.raises(ValueError, match="positives is 'hard'"):
        selectively_contrastive_triplet_loss(*batch(), positives="hard")
    with pytest.raises(ValueError, match="sigma is 0"):
        triplet_focal_loss(*batch(), sigma=0)
