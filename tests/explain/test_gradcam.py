import threading

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam

from mura_hf import CheckpointError, MuraConfig, MuraForImageClassification
from mura_hf.explain import grad_cam


def _model(backbone, **fields):
    torch.manual_seed(0)
    model = MuraForImageClassification(MuraConfig(backbone=backbone, image_size=96, **fields)).eval()
    with torch.no_grad():  # features are positive after the last ReLU, so these weights give evidence on most places
        model.classifier.weight[0].zero_()
        model.classifier.weight[1].normal_(0.3, 1.0)
    return model


def _correlation(first, second):
    return np.corrcoef(first.ravel(), second.ravel())[0, 1]


@pytest.mark.parametrize(
    ("backbone", "layer"),
    [
        ("resnet50", lambda net: net.layer4[-1]),
        ("densenet169", lambda net: net.features.norm5),  # timm's norm5 ends with the ReLU, as it must
    ],
)
def test_equals_captums_own_call(backbone, layer):
    model = _model(backbone)
    pixel_values = torch.randn(3, 3, 96, 96)

    def difference(values):
        logits = model(values).logits
        return logits[:, 1] - logits[:, 0]

    expected = LayerGradCam(difference, layer(model.mura.backbone)).attribute(pixel_values, relu_attributions=True)
    found = grad_cam(model, pixel_values, size=tuple(expected.shape[-2:]))
    for one, other in zip(found.numpy(), expected[:, 0].detach().numpy(), strict=True):
        assert one.std() > 0.01
        assert _correlation(one, other) >= 0.999


def test_is_scaled_to_one_at_the_size_of_the_input():
    maps = grad_cam(_model("resnet10t"), torch.randn(2, 3, 96, 64))
    assert maps.shape == (2, 96, 64)
    assert maps.dtype == torch.float32
    assert maps.min() >= 0
    assert maps.amax(dim=(1, 2)).tolist() == pytest.approx([1, 1])


def test_a_given_feature_map_saves_the_forward_pass():
    model = _model("resnet10t")
    pixel_values = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        feature_map = model(pixel_values).feature_map
    torch.testing.assert_close(grad_cam(model, feature_map=feature_map, size=(96, 96)), grad_cam(model, pixel_values))
    assert grad_cam(model, feature_map=feature_map).shape == (2, 3, 3)
    with pytest.raises(ValueError, match="either"):
        grad_cam(model)
    with pytest.raises(ValueError, match="either"):
        grad_cam(model, pixel_values, feature_map=feature_map)


def test_no_positive_evidence_is_all_zeros():
    model = _model("resnet10t")
    with torch.no_grad():
        model.classifier.weight[0].fill_(1.0)
        model.classifier.weight[1].fill_(-1.0)
    assert not grad_cam(model, torch.randn(1, 3, 96, 96)).any()


def test_swin_has_a_map_and_a_plain_transformer_is_refused():
    assert (
        grad_cam(
            _model("swin_tiny_patch4_window7_224", backbone_kwargs={"img_size": 112}), torch.randn(1, 3, 112, 112)
        ).std()
        > 0
    )
    with pytest.raises(CheckpointError, match="vit_tiny_patch16_224 works on tokens"):
        grad_cam(_model("vit_tiny_patch16_224"), torch.randn(1, 3, 96, 96))


def test_works_inside_inference_mode():
    model, pixel_values = _model("resnet10t"), torch.randn(1, 3, 96, 96)
    expected = grad_cam(model, pixel_values)
    with torch.inference_mode():
        torch.testing.assert_close(grad_cam(model, pixel_values), expected)


def test_leaves_the_model_as_it_was():
    model = _model("resnet10t").requires_grad_(False)
    grad_cam(model, torch.randn(1, 3, 96, 96))
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_threads_may_share_a_model():
    model = _model("resnet10t").requires_grad_(False)
    inputs = [torch.randn(1, 3, 96, 96) for _ in range(8)]
    alone = [grad_cam(model, values) for values in inputs]
    together = [None] * len(inputs)

    def work(place):
        together[place] = grad_cam(model, inputs[place])

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other)
