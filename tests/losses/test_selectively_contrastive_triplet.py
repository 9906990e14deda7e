import math

import pytest
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.miners import BatchHardMiner

from mura_hf.losses import selectively_contrastive_triplet_loss

from .by_hand import batch, pairs, reduce


def _term(to_positive, to_negative, weight):
    if to_negative > to_positive:
        return weight * to_negative, True
    return -math.log(math.exp(to_positive) / (math.exp(to_positive) + math.exp(to_negative))), False


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("positives", ["hardest", "easiest", "all"])
def test_equals_the_formula(positives, reduction):
    embeddings, labels = batch(seed=6)
    embeddings[labels == 0, 0] += 4  # one class apart, the others mixed
    terms = []
    for same, other in pairs(embeddings, labels, squared=True, normalize=True):
        same, other = [1 - d / 2 for d in same], [1 - d / 2 for d in other]  # cosines from distances on the sphere
        chosen = {"hardest": [min(same, default=0)], "easiest": [max(same, default=0)], "all": same}[positives]
        terms += [_term(s, max(other), 0.7) for s in chosen if same]
    assert {hard for _, hard in terms} == {True, False}
    expected = pytest.approx(reduce([loss for loss, _ in terms], reduction), rel=1e-5)
    options = {"negative_weight": 0.7, "positives": positives, "reduction": reduction}
    assert float(selectively_contrastive_triplet_loss(embeddings, labels, **options)) == expected
    assert float(selectively_contrastive_triplet_loss(embeddings.float(), labels, **options)) == expected


def test_equals_the_formula_on_pytorch_metric_learnings_hard_triplets():
    embeddings, labels = batch(seed=7)
    distance = CosineSimilarity()
    anchors, positives, negatives = BatchHardMiner(distance=distance)(embeddings, labels)
    cosines = distance(embeddings).tolist()
    losses = [
        _term(cosines[a][p], cosines[a][n], 1.0)[0]
        for a, p, n in zip(anchors.tolist(), positives.tolist(), negatives.tolist(), strict=True)
    ]
    found = selectively_contrastive_triplet_loss(embeddings, labels)
    assert float(found) == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_a_hard_triplet_leaves_its_positive_alone():
    embeddings, labels = batch(3, 4, seed=8)
    labels[:] = labels.new_tensor([0, 0, 1])
    embeddings[2] = embeddings[0] + 0.1 * embeddings[1]  # far nearer to 0 than 1 is
    embeddings.requires_grad_()
    selectively_contrastive_triplet_loss(embeddings[[0, 1, 2]], labels).backward()
    assert embeddings.grad[0].any()
    # The second anchor's negative is the third sample too: the positive pair shows in no gradient, so that moving the
    # first sample along the second changes nothing but what the negatives ask for.
    moved = embeddings.detach().clone().requires_grad_()
    values = moved / moved.norm(dim=1, keepdim=True)
    ((values[0] @ values[2] + values[1] @ values[2]) / 2).backward()
    assert embeddings.grad.numpy() == pytest.approx(moved.grad.numpy(), abs=1e-9)


def test_refuses_unknown_positives():
    with pytest.raises(ValueError, match="positives is 'hard'"):
        selectively_contrastive_triplet_loss(*batch(), positives="hard")
