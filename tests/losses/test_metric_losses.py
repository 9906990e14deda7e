"""Losses on embeddings: against their formulas in plain Python, against pytorch-metric-learning, and by name."""

import math

import pytest
import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner
from pytorch_metric_learning.reducers import MeanReducer, SumReducer

from mura_hf.errors import ConfigError
from mura_hf.losses import (
    METRIC_LOSSES,
    batch_hard_triplet_loss,
    build_metric_loss,
    selectively_contrastive_triplet_loss,
    semi_hard_triplet_loss,
    triplet_focal_loss,
    triplet_margin_loss,
)

REDUCERS = {"sum": SumReducer, "mean": MeanReducer}
every_loss = pytest.mark.parametrize("loss", METRIC_LOSSES.values(), ids=METRIC_LOSSES)
every_reduction = pytest.mark.parametrize("reduction", REDUCERS)


def _batch(n=24, size=6, seed=0):
    """Embeddings float64 `[n, size]` and labels, of which the last has a class of its own."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (n,), generator=generator)
    labels[-1] = 3
    return torch.randn(n, size, generator=generator, dtype=torch.float64) * 0.4, labels


def _pairs(embeddings, labels, squared=False, normalize=False):
    """For each anchor: the distances to its positives and to its negatives, in plain Python."""
    rows = embeddings.tolist()
    if normalize:
        rows = [[value / math.hypot(*row) for value in row] for row in rows]
    for a, row in enumerate(rows):
        distances = [math.dist(row, other) ** (2 if squared else 1) for other in rows]
        same = [label == labels[a] for label in labels.tolist()]
        positives = [d for n, d in enumerate(distances) if same[n] and n != a]
        yield positives, [d for n, d in enumerate(distances) if not same[n]]


def _reduce(losses, reduction):
    return sum(losses) / (1 if reduction == "sum" else max(len(losses), 1))


def _all_triplets(positives, negatives, margin):
    return [max(0.0, p - n + margin) for p in positives for n in negatives]


def _semi_hard(positives, negatives, margin):
    farther = [(p, min((n for n in negatives if n > p), default=math.inf)) for p in positives]
    return [p - n + margin for p, n in farther if n - p <= margin]


def _batch_hard(positives, negatives, margin, scale=lambda d: d):
    return [max(0.0, scale(max(positives)) - scale(min(negatives)) + margin)] if positives and negatives else []


def _focal(positives, negatives, margin):
    return _batch_hard(positives, negatives, margin, math.exp)


FORMULAS = [  # with the defaults of the papers
    (triplet_margin_loss, _all_triplets, True, "mean"),
    (semi_hard_triplet_loss, _semi_hard, True, "mean"),
    (batch_hard_triplet_loss, _batch_hard, False, "sum"),
    (triplet_focal_loss, _focal, False, "sum"),
]


@every_reduction
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(("loss", "formula"), [row[:2] for row in FORMULAS])
def test_equals_the_formula(loss, formula, reduction, squared, normalize):
    embeddings, labels = _batch()
    embeddings[labels == 0, 0] += 2  # some anchors are far from the other classes
    anchors = _pairs(embeddings, labels, squared, normalize)
    losses = [value for positives, negatives in anchors for value in formula(positives, negatives, 0.3)]
    assert len(losses) > 5
    assert formula is _semi_hard or normalize or 0 in losses
    options = {"margin": 0.3, "squared": squared, "normalize": normalize, "reduction": reduction}
    for values in (embeddings, embeddings.float()):
        assert float(loss(values, labels, **options)) == pytest.approx(_reduce(losses, reduction), rel=1e-5)


@pytest.mark.parametrize(("loss", "formula", "squared", "reduction"), FORMULAS)
def test_defaults_are_those_of_the_papers(loss, formula, squared, reduction):
    embeddings, labels = _batch(seed=2)
    losses = [value for distances in _pairs(embeddings, labels, squared) for value in formula(*distances, 0.2)]
    assert float(loss(embeddings, labels)) == pytest.approx(_reduce(losses, reduction), rel=1e-5)


def _reference(margin, squared=False, reduction="sum", mined=True):
    distance = LpDistance(normalize_embeddings=False, power=2 if squared else 1)
    miner = BatchHardMiner(distance=distance)
    loss = TripletMarginLoss(margin=margin, distance=distance, reducer=REDUCERS[reduction]())
    return lambda embeddings, labels: loss(embeddings, labels, miner(embeddings, labels) if mined else None)


def _gradient(loss, embeddings, labels):
    embeddings = embeddings.detach().clone().requires_grad_()
    found = loss(embeddings, labels)
    found.backward()
    return found.detach(), embeddings.grad


@pytest.mark.parametrize(("loss", "mined"), [(batch_hard_triplet_loss, True), (triplet_margin_loss, False)])
@every_reduction
@pytest.mark.parametrize("squared", [False, True])
def test_value_and_gradient_equal_pytorch_metric_learning(loss, mined, reduction, squared):
    ours = build_metric_loss(loss.__name__[:-5], {"margin": 0.5, "squared": squared, "reduction": reduction})
    data = _batch(64, 32, seed=3)
    torch.testing.assert_close(_gradient(ours, *data), _gradient(_reference(0.5, squared, reduction, mined), *data))


def test_semi_hard_skips_negatives_that_are_not_farther_than_the_positive():
    labels = torch.tensor([0, 0, 1, 1, 1])
    line = torch.tensor([[0.0], [1.0], [1.0], [-0.5], [1.1]])  # from 0: a positive at 1, negatives at 1, .5 and 1.1
    for n, expected in ((4, 0.0), (5, 0.1)):
        found = semi_hard_triplet_loss(line[:n], labels[:n], margin=0.2, squared=False)
        assert float(found) == pytest.approx(expected, abs=1e-6)


def test_batch_hard_keeps_its_digits_under_a_common_offset():
    embeddings, labels = _batch(64, 32, seed=4)
    moved = (embeddings + 1000).float()
    exact = float(batch_hard_triplet_loss(moved.double(), labels))
    assert float(batch_hard_triplet_loss(moved, labels)) == pytest.approx(exact, rel=1e-5)


def test_focal_is_its_tangent_beyond_an_exponent_of_30():
    embeddings, labels = _batch(32, 16)
    embeddings = (embeddings * 2000).float()
    loss, gradient = _gradient(triplet_focal_loss, embeddings, labels)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient.square().sum())
    plain = _gradient(batch_hard_triplet_loss, embeddings, labels)[1]
    torch.testing.assert_close(gradient / math.exp(30), plain, rtol=1e-4, atol=1e-6)
    near, far = (  # the two pieces join
        triplet_focal_loss(torch.tensor([[0.0], [at], [at + 0.01]], dtype=torch.float64), torch.tensor([0, 0, 1]))
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
    embeddings, labels = _batch(seed=6)
    embeddings[labels == 0, 0] += 4  # one class apart, the others mixed
    terms = []
    for same, other in _pairs(embeddings, labels, squared=True, normalize=True):
        same, other = [1 - d / 2 for d in same], [1 - d / 2 for d in other]  # cosines from distances on the sphere
        chosen = {"hardest": [min(same, default=0)], "easiest": [max(same, default=0)], "all": same}[positives]
        terms += [_contrastive(s, max(other), 0.7) for s in chosen if same]
    assert {hard for _, hard in terms} == {True, False}
    expected = pytest.approx(_reduce([loss for loss, _ in terms], reduction), rel=1e-5)
    options = {"negative_weight": 0.7, "positives": positives, "reduction": reduction}
    assert float(selectively_contrastive_triplet_loss(embeddings, labels, **options)) == expected


def test_selectively_contrastive_does_not_move_the_positive_of_a_hard_triplet():
    embeddings, labels = _batch(3, 4, seed=8)[0], torch.tensor([0, 0, 1])
    embeddings[2] = embeddings[0] + 0.1 * embeddings[1]  # much closer to sample 0 than sample 1 is

    def only_the_negatives(embeddings, labels):
        """Both anchors have sample 2 as their negative, and only these two similarities appear in the gradient."""
        values = embeddings / embeddings.norm(dim=1, keepdim=True)
        return (values[0] @ values[2] + values[1] @ values[2]) / 2

    expected = _gradient(only_the_negatives, embeddings, labels)
    torch.testing.assert_close(_gradient(selectively_contrastive_triplet_loss, embeddings, labels), expected)


@every_loss
@every_reduction
def test_gradients_are_right_in_float64(loss, reduction):
    embeddings, labels = _batch(10, 4, seed=9)
    assert loss(embeddings, labels).dtype == torch.float64
    assert torch.autograd.gradcheck(
        lambda values: loss(values, labels, reduction=reduction), embeddings.requires_grad_()
    )


@every_loss
def test_half_precision_is_computed_in_single(loss):
    embeddings, labels = _batch(16, 8)
    for dtype in (torch.bfloat16, torch.float16):
        rounded = embeddings.to(dtype)
        found, gradient = _gradient(loss, rounded, labels)
        assert found.dtype == torch.float32
        assert torch.isfinite(gradient).all()
        assert gradient.any()
        torch.testing.assert_close(found.double(), loss(rounded.double(), labels), rtol=1e-5, atol=0)
    expected = _gradient(loss, embeddings.float(), labels)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(values := embeddings.float().requires_grad_(), labels)
    found.backward()
    torch.testing.assert_close((found.detach(), values.grad), expected)


@every_loss
@every_reduction
@pytest.mark.parametrize(
    "labels", [[1, 1, 1, 1], [0, 1, 2, 3], [5]], ids=["no negative", "no positive", "neither: one sample"]
)
def test_a_batch_without_a_triplet_gives_zero_with_a_gradient(loss, labels, reduction):
    for spread in (1.0, 0.0):
        embeddings = (spread * torch.randn(len(labels), 8)).requires_grad_()
        found = loss(embeddings, torch.tensor(labels), reduction=reduction)
        found.backward()
        assert found.item() == 0
        assert torch.equal(embeddings.grad, torch.zeros_like(embeddings))


@every_loss
def test_identical_embeddings_have_a_finite_gradient(loss):
    embeddings, labels = _batch(12, 4)
    embeddings[[1, 5]] = embeddings[[0, 4]]
    for values in (embeddings, embeddings[:1].expand(12, 4), torch.zeros(12, 4)):
        assert all(torch.isfinite(found).all() for found in _gradient(loss, values.float(), labels))


@every_loss
def test_rejects_shapes_and_reductions(loss):
    embeddings, labels = _batch()
    for given, options, message in (
        ((embeddings, labels[:-1]), {}, r"must be \[B, E\] and \[B\]"),
        ((embeddings[:0], labels[:0]), {}, "at least one"),
        ((embeddings, labels), {"reduction": "average"}, "reduction is 'average'"),
    ):
        with pytest.raises(ValueError, match=message):
            loss(*given, **options)


def test_a_loss_is_built_by_name():
    data = _batch()
    built = build_metric_loss("triplet_margin", {"margin": 1, "reduction": "sum"})
    assert built(*data) == triplet_margin_loss(*data, margin=1.0, reduction="sum")
    assert built(*data) != build_metric_loss("triplet_margin", {})(*data)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("batch_hard", {}, "unknown name 'batch_hard'; did you mean .batch_hard_triplet"),
        ("hinge", {}, "unknown name 'hinge'; choose one of triplet_margin, semi_hard_triplet"),
        ("triplet_focal", {"sigm": 1.0}, "unknown option 'sigm'; did you mean .sigma"),
        ("triplet_focal", {"sigma": "1e-1"}, "sigma is '1e-1', but must be a number"),
        ("triplet_focal", {"squared": 1}, "squared is 1, but must be true or false"),
        ("triplet_focal", {"sigma": 0}, "sigma is 0: it must be above 0"),
        ("triplet_focal", {"reduction": "means"}, "reduction is 'means'"),
        ("selectively_contrastive_triplet", {"positives": "hard"}, "positives is 'hard'"),
    ],
)
def test_unknown_names_and_options_are_rejected(name, options, message):
    with pytest.raises(ConfigError, match=message):
        build_metric_loss(name, options)


def test_an_option_with_a_default_of_another_kind_is_named(monkeypatch):
    monkeypatch.setitem(METRIC_LOSSES, "mine", lambda embeddings, labels, *, margins=(): embeddings.sum())
    with pytest.raises(ConfigError, match="mine: margins is 2, but must be a tuple"):
        build_metric_loss("mine", {"margins": 2})
