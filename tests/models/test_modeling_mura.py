import copy
import time

import huggingface_hub.constants
import pytest
import timm
import torch
from captum.attr import LayerAttribution, LayerGradCam
from safetensors.torch import save_file
from transformers import pipeline

from mura_hf import (
    CheckpointError,
    MuraConfig,
    MuraForImageClassification,
    MuraForMetricLearning,
    MuraForStudyClassification,
    MuraFuseNetForImageClassification,
    MuraModel,
    StudyPredictor,
    read_radiograph,
)
from mura_hf.explain import grad_cam
from mura_hf.models.backbone_mura import SMALL_CNNS
from tests.checkpoints import SIDE, SMALL, make_checkpoint, make_model

ARCHITECTURES = {
    "densenet169": {"growth_rate": 8, "block_config": [2, 2, 2, 2]},
    "resnet50": {"layers": [1, 1, 1, 1]},
    "convnext_tiny": {"depths": [1, 1, 1, 1], "dims": [16, 32, 48, 64]},
    "mobilenetv3_small_050": {},
    "vit_small_patch16_224": {"depth": 2},
    "swin_tiny_patch4_window7_224": {"embed_dim": 24, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4},
    **dict.fromkeys(SMALL_CNNS),
}


def _model(backbone="resnet10t", cls=MuraForImageClassification, **fields):
    torch.manual_seed(0)
    return cls(MuraConfig(backbone=backbone, **{"image_size": 64, "body_part_head": True, **fields})).eval()


@pytest.mark.parametrize("backbone", ARCHITECTURES)
def test_round_trip_of_each_architecture(backbone, tmp_path):
    model = _model(backbone, backbone_kwargs=ARCHITECTURES[backbone])
    model.save_pretrained(tmp_path)
    again, pixel_values = MuraForImageClassification.from_pretrained(tmp_path), torch.randn(2, 3, 64, 64)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    with torch.inference_mode():
        first, second = model(pixel_values), again(pixel_values)
    for name in ("logits", "body_part_logits"):  # the memory alignment of the weights may change the last digit
        assert first[name].std() > 0
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=1e-4 * float(first.logits.std()))


def test_backbone_and_its_initialization_are_those_of_timm():
    torch.manual_seed(3)
    reference = timm.create_model("resnet18", num_classes=0)
    torch.manual_seed(3)
    model = MuraModel(MuraConfig(backbone="resnet18")).eval()
    found = model.backbone.state_dict()
    assert all(torch.equal(found[key], value) for key, value in reference.state_dict().items())
    pixel_values = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        output = model(pixel_values)
        torch.testing.assert_close(output.pooler_output, reference.eval()(pixel_values))
        torch.testing.assert_close(output.last_hidden_state, reference.forward_features(pixel_values))
    fine = _model("resnet10t", backbone_kwargs={"output_stride": 8})
    assert fine.mura.extract(torch.zeros(1, 3, 64, 64)).shape[-2:] == (8, 8)


def test_a_study_is_the_calibrated_mean_of_the_probabilities_of_its_views():
    plain = _model(cls=MuraForStudyClassification)
    model = copy.deepcopy(plain)
    model.config.update({"temperature": 2.0, "study_slope": 1.5, "study_intercept": -0.4})
    views, mask = torch.randn(2, 3, 3, 64, 64), torch.tensor([[True, True, True], [True, False, False]])
    with torch.inference_mode():
        output = model(views, mask)
        logits = torch.stack([plain.classify_views(study).logits for study in views]) / 2
    torch.testing.assert_close(output.view_logits, logits * mask[..., None])
    chances = logits.softmax(-1)[..., 1]
    mean = torch.stack([chances[0].mean(), chances[1, 0]])
    torch.testing.assert_close(output.study_logits.exp()[:, 1], torch.sigmoid(1.5 * torch.logit(mean) - 0.4))
    torch.testing.assert_close(output.view_weights, torch.tensor([[1 / 3] * 3, [1.0, 0.0, 0.0]]))
    assert output.body_part_logits.exp().sum(-1).tolist() == pytest.approx([1, 1])


def test_losses_are_cross_entropies():
    pixel_values, labels, parts = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 1, 0]), torch.tensor([0, 6, 2, 3])
    model = _model()
    output = model(pixel_values, labels=labels, body_parts=parts)
    expected = torch.nn.functional.cross_entropy(output.logits, labels)
    expected = expected + torch.nn.functional.cross_entropy(output.body_part_logits, parts)
    torch.testing.assert_close(output.loss, expected)
    output.loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    with pytest.raises(ValueError, match="no head for them; set body_part_head=True"):
        _model(body_part_head=False)(pixel_values, body_parts=parts)


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (1, 0, 3, 64, 64)])
def test_study_model_rejects_other_shapes(shape):
    with pytest.raises(ValueError, match="view"):
        _model(cls=MuraForStudyClassification)(torch.zeros(shape))


def test_score_map():
    model = _model("mobilenetv3_small_050")
    feature_map = torch.rand(2, model.mura.backbone.num_features, 1, 1)
    with torch.inference_mode():
        logits = model.classify(feature_map).logits
        torch.testing.assert_close(model.score_map(feature_map)[:, 0, 0], logits[:, 1] - logits[:, 0])
    for backbone in ("cnn4", "vit_tiny_patch16_224"):
        model = _model(backbone)
        with torch.inference_mode(), pytest.raises(CheckpointError, match="set region_weight to 0, or choose"):
            model.score_map(model.mura.extract(torch.zeros(1, 3, 64, 64)))


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (MuraModel, {}),
        (MuraForImageClassification, {"body_part_head": True}),
        (MuraForMetricLearning, {"embedding_size": 9}),
        (MuraFuseNetForImageClassification, {"crop_threshold": 0.6}),
    ],
)
def test_from_timm_loads_pretrained_weights(kind, fields, tmp_path):
    torch.manual_seed(5)
    source = timm.create_model("resnet10t", channels=[8, 16, 24, 32])
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    overlay = {"file": str(tmp_path / "weights.safetensors")}
    model = kind.from_timm(**SMALL, **fields, pretrained_cfg_overlay=overlay)
    assert type(model.config) is kind.config_class
    assert all(getattr(model.config, name) == value for name, value in fields.items())
    assert type(kind.from_timm(**SMALL, **fields, pretrained=False)) is kind  # without the file or a download
    backbones = [module for name, module in model.named_modules() if name.split(".")[-1] == "backbone"]
    assert len(backbones) == (2 if kind is MuraFuseNetForImageClassification else 1)
    for backbone in backbones:
        loaded = backbone.state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in source.state_dict().items() if key[:3] != "fc.")


def test_from_timm_explains_missing_weights(tmp_path):
    with pytest.raises(CheckpointError, match="no pretrained weights for resnet10t"):
        MuraForImageClassification.from_timm("resnet10t", pretrained_cfg_overlay={"hf_hub_id": None, "url": ""})
    with pytest.raises(CheckpointError, match="check the network"):
        MuraModel.from_timm("resnet10t")  # tests run without a network
    with pytest.raises(CheckpointError, match="weight tag"):
        MuraModel.from_timm("resnet10t.nobody_in1k")
    other = tmp_path / "other.safetensors"
    save_file(timm.create_model("resnet18", num_classes=0).state_dict(), other)
    with pytest.raises(CheckpointError, match="do not fit the backbone"):
        MuraModel.from_timm("resnet10t", pretrained_cfg_overlay={"file": str(other)})
    other.write_text("no weights at all")
    with pytest.raises(CheckpointError, match="must be a file of timm's weights"):
        MuraModel.from_timm("resnet10t", pretrained_cfg_overlay={"file": str(other)})


def test_a_failing_download_fails_once(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    closed = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", closed)
    start = time.perf_counter()
    with pytest.raises(CheckpointError, match=r"could not be read from the Hub \(ConnectError\); check the network"):
        MuraModel.from_timm("resnet10t")
    assert time.perf_counter() - start < 5  # a retry would take longer


def test_weights_in_the_cache_are_read_without_asking_the_hub(monkeypatch, tmp_path):
    source = timm.create_model("resnet10t")
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr("mura_hf.models.backbone_mura.try_to_load_from_cache", lambda name, file: str(tmp_path / file))
    found = MuraModel.from_timm("resnet10t").backbone.state_dict()
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in found.items())


def test_unusable_backbones_are_named():
    with torch.device("meta"), pytest.raises(CheckpointError, match="several feature tensors"):
        _model("crossvit_tiny_240", image_size=240)(torch.zeros(1, 3, 240, 240))


FIELDS = {
    "body_part_head": True, "finding_types": ["fracture", "other"], "regions": ["hand", "leg"], "temperature": 1.7,
}  # fmt: skip


def _pair(family="mura", **fields):
    """The same model without and with test_time_flip."""
    plain, flipping = (make_model(family, test_time_flip=flip, **fields) for flip in (False, True))
    flipping.load_state_dict(plain.state_dict())
    return plain, flipping


class TestTestTimeFlip:
    @pytest.fixture(scope="class")
    def views(self):
        return torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(4))

    @pytest.mark.parametrize("family", ["mura", "mura_metric_learning"])
    def test_is_the_mean_in_evaluation_mode(self, family, views):
        plain, flipping = _pair(family, **FIELDS)
        with torch.no_grad():
            one, other, found = plain(views), plain(views.flip(-1)), flipping(views)
        assert {"logits", "body_part_logits", "finding_logits", "region_logits", "pooler_output"} <= set(one.keys())
        for name in set(one.keys()) - {"feature_map"}:
            torch.testing.assert_close(found[name], (one[name] + other[name]) / 2)
        assert (one.logits - other.logits).abs().max() > 1e-3
        assert torch.equal(found.feature_map, one.feature_map)
        assert torch.equal(found.mirrored_feature_map, other.feature_map.flip(-1))
        assert torch.equal(plain.train()(views).logits, flipping.train()(views).logits)

    @pytest.mark.parametrize("pooling", ["noisy_or", "gated_attention"])
    def test_studies_are_invariant_to_mirroring(self, pooling, views):
        _, flipping = _pair(study_pooling=pooling, **FIELDS)
        study = views.view(1, 3, 3, SIDE, SIDE)
        with torch.no_grad():
            of_views, found, mirrored = flipping(views), flipping(study), flipping(study.flip(-1))
            single = flipping(views[:1, None])
        torch.testing.assert_close(found.view_logits[0], of_views.logits)
        torch.testing.assert_close(single.study_logits, of_views.logits[:1].log_softmax(-1), atol=1e-4, rtol=1e-4)
        heads = ("body_part_logits", "finding_logits", "region_logits")
        for name in ("study_logits", "view_logits", "view_weights", *heads):
            assert torch.equal(found[name], mirrored[name]), name

    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"backbone": "cnn2", "backbone_kwargs": None},
            {
                "backbone": "swin_tiny_patch4_window7_224",
                "backbone_kwargs": {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 1]},
            },
        ],
    )
    def test_heatmaps_are_the_mean_with_the_mirrored_one(self, fields, views):
        plain, flipping = _pair(**fields)
        with torch.no_grad():
            one, other = plain(views).feature_map, plain(views.flip(-1)).feature_map

        def evidence(feature_map):
            probe = torch.nn.Identity()
            layer = LayerGradCam(lambda given: plain.score(probe(given)), probe)
            return layer.attribute(feature_map.clone()).detach()

        raw = ((evidence(one) + evidence(other).flip(-1)) / 2).relu()
        expected = LayerAttribution.interpolate(raw, (SIDE, SIDE), interpolate_mode="bicubic")[:, 0].clamp_min(0)
        expected = expected / expected.amax((1, 2), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        found = grad_cam(flipping, views)
        assert expected.amax() == 1
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(grad_cam(flipping, views.flip(-1)).flip(-1), found, rtol=1e-4, atol=1e-5)

    def test_is_stored_in_the_checkpoint(self, tmp_path, phantom_files):
        plain, flipping = _pair()
        predictor = StudyPredictor.from_pretrained(make_checkpoint(tmp_path, flipping), device="cpu")
        found = predictor(phantom_files)
        assert predictor.model.config.test_time_flip
        images = [read_radiograph(file).pixels for file in phantom_files]
        pixels = predictor.processor(images=images, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            expected = ((plain(pixels).logits + plain(pixels.flip(-1)).logits) / 2).softmax(-1)[:, 1].tolist()
        assert [view.probability for view in found.views] == pytest.approx(expected, abs=1e-5)
        scores = pipeline("image-classification", model=str(tmp_path), device="cpu")(phantom_files[0])
        assert {row["label"]: row["score"] for row in scores}["abnormal"] == pytest.approx(expected[0], abs=1e-5)
