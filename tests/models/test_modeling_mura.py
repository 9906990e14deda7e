import copy

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainingArguments

from mura_hf import CheckpointError, MuraConfig, MuraForImageClassification, MuraForStudyClassification, MuraModel

ARCHITECTURES = [
    ("densenet169", 64),
    ("resnet50", 64),
    ("convnext_tiny", 64),
    ("efficientnet_b0", 64),
    ("vit_small_patch16_224", 64),
    ("swin_tiny_patch4_window7_224", 112),
]


def _model(backbone="resnet10t", cls=MuraForImageClassification, **fields):
    torch.manual_seed(0)
    return cls(MuraConfig(backbone=backbone, **{"image_size": 64, "body_part_head": True, **fields})).eval()


@pytest.mark.parametrize(("backbone", "side"), ARCHITECTURES)
def test_what_is_saved_is_loaded(backbone, side, tmp_path):
    model = _model(backbone, image_size=side)
    pixel_values = torch.randn(2, 3, side, side)
    model.save_pretrained(tmp_path)
    again = MuraForImageClassification.from_pretrained(tmp_path)
    with torch.inference_mode():
        first, second = model(pixel_values), again(pixel_values)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    # Where in memory weights lie may change the last digit.
    scale = float(first.logits.std())
    torch.testing.assert_close(first.logits, second.logits, rtol=0, atol=1e-4 * scale)
    torch.testing.assert_close(first.body_part_logits, second.body_part_logits, rtol=0, atol=1e-4 * scale)
    assert scale > 0


def test_backbone_is_the_one_of_timm():
    model = _model("resnet18").mura
    reference = timm.create_model("resnet18", pretrained=False, num_classes=0)
    reference.load_state_dict(model.backbone.state_dict())
    pixel_values = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        output = model(pixel_values)
        torch.testing.assert_close(output.pooler_output, reference.eval()(pixel_values))
        torch.testing.assert_close(output.last_hidden_state, reference.forward_features(pixel_values))


def test_new_backbones_keep_timms_initialisation():
    torch.manual_seed(3)
    expected = timm.create_model("resnet18", num_classes=0).state_dict()
    torch.manual_seed(3)
    found = MuraModel(MuraConfig(backbone="resnet18")).backbone.state_dict()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_backbone_arguments_reach_timm():
    fine = _model("resnet10t", backbone_kwargs={"output_stride": 8})
    assert fine.mura.extract(torch.zeros(1, 3, 64, 64)).shape[-2:] == (8, 8)


def test_study_is_the_mean_of_its_views_probabilities():
    model = _model(cls=MuraForStudyClassification)
    pixel_values = torch.randn(2, 3, 3, 64, 64)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    with torch.inference_mode():
        output = model(pixel_values, mask)
        views = [MuraForImageClassification.forward(model, pixel_values[study]).logits.softmax(-1) for study in (0, 1)]
    expected = torch.stack([views[0].mean(0), views[1][0]])
    torch.testing.assert_close(output.study_logits.exp(), expected)
    torch.testing.assert_close(output.view_weights, torch.tensor([[1 / 3] * 3, [1.0, 0.0, 0.0]]))
    assert torch.equal(output.view_logits[1, 1:], torch.zeros(2, 2))
    assert output.body_part_logits.exp().sum(-1).tolist() == pytest.approx([1, 1])


def test_padding_does_not_matter():
    model = _model(cls=MuraForStudyClassification)
    views = torch.randn(1, 2, 3, 64, 64)
    padded = torch.cat([views, torch.full((1, 2, 3, 64, 64), 1e6)], dim=1)
    with torch.inference_mode():
        short = model(views)
        long = model(padded, torch.tensor([[True, True, False, False]]))
    torch.testing.assert_close(short.study_logits, long.study_logits)


def test_calibration_is_folded_in():
    plain = _model(cls=MuraForStudyClassification)
    calibrated = copy.deepcopy(plain)
    calibrated.config.update({"temperature": 2.0, "study_slope": 1.5, "study_intercept": -0.4})
    views = torch.randn(1, 3, 3, 64, 64)
    with torch.inference_mode():
        raw = plain(views).view_logits
        output = calibrated(views)
    torch.testing.assert_close(output.view_logits, raw / 2)
    mean = (raw / 2).softmax(-1)[0, :, 1].mean().double()
    expected = torch.sigmoid(1.5 * torch.log(mean / (1 - mean)) - 0.4)
    assert float(output.study_logits.exp()[0, 1]) == pytest.approx(float(expected), abs=1e-5)


def test_study_logits_stay_finite_where_views_are_certain():
    model = _model(cls=MuraForStudyClassification)
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([0.0, 300.0]))
    output = model(torch.zeros(1, 2, 3, 64, 64), labels=torch.tensor([0]))
    assert torch.isfinite(output.study_logits).all()
    assert torch.isfinite(output.loss)


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
def test_study_refuses_odd_shapes(shape):
    with pytest.raises(ValueError, match="view"):
        _model(cls=MuraForStudyClassification)(torch.zeros(shape))


def test_score_map_of_one_place_is_the_logit():
    model = _model("mobilenetv3_small_050")
    feature_map = torch.rand(2, model.mura.backbone.num_features, 1, 1)
    with torch.inference_mode():
        logits = model.classify(feature_map).logits
        torch.testing.assert_close(model.score_map(feature_map)[:, 0, 0], logits[:, 1] - logits[:, 0])


class TestLoading:
    def test_the_base_model_loads_from_a_classifier(self, checkpoint):
        model = MuraModel.from_pretrained(checkpoint)
        whole = MuraForImageClassification.from_pretrained(checkpoint)
        pixel_values = torch.randn(1, 3, 64, 64)
        with torch.inference_mode():
            torch.testing.assert_close(model(pixel_values).pooler_output, whole(pixel_values).pooler_output)

    @pytest.mark.parametrize("change", ["missing", "left over", "reshaped"])
    def test_keys_must_fit_exactly(self, change, checkpoint, tmp_path):
        weights = load_file(checkpoint / "model.safetensors")
        if change == "missing":
            del weights["mura.backbone.layer1.0.conv1.weight"]
        elif change == "left over":
            weights["mura.backbone.layer9.weight"] = torch.zeros(3)
        else:
            weights["classifier.weight"] = torch.zeros(2, 7)
        save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
        (tmp_path / "config.json").write_text((checkpoint / "config.json").read_text())
        with pytest.raises(CheckpointError, match="does not fit MuraForImageClassification"):
            MuraForImageClassification.from_pretrained(tmp_path)

    def test_heads_alone_may_start_anew(self, checkpoint, tmp_path):
        options = {"ignore_mismatched_sizes": True}
        headless = MuraConfig.from_pretrained(checkpoint, body_part_head=False)
        model = MuraForImageClassification.from_pretrained(checkpoint, config=headless, **options)
        assert model.body_part_classifier is None
        model.save_pretrained(tmp_path)
        whole = MuraConfig.from_pretrained(tmp_path, body_part_head=True)
        anew = MuraForImageClassification.from_pretrained(tmp_path, config=whole, **options)
        assert 0 < anew.body_part_classifier.weight.abs().max() < 1
        with pytest.raises(CheckpointError, match="missing: body_part_classifier"):
            MuraForImageClassification.from_pretrained(tmp_path, config=whole)
        other = MuraConfig.from_pretrained(checkpoint, backbone="resnet18")
        with pytest.raises(CheckpointError, match="heads alone may be initialized again"):
            MuraForImageClassification.from_pretrained(checkpoint, config=other, **options)

    def test_no_pickles(self, checkpoint, tmp_path):
        torch.save(load_file(checkpoint / "model.safetensors"), tmp_path / "pytorch_model.bin")
        (tmp_path / "config.json").write_text((checkpoint / "config.json").read_text())
        with pytest.raises(OSError, match="safetensors"):
            MuraForImageClassification.from_pretrained(tmp_path)
        with pytest.raises(CheckpointError, match="safetensors files only"):
            MuraForImageClassification.from_pretrained(checkpoint, use_safetensors=False)

    def test_loading_information_is_given_on_request(self, checkpoint):
        _, info = MuraForImageClassification.from_pretrained(checkpoint, output_loading_info=True)
        assert not info["missing_keys"]

    def test_an_unknown_backbone_is_named(self):
        with pytest.raises(CheckpointError, match="'densnet169'"):
            MuraModel(MuraConfig(backbone="densnet169"))


def test_from_timm_takes_pretrained_weights(tmp_path):
    torch.manual_seed(5)
    source = timm.create_model("resnet10t", pretrained=False)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    model = MuraForImageClassification.from_timm(
        "resnet10t", pretrained_cfg_overlay={"file": str(tmp_path / "weights.safetensors")}, body_part_head=True
    )
    loaded = model.mura.backbone.state_dict()
    for key, value in source.state_dict().items():
        if not key.startswith("fc."):
            np.testing.assert_array_equal(loaded[key].numpy(), value.numpy())
    assert (
        MuraModel.from_timm("resnet10t", pretrained_cfg_overlay={"file": str(tmp_path / "weights.safetensors")})
        .backbone.conv1[0]
        .weight.equal(source.conv1[0].weight)
    )


def test_from_timm_says_when_there_are_no_weights():
    with pytest.raises(CheckpointError, match="no pretrained weights for resnet10t"):
        MuraForImageClassification.from_timm("resnet10t", pretrained_cfg_overlay={"hf_hub_id": None, "url": ""})


def test_from_timm_says_why_weights_cannot_be_had(tmp_path):
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


def test_a_backbone_of_several_streams_is_refused_in_words():
    with pytest.raises(CheckpointError, match="several feature tensors"):
        _model("crossvit_tiny_240", image_size=240)(torch.zeros(1, 3, 240, 240))


def test_transformers_own_trainer_trains_and_evaluates(tmp_path):
    torch.manual_seed(0)
    rows = [{"pixel_values": torch.randn(3, 64, 64), "labels": index % 2} for index in range(8)]
    trainer = Trainer(
        model=_model(),
        args=TrainingArguments(str(tmp_path), num_train_epochs=1, report_to=[], use_cpu=True, disable_tqdm=True),
        train_dataset=rows,
        eval_dataset=rows,
        compute_metrics=lambda found: {"rows": len(found.label_ids)},
    )
    trainer.train()
    found = trainer.evaluate()
    assert np.isfinite(found["eval_loss"])
    assert found["eval_rows"] == 8


@pytest.mark.parametrize("backbone", ["cnn4", "vit_tiny_patch16_224"])
def test_backbones_without_places_to_score_are_refused_in_words(backbone):
    model = _model(backbone)
    with torch.inference_mode(), pytest.raises(CheckpointError, match="set region_weight to 0, or choose"):
        model.score_map(model.mura.extract(torch.zeros(1, 3, 64, 64)))
