"""What holds for every loss on embeddings, and how training configs name them."""

import pytest
import torch

from mura_hf.errors import ConfigError
from mura_hf.losses import METRIC_LOSSES, build_metric_loss, triplet_margin_loss
from mura_hf.losses.pairs import REDUCTIONS

from .by_hand import batch

every_loss = pytest.mark.parametrize("loss", METRIC_LOSSES.values(), ids=METRIC_LOSSES)


@every_loss
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradients_are_right_in_float64(loss, reduction):
    embeddings, labels = batch(10, 4, seed=9)
    embeddings.requires_grad_()
    assert loss(embeddings, labels).dtype == torch.float64
    assert torch.autograd.gradcheck(lambda values: loss(values, labels, reduction=reduction), embeddings)


@every_loss
def test_half_precision_is_computed_in_single(loss):
    embeddings, labels = batch(16, 8)
    for dtype in (torch.bfloat16, torch.float16):
        rounded = embeddings.to(dtype).requires_grad_()
        found = loss(rounded, labels)
        found.backward()
        assert found.dtype == torch.float32
        assert torch.isfinite(rounded.grad).all()
        assert rounded.grad.any()
        exact = loss(rounded.detach().double(), labels)
        torch.testing.assert_close(found.detach().double(), exact, rtol=1e-5, atol=0)
    alone, inside = (embeddings.float().requires_grad_() for _ in range(2))
    loss(alone, labels).backward()
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(inside, labels)
    found.backward()
    assert found.dtype == torch.float32
    torch.testing.assert_close(inside.grad, alone.grad)


@every_loss
@pytest.mark.parametrize("reduction", REDUCTIONS)
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
    embeddings, labels = batch(12, 4)
    embeddings[1] = embeddings[0]
    embeddings[5] = embeddings[4]
    for values in (embeddings, embeddings[:1].expand(12, 4), torch.zeros(12, 4)):
        values = values.float().clone().requires_grad_()
        found = loss(values, labels)
        found.backward()
        assert torch.isfinite(found)
        assert torch.isfinite(values.grad).all()


@every_loss
def test_rejects_shapes_and_reductions(loss):
    embeddings, labels = batch()
    with pytest.raises(ValueError, match=r"must be \[B, E\] and \[B\]"):
        loss(embeddings, labels[:-1])
    with pytest.raises(ValueError, match="at least one"):
        loss(embeddings[:0], labels[:0])
    with pytest.raises(ValueError, match="reduction is 'average'"):
        loss(embeddings, labels, reduction="average")


def test_a_loss_is_built_by_name():
    embeddings, labels = batch()
    built = build_metric_loss({"name": "triplet_margin", "margin": 1, "reduction": "sum"})
    assert built(embeddings, labels) == triplet_margin_loss(embeddings, labels, margin=1.0, reduction="sum")
    assert built(embeddings, labels) != build_metric_loss({"name": "triplet_margin"})(embeddings, labels)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "batch_hard"}, "unknown name 'batch_hard'; did you mean .batch_hard_triplet"),
        ({"name": "hinge"}, "unknown name 'hinge'; choose one of triplet_margin, semi_hard_triplet"),
        ({"margin": 1.0}, "unknown name None"),
        ({"name": ["triplet_focal"]}, "unknown name"),
        ({"name": "triplet_focal", "sigm": 1.0}, "unknown option 'sigm'; did you mean .sigma"),
        ({"name": "triplet_focal", "sigma": "1e-1"}, "sigma is '1e-1', but must be a number"),
        ({"name": "triplet_focal", "squared": 1}, "squared is 1, but must be true or false"),
        ({"name": "triplet_focal", "sigma": 0}, "sigma is 0: it must be above 0"),
        ({"name": "triplet_focal", "reduction": "means"}, "reduction is 'means'"),
    ],
)
def test_unknown_names_and_options_are_rejected(settings, message):
    with pytest.raises(ConfigError, match=message):
        build_metric_loss(settings)
