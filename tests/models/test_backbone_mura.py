import pytest

from mura_hf import CheckpointError, MuraConfig, MuraForImageClassification
from mura_hf.models.backbone_mura import SmallCnn, create_backbone


def test_densenet169_counts_as_study_e_prints_it():
    backbone = create_backbone(MuraConfig(backbone="densenet169"))
    parameters = sum(parameter.numel() for parameter in backbone.parameters())
    statistics = sum(value.numel() for name, value in backbone.named_buffers() if "running" in name)
    assert (parameters, statistics, parameters + statistics) == (12_484_480, 158_400, 12_642_880)


def test_our_names_are_built_as_the_config_says():
    backbone = create_backbone(
        MuraConfig(backbone="cnn4", image_size=48, num_channels=1, backbone_kwargs={"dropout": 0.1})
    )
    assert isinstance(backbone, SmallCnn)
    assert backbone.stages[0][0].in_channels == 1
    assert backbone.image_size == 48
    assert backbone.dropout.p == 0.1


def test_an_unknown_name_is_told_both_lists():
    with pytest.raises(CheckpointError, match=r"'cnn3'.*timm\.list_models.*cnn2, cnn4, cnn15, wrist_cnn"):
        create_backbone(MuraConfig(backbone="cnn3"))


def test_ours_have_no_pretrained_weights():
    with pytest.raises(CheckpointError, match="no pretrained weights for wrist_cnn: it is trained from scratch"):
        MuraForImageClassification.from_timm("wrist_cnn", image_size=32)
