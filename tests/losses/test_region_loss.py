import math

import pytest
import torch

from mura_hf.losses import region_loss


def test_equals_the_formula_by_hand():
    scores = torch.tensor([[[2.0, -1.0], [0.5, 0.0]]])
    regions = torch.zeros(1, 4, 4, dtype=torch.bool)
    regions[0, 1, 1] = True  # one pixel is enough for the position above it
    softplus = [math.log1p(math.exp(z)) for z in (-2.0, -1.0, 0.5, 0.0)]
    expected = (10 * softplus[0] + sum(softplus[1:])) / 4
    assert float(region_loss(scores, regions, torch.tensor([True]), inside_weight=10.0)) == pytest.approx(
        expected, abs=1e-6
    )


def test_images_without_a_known_place_are_skipped():
    scores, regions = torch.randn(3, 4, 4), torch.rand(3, 32, 32) > 0.9
    all_but_one = region_loss(scores, regions, torch.tensor([True, False, True]))
    torch.testing.assert_close(
        all_but_one, region_loss(scores[[0, 2]], regions[[0, 2]], torch.ones(2, dtype=torch.bool))
    )


def test_nothing_known_gives_zero_with_a_gradient():
    scores = torch.randn(2, 4, 4, requires_grad=True)
    loss = region_loss(scores, torch.zeros(2, 8, 8, dtype=torch.bool), torch.zeros(2, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(scores.grad, torch.zeros_like(scores))
