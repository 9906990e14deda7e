import pytest
import timm
import torch
from torch import nn

from mura_hf import CheckpointError, MuraConfig
from mura_hf.models.backbone_mura import backbone_stages, create_backbone, freeze_backbone, freeze_norm_statistics

# Name, side in px, number of stages, what begins the names of the last stage's parameters and of the one before's.
BACKBONES = [
    (
        "densenet169",
        32,
        4,
        ("features.denseblock4.", "features.norm5."),
        ("features.denseblock3.", "features.transition3."),
    ),
    ("resnet50", 32, 4, ("layer4.",), ("layer3.",)),
    ("convnext_atto", 32, 4, ("stages.3.", "head.norm."), ("stages.2.",)),
    ("convnext_tiny_hnf", 32, 4, ("stages.3.", "norm_pre."), ("stages.2.",)),
    ("swin_tiny_patch4_window7_224", 56, 4, ("layers.3.", "norm."), ("layers.2.",)),
    ("vit_tiny_patch16_224", 32, 12, ("blocks.11.", "norm."), ("blocks.10.",)),
    ("vit_medium_patch16_reg1_gap_256", 32, 12, ("blocks.11.", "norm.", "fc_norm."), ("blocks.10.",)),
    ("vit_small_patch16_rope_mixed_224", 32, 12, ("blocks.11.", "norm."), ("blocks.10.",)),  # rope.freqs serve all
    ("efficientnet_b0", 32, 7, ("blocks.6.", "conv_head.", "bn2."), ("blocks.5.",)),
    ("inception_v3", 96, 12, ("Mixed_7c.",), ("Mixed_7b.",)),
    ("cnn2", 32, 2, ("stages.1.", "fc."), ("stages.0.",)),
    ("cnn4", 32, 4, ("stages.3.", "fc."), ("stages.2.",)),
    ("cnn15", 32, 5, ("stages.4.", "fc."), ("stages.3.",)),
    ("wrist_cnn", 32, 4, ("stages.3.", "fc."), ("stages.2.",)),
]
WITH_STATISTICS = ("densenet169", "resnet50", "efficientnet_b0", "inception_v3", "cnn15", "wrist_cnn")
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def _trained(backbone):
    return {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}


def _beginning(backbone, prefixes):
    return {name for name, _ in backbone.named_parameters() if name.startswith(prefixes)}


@pytest.mark.parametrize(("name", "side", "count", "last", "before"), BACKBONES)
def test_exactly_what_is_asked_for_trains(name, side, count, last, before):
    backbone = create_backbone(MuraConfig(backbone=name, image_size=side))
    names = [parameter for parameter, _ in backbone.named_parameters()]
    stem, *stages = backbone_stages(backbone)
    assert len(stages) == count
    assert sorted(parameter for stage in [stem, *stages] for parameter in stage) == sorted(names)
    assert bool(stem) != name.endswith(("cnn", "cnn2", "cnn4", "cnn15"))

    freeze_backbone(backbone, 1)
    assert _trained(backbone) == _beginning(backbone, last)
    freeze_backbone(backbone, 2)
    assert _trained(backbone) == _beginning(backbone, last + before)
    freeze_backbone(backbone, count)
    assert _trained(backbone) == set(names) - set(stem)
    freeze_backbone(backbone, 0)
    assert not _trained(backbone)
    freeze_backbone(backbone, None)
    assert _trained(backbone) == set(names)


@pytest.mark.parametrize(
    ("name", "side", "train_last"),
    [(row[0], row[1], k) for row in BACKBONES if row[0] in WITH_STATISTICS for k in (0, 1)],
)
def test_frozen_norms_keep_their_statistics(name, side, train_last):
    torch.manual_seed(0)
    backbone = create_backbone(MuraConfig(backbone=name, image_size=side))
    freeze_backbone(backbone, train_last)
    trained = _trained(backbone)
    before = {key: value.clone() for key, value in backbone.named_buffers() if key.endswith(STATISTICS)}
    assert before
    backbone.train()
    freeze_norm_statistics(backbone)
    assert backbone.training
    backbone.forward_head(backbone.forward_features(torch.randn(4, 3, side, side)), pre_logits=True)
    for key, value in backbone.named_buffers():
        if key.endswith(STATISTICS):
            changed = not torch.equal(value, before[key])
            assert changed == (key.rpartition(".")[0] + ".weight" in trained), key


def test_timms_norm_with_activation_is_kept_still():
    backbone = timm.create_model("efficientnet_b0", num_classes=0)
    norms = [module for module in backbone.modules() if isinstance(module, timm.layers.BatchNormAct2d)]
    freeze_backbone(backbone, 0)
    freeze_norm_statistics(backbone.train())
    assert len(norms) > 40
    assert not any(norm.training for norm in norms)


def test_a_norm_that_trains_in_part_is_left_alone():
    norms = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2), nn.BatchNorm1d(2, affine=False), nn.LayerNorm(2))
    norms.requires_grad_(False)
    norms[1].bias.requires_grad_(True)
    freeze_norm_statistics(norms.train())
    assert [norm.training for norm in norms] == [False, True, True, True]


@pytest.mark.parametrize("name", ["pit_ti_224", "poolformer_s12", "csatv2", "rdnet_tiny"])
def test_a_backbone_that_cannot_tell_its_stages_is_refused(name):
    with torch.device("meta"):
        backbone = timm.create_model(name, num_classes=0)
    with pytest.raises(CheckpointError, match=rf"{name} does not define its stages; .*0 .*None .*densenet169"):
        freeze_backbone(backbone, 1)
    assert _trained(backbone) == {key for key, _ in backbone.named_parameters()}
    freeze_backbone(backbone, 0)
    assert not _trained(backbone)


def test_a_backbone_of_one_piece_is_refused():
    class OnePiece(nn.Linear):
        def group_matcher(self, coarse=False):
            return {"stem": "^weight"}

    with pytest.raises(CheckpointError, match="OnePiece is not divided into stages; use train_last 0"):
        freeze_backbone(OnePiece(2, 2), 1)


def test_numbers_out_of_range_are_refused():
    backbone = timm.create_model("resnet10t", num_classes=0)
    with pytest.raises(CheckpointError, match="train_last is 5, but resnet10t has 4 stages; give at most that many"):
        freeze_backbone(backbone, 5)
    with pytest.raises(CheckpointError, match="train_last is -1"):
        freeze_backbone(backbone, -1)
    assert all(parameter.requires_grad for parameter in backbone.parameters())
