from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from mura_hf.training import Recipe
from mura_hf.training.optimizing import RateSchedule, make_optimizer

RECIPE = Recipe(pretrained=False, learning_rate=0.1, weight_decay=0.3, epochs=8, warmup_fraction=0.0)


def _model():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("name", "kind"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)]
)
def test_biases_and_norms_are_not_decayed(name, kind):
    model = _model()
    model[2].requires_grad_(False)
    optimizer = make_optimizer(model, replace(RECIPE, optimizer=name, momentum=0.7))
    assert type(optimizer) is kind
    decayed, others = optimizer.param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.3, 0.0)
    assert [parameter.shape for parameter in decayed["params"]] == [(4, 3)]
    assert len(others["params"]) == 3
    assert name != "sgd" or decayed["momentum"] == 0.7


def test_adams_decay_is_a_term_of_the_gradient_and_adamws_is_not():
    moved = {}
    for name in ("adam", "adamw"):
        model = nn.Linear(1, 1, bias=False)
        nn.init.constant_(model.weight, 2.0)
        optimizer = make_optimizer(model, replace(RECIPE, optimizer=name))
        model(torch.zeros(1, 1)).sum().backward()  # a gradient of 0
        optimizer.step()
        moved[name] = 2.0 - model.weight.item()
    # Adam divides the L2 term by its own size and so steps by the rate; AdamW takes rate x decay x weight.
    assert moved == pytest.approx({"adam": 0.1, "adamw": 0.1 * 0.3 * 2}, rel=1e-5)


def test_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match="raise train_last"):
        make_optimizer(_model().requires_grad_(False), RECIPE)


def _rates(recipe, losses=None, steps=5):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=recipe.learning_rate)
    schedule, rates = RateSchedule(optimizer, recipe, steps), []
    for epoch in range(recipe.epochs):
        for _ in range(steps):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        if losses:
            schedule.end_epoch(losses[epoch])
    return np.array(rates).reshape(recipe.epochs, steps)


def test_step_is_torchs():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    reference, expected = StepLR(optimizer, step_size=3, gamma=0.3), []
    for _ in range(RECIPE.epochs):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    rates = _rates(replace(RECIPE, schedule="step", step_epochs=3, gamma=0.3))
    np.testing.assert_allclose(rates, np.repeat(np.array(expected)[:, None], 5, 1))


@pytest.mark.parametrize("patience", [0, 1, 2])
def test_plateau_is_torchs(patience):
    losses = [1.0, 0.9, 0.90001, 0.95, 0.9, 0.89, 0.9, 0.9]
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    reference, expected = ReduceLROnPlateau(optimizer, factor=0.1, patience=patience), []
    for loss in losses:
        expected.append(optimizer.param_groups[0]["lr"])
        reference.step(loss)
    rates = _rates(replace(RECIPE, schedule="plateau", plateau_factor=0.1, plateau_patience=patience), losses)
    assert len(set(expected)) > 1
    np.testing.assert_allclose(rates, np.repeat(np.array(expected)[:, None], 5, 1))


def test_constant_and_cosine_rise_first():
    constant = _rates(replace(RECIPE, schedule="constant", warmup_fraction=0.25)).ravel()
    np.testing.assert_allclose(constant, np.minimum(np.arange(40) / 10, 1) * 0.1)
    cosine = _rates(replace(RECIPE, schedule="cosine", warmup_fraction=0.25)).ravel()
    falling = 0.05 * (1 + np.cos(np.pi * np.arange(30) / 30))
    np.testing.assert_allclose(cosine, np.r_[np.arange(10) / 100, falling])
