import math

import pytest
import torch

from mura_hf.losses import class_weights, weighted_cross_entropy


def test_weights_are_the_shares_of_the_other_class():
    torch.testing.assert_close(class_weights(torch.tensor([0, 0, 0, 1])), torch.tensor([0.25, 0.75]))
    with pytest.raises(ValueError, match="one class only"):
        class_weights(torch.tensor([1, 1]))


def test_equals_the_papers_formula():
    logits = torch.tensor([[0.3, -1.2], [2.0, 0.5], [-0.7, 0.1]])
    labels, weights = torch.tensor([1, 0, 1]), torch.tensor([0.4, 0.6])
    expected = 0.0
    for (z0, z1), label in zip(logits.tolist(), labels.tolist(), strict=True):
        p = 1 / (1 + math.exp(z0 - z1))
        expected -= 0.6 * label * math.log(p) + 0.4 * (1 - label) * math.log(1 - p)
    assert float(weighted_cross_entropy(logits, labels, weights)) == pytest.approx(expected / 3, abs=1e-6)


def test_unweighted_equals_torch():
    logits, labels = torch.randn(9, 2), torch.randint(0, 2, (9,))
    for smoothing in (0.0, 0.1):
        torch.testing.assert_close(
            weighted_cross_entropy(logits, labels, label_smoothing=smoothing),
            torch.nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing),
        )


def test_half_precision_stays_finite():
    logits = torch.tensor([[300.0, -300.0]], dtype=torch.bfloat16, requires_grad=True)
    loss = weighted_cross_entropy(logits, torch.tensor([1]))
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()
