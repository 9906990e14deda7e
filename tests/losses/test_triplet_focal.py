import math

import pytest
import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.miners import BatchHardMiner

from mura_hf.losses import batch_hard_triplet_loss, triplet_focal_loss

from .by_hand import batch, hardest, reduce


@pytest.mark.parametrize("reduction", ["sum", "mean", "mean_nonzero"])
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_equals_the_formula(reduction, squared, normalize):
    embeddings, labels = batch()
    embeddings[labels == 0, 0] += 4
    losses = [
        max(0.0, math.exp(far / 0.6) - math.exp(near / 0.6) + 0.3)
        for far, near in hardest(embeddings, labels, squared=squared, normalize=normalize)
    ]
    assert 0 in losses
    expected = pytest.approx(reduce(losses, reduction), rel=1e-5)
    options = {"margin": 0.3, "sigma": 0.6, "squared": squared, "normalize": normalize, "reduction": reduction}
    assert float(triplet_focal_loss(embeddings, labels, **options)) == expected
    assert float(triplet_focal_loss(embeddings.float(), labels, **options)) == expected


def test_equals_the_formula_on_pytorch_metric_learnings_pairs():
    embeddings, labels = batch(seed=5)
    distance = LpDistance(normalize_embeddings=False)
    anchors, positives, negatives = BatchHardMiner(distance=distance)(embeddings, labels)
    between = distance(embeddings).tolist()
    expected = sum(
        max(0.0, math.exp(between[a][p]) - math.exp(between[a][n]) + 0.2)
        for a, p, n in zip(anchors.tolist(), positives.tolist(), negatives.tolist(), strict=True)
    )
    assert float(triplet_focal_loss(embeddings, labels)) == pytest.approx(expected, rel=1e-5)


def test_huge_distances_stay_finite_and_pull_as_the_plain_loss_does():
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


def test_the_tangent_joins_the_exponential():
    labels = torch.tensor([0, 0, 1])
    near, far = (
        triplet_focal_loss(torch.tensor([[0.0], [at], [at + 0.01]], dtype=torch.float64), labels)
        for at in (29.999, 30.001)
    )
    assert float(far / near) == pytest.approx(math.exp(0.002), rel=1e-3)


def test_refuses_a_sigma_that_is_none():
    with pytest.raises(ValueError, match="sigma is 0"):
        triplet_focal_loss(*batch(), sigma=0)
