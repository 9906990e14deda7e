"""Rates by layers, against numbers that are counted by hand from what each architecture is made of."""

import pytest
import torch
from torch import nn

from mura_hf import ConfigError, MuraConfig, MuraForImageClassification
from mura_hf.models.backbone_mura import freeze_backbone
from mura_hf.training.parameter_groups import parameter_groups
from tests.conftest import SMALL, make_model

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


def _check(model, expected, classifier="classifier"):
    """Every parameter has the rate of the longest prefix of its name."""
    rates = _rates(model)
    assert set(rates) == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, (rate, decay) in rates.items():
        inner = name.removeprefix("mura.backbone.")
        prefix = max((one for one in expected if inner.startswith(one)), key=len, default=None)
        layers = 0 if inner == name else expected[prefix]
        assert rate == pytest.approx(DECAY**layers), name
        assert decay == (0.3 if model.get_parameter(name).ndim > 1 else 0.0), name
    assert rates[f"{classifier}.weight"][0] == 1.0


def _model(backbone, **options):
    size = options.pop("image_size", 64)
    return MuraForImageClassification(
        MuraConfig(backbone=backbone, backbone_kwargs=options, image_size=size, body_part_head=True)
    )


def test_convnext_has_a_layer_for_each_block():
    model = _model("convnext_atto", depths=[1, 1, 2, 1], dims=[8, 8, 16, 16])
    # Head 0, then five blocks, the last stage's first; downsampling belongs to the block behind it; stem last.
    _check(model, {
        "head": 0, "stages.3": 1, "stages.2.blocks.1": 2, "stages.2.blocks.0": 3, "stages.2.downsample": 3,
        "stages.1": 4, "stages.0": 5, "stem": 6,
    })  # fmt: skip


def test_resnet_has_a_layer_for_each_block():
    model = _model("resnet18", channels=[8, 8, 8, 8])
    blocks = {f"layer{stage}.{block}": 2 * (4 - stage) + (1 - block) + 1 for stage in (1, 2, 3, 4) for block in (0, 1)}
    _check(model, {**blocks, "conv1": 9, "bn1": 9})


def test_densenet_has_one_for_each_dense_layer_and_transitions_go_with_the_last_before_them():
    model = _model("densenet121", growth_rate=8, block_config=[2, 1, 2])
    _check(model, {
        "features.norm5": 0, "features.denseblock3.denselayer2": 1, "features.denseblock3.denselayer1": 2,
        "features.transition2": 3, "features.denseblock2.denselayer1": 3,
        "features.transition1": 4, "features.denseblock1.denselayer2": 4, "features.denseblock1.denselayer1": 5,
        "features.conv0": 6, "features.norm0": 6,
    })  # fmt: skip


def test_a_vision_transformer_has_one_for_each_block():
    model = _model("vit_tiny_patch16_224", depth=3, embed_dim=24, num_heads=3)
    _check(model, {
        "norm": 1, "blocks.2": 1, "blocks.1": 2, "blocks.0": 3, "cls_token": 4, "pos_embed": 4, "patch_embed": 4,
    })  # fmt: skip


def test_small_networks_of_ours_have_one_for_each_stage():
    _check(_model("cnn2"), {"fc": 0, "stages.1": 1, "stages.0": 2})
    wrist = _model("wrist_cnn")  # with batch norm, which does not make layers of its own
    assert {rate for name, (rate, _) in _rates(wrist).items() if ".stages.0." in name} == {DECAY**4}


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


def test_a_backbone_that_does_not_tell_its_layers_apart_is_refused(monkeypatch):
    model = MuraForImageClassification(MuraConfig(**SMALL))
    monkeypatch.delattr(type(model.mura.backbone), "group_matcher")
    with pytest.raises(ConfigError, match="resnet10t does not tell its layers apart; set it to 1"):
        parameter_groups(model, learning_rate=0.1, weight_decay=0.3, layer_decay=0.9)


def test_rates_move_weights_by_layers():
    model = _model("convnext_atto", depths=[1, 1, 1, 1], dims=[8, 8, 16, 16])
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(parameter_groups(model, learning_rate=1.0, weight_decay=0.0, layer_decay=DECAY))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    moved = {name: float((before[name] - parameter.detach()).mean()) for name, parameter in model.named_parameters()}
    assert moved["classifier.weight"] == pytest.approx(1.0, abs=1e-5)
    assert moved["mura.backbone.stem.0.weight"] == pytest.approx(DECAY**5, abs=1e-5)


def test_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match="raise train_last"):
        parameter_groups(nn.Linear(2, 2).requires_grad_(False), learning_rate=1.0, weight_decay=0.0, layer_decay=0.5)
