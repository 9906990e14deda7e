"""Optimizers, schedules and averages against torch's own; learning rates by layers against numbers counted by hand."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from mura_hf import ConfigError, MuraConfig, MuraForImageClassification
from mura_hf.models.backbone_mura import freeze_backbone
from mura_hf.training import TrainingConfig
from mura_hf.training.optimization import (
    LearningRateSchedule,
    average_weights,
    make_optimizer,
    parameter_groups,
    with_epoch,
)
from tests.checkpoints import SMALL, make_model

CONFIG = TrainingConfig().replace(pretrained=False, learning_rate=0.1, weight_decay=0.3, epochs=8, warmup_fraction=0.0)


def _small():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("name", "kind"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)]
)
def test_biases_and_norms_are_not_decayed(name, kind):
    model = _small()
    model[2].requires_grad_(False)
    optimizer = make_optimizer(model, CONFIG.replace(optimizer=name, momentum=0.7))
    assert type(optimizer) is kind
    decayed, others = optimizer.param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.3, 0.0)
    assert [parameter.shape for parameter in decayed["params"]] == [(4, 3)]
    assert len(others["params"]) == 3
    assert name != "sgd" or decayed["momentum"] == 0.7


def test_an_optimizer_needs_trained_parameters():
    with pytest.raises(ValueError, match="raise train_last"):
        make_optimizer(_small().requires_grad_(False), CONFIG)


def _curve(config, losses=None, steps=5):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=config.training.learning_rate)
    schedule, rates = LearningRateSchedule(optimizer, config, steps), []
    for epoch in range(config.training.epochs):
        for _ in range(steps):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        if losses:
            schedule.end_epoch(losses[epoch])
    return np.array(rates).reshape(config.training.epochs, steps)


@pytest.mark.parametrize(
    ("kind", "theirs", "ours"),
    [
        (StepLR, {"step_size": 3, "gamma": 0.3}, {"schedule": "step", "step_epochs": 3, "gamma": 0.3}),
        (ReduceLROnPlateau, {"factor": 0.1, "patience": 0}, {"schedule": "plateau", "plateau_patience": 0}),
        (ReduceLROnPlateau, {"factor": 0.1, "patience": 1}, {"schedule": "plateau", "plateau_patience": 1}),
    ],
)
def test_step_and_plateau_are_torchs(kind, theirs, ours):
    losses = [1.0, 0.9, 0.90001, 0.95, 0.9, 0.89, 0.9, 0.9]
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    reference, expected = kind(optimizer, **theirs), []
    for loss in losses:
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step(*[loss] * (kind is ReduceLROnPlateau))
    rates = _curve(CONFIG.replace(plateau_factor=0.1, **ours), losses)
    assert len(set(expected)) > 1
    np.testing.assert_allclose(rates, np.repeat(np.array(expected)[:, None], 5, 1))


def test_constant_and_cosine_rise_first():
    constant = _curve(CONFIG.replace(schedule="constant", warmup_fraction=0.25)).ravel()
    np.testing.assert_allclose(constant, np.minimum(np.arange(40) / 10, 1) * 0.1)
    cosine = _curve(CONFIG.replace(schedule="cosine", warmup_fraction=0.25)).ravel()
    falling = 0.05 * (1 + np.cos(np.pi * np.arange(30) / 30))
    np.testing.assert_allclose(cosine, np.r_[np.arange(10) / 100, falling])


DECAY = 0.5


def _rates(model, **options):
    """Name of each parameter -> how often the rate was multiplied by the decay, and its weight decay."""
    groups = parameter_groups(model, learning_rate=1.0, weight_decay=0.3, **{"layer_decay": DECAY, **options})
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {}
    for group in groups:
        for parameter in group["params"]:
            assert names[id(parameter)] not in found
            found[names[id(parameter)]] = (group["lr"], group["weight_decay"])
    return found


def _model(backbone, **options):
    return MuraForImageClassification(
        MuraConfig(backbone=backbone, backbone_kwargs=options, image_size=64, body_part_head=True)
    )


@pytest.mark.parametrize(
    ("backbone", "options", "layers"),
    [
        # Head 0, then the blocks, the last stage's first; downsampling belongs to the block behind it; stem last.
        ("convnext_atto", {"depths": [1, 1, 2, 1], "dims": [8, 8, 16, 16]}, {
            "head": 0, "stages.3": 1, "stages.2.blocks.1": 2, "stages.2.blocks.0": 3, "stages.2.downsample": 3,
            "stages.1": 4, "stages.0": 5, "stem": 6,
        }),
        ("resnet18", {"channels": [8, 8, 8, 8]}, {
            **{f"layer{4 - n // 2}.{1 - n % 2}": n + 1 for n in range(8)}, "conv1": 9, "bn1": 9,
        }),
        # A layer for each dense layer; a transition goes with the last one before it.
        ("densenet121", {"growth_rate": 8, "block_config": [2, 1, 2]}, {
            "features.norm5": 0, "features.denseblock3.denselayer2": 1, "features.denseblock3.denselayer1": 2,
            "features.transition2": 3, "features.denseblock2.denselayer1": 3, "features.transition1": 4,
            "features.denseblock1.denselayer2": 4, "features.denseblock1.denselayer1": 5, "features.conv0": 6,
            "features.norm0": 6,
        }),
        ("vit_tiny_patch16_224", {"depth": 3, "embed_dim": 24, "num_heads": 3}, {
            "norm": 1, "blocks.2": 1, "blocks.1": 2, "blocks.0": 3, "cls_token": 4, "pos_embed": 4, "patch_embed": 4,
        }),
        ("cnn2", {}, {"fc": 0, "stages.1": 1, "stages.0": 2}),
    ],
)  # fmt: skip
def test_rates_fall_from_layer_to_layer(backbone, options, layers):
    """Every parameter has the rate of the longest prefix of its name."""
    model = _model(backbone, **options)
    rates = _rates(model)
    assert set(rates) == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, (rate, decay) in rates.items():
        inner = name.removeprefix("mura.backbone.")
        prefix = max((one for one in layers if inner.startswith(one)), key=len, default=None)
        assert rate == pytest.approx(DECAY ** (0 if inner == name else layers[prefix])), name
        assert decay == (0.3 if model.get_parameter(name).ndim > 1 else 0.0), name
    assert rates["classifier.weight"][0] == 1.0


def test_batch_norm_makes_no_layers_of_its_own():
    assert {rate for name, (rate, _) in _rates(_model("wrist_cnn")).items() if ".stages.0." in name} == {DECAY**4}


def test_frozen_layers_count_and_are_left_out():
    model = _model("resnet18", channels=[8, 8, 8, 8])
    freeze_backbone(model.mura.backbone, 1)
    rates = _rates(model)
    assert {name.split(".")[2] for name in rates if name.startswith("mura.")} == {"layer4"}
    assert {rate for rate, _ in rates.values()} == {1.0, DECAY, DECAY**2}


def test_each_branch_of_a_fusenet_is_counted_by_itself():
    model = make_model("mura_fusenet")
    rates = _rates(model)
    for branch in ("global_branch", "local_branch"):
        assert rates[f"{branch}.mura.backbone.layer4.0.conv1.weight"] == (DECAY, 0.3)
        assert rates[f"{branch}.mura.backbone.layer1.0.conv1.weight"] == (DECAY**4, 0.3)
    assert rates["classifier.weight"] == (1.0, 0.3)


def test_one_is_one_rate_for_all():
    groups = parameter_groups(MuraForImageClassification(MuraConfig(**SMALL)), learning_rate=0.1, weight_decay=0.3)
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(0.1, 0.3), (0.1, 0.0)]


def test_a_backbone_without_known_layers_is_refused(monkeypatch):
    model = MuraForImageClassification(MuraConfig(**SMALL))
    monkeypatch.delattr(type(model.mura.backbone), "group_matcher")
    with pytest.raises(ConfigError, match="the layers of backbone resnet10t are not known; set it to 1"):
        parameter_groups(model, learning_rate=0.1, weight_decay=0.3, layer_decay=0.9)


def _weights(value):
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    for parameter in model.parameters():
        nn.init.constant_(parameter, value)
    model[1].running_mean.fill_(2 * value)
    model[1].num_batches_tracked.fill_(int(value))
    return model.state_dict()


def test_the_best_are_kept_and_of_two_alike_the_earlier():
    top = {}
    for epoch, score in enumerate([0.6, 0.8, 0.7, 0.8, 0.5, 0.8], 1):
        top = with_epoch(top, epoch, score, 2)
    assert top == {2: 0.8, 4: 0.8}


def test_weights_are_averaged_and_counts_are_those_of_the_best(tmp_path):
    files = {epoch: tmp_path / f"top-{epoch}.safetensors" for epoch in (2, 4)}
    for epoch, file in files.items():
        save_file(_weights(float(epoch)), file)
    mean = average_weights(files, {2: 0.8, 4: 0.8})
    assert torch.equal(mean["0.weight"], torch.full((2, 2), 3.0))
    assert torch.equal(mean["1.running_mean"], torch.full((2,), 6.0))
    assert mean["1.num_batches_tracked"] == 2  # of the better, the earlier of two alike
