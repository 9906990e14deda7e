import math

import pytest
import torch

from mura_hf.losses import region_loss


def test_equals_the_formula_by_hand():
    scores = torch.tensor([[[2.0, -1.0], [0.5, 0.0]]])
    regions = torch.zeros(1, 4, 4, dtype=torch.bool)
    regions[0, 1, 1] = True  # one pixel is enough for the position above it
    softplus = [math.log1p(math.exp(z)) for z in (-2.0, -1.0, 0.5, 0.0)]
    expected = (4 * softplus[0] + sum(softplus[1:])) / 4
    found = region_loss(scores, regions, torch.tensor([True]))
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_images_without_a_known_place_are_skipped():
    scores, regions = torch.randn(3, 4, 4), torch.rand(3, 32, 32) > 0.9
    known = torch.tensor([True, False, True])
    expected = region_loss(scores[known], regions[known], known[known])
    torch.testing.assert_close(region_loss(scores, regions, known), expected)
    loss = region_loss(scores.requires_grad_(), regions, ~(known | True))  # none is known
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(scores.grad, torch.zeros_like(scores))
