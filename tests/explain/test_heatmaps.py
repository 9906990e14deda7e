import copy

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam

from mura_hf import CheckpointError
from mura_hf.explain import METHODS, explain, grad_cam, occlusion, smooth_grad_cam
from mura_hf.models import BODY_PARTS, CLASSIFIERS
from tests.conftest import make_model
from tests.explain.test_gradcam import draw_pictures

VIT = {"backbone": "vit_tiny_patch16_224", "backbone_kwargs": {"depth": 3, "embed_dim": 48}}
SWIN = {"backbone": "swin_tiny_patch4_window7_224", "backbone_kwargs": {"embed_dim": 24, "depths": [1, 1, 1, 1]}}


@pytest.fixture(scope="module")
def pictures():
    return draw_pictures(3)


def _check_equal(found, expected, at_least=1e-3):
    assert (expected.flatten(1).std(1) > at_least).any()
    for one, other in zip(found.flatten(1), expected.flatten(1), strict=True):
        if other.any():
            assert np.corrcoef(one, other)[0, 1] >= 0.999
        else:
            assert not one.any()


@pytest.mark.parametrize(
    ("backbone", "layer"), [("resnet50", lambda net: net.layer4[-1]), ("densenet169", lambda net: net.features.norm5)]
)
def test_the_closed_form_is_captums_grad_cam(backbone, layer):
    model, pictures = make_model(backbone=backbone, backbone_kwargs=None), torch.randn(3, 3, 64, 64)

    def difference(values):
        logits = model(values).logits
        return logits[:, 1] - logits[:, 0]

    found = explain(model, pictures, size=(2, 2))
    assert found.method == "class_activation_map"
    assert found.map_sizes == [(2, 2)] * 3
    expected = LayerGradCam(difference, layer(model.mura.backbone)).attribute(pictures, relu_attributions=True)[:, 0]
    _check_equal(found.maps, expected.detach())
    _check_equal(grad_cam(model, pictures, size=(2, 2)), expected.detach())


@pytest.mark.parametrize(
    ("family", "fields", "method"),
    [
        ("mura", {}, "class_activation_map"),
        ("mura", {"temperature": 3.0, "test_time_flip": True}, "class_activation_map"),
        ("mura", {"study_pooling": "gated_attention", "body_part_head": True}, "class_activation_map"),
        ("mura", {"head_layers": [24]}, "head_gradient"),
        ("mura", {"backbone_kwargs": {"channels": [8, 16, 24, 32], "global_pool": "max"}}, "head_gradient"),
        ("mura", {"backbone": "convnext_atto", "backbone_kwargs": None}, "head_gradient"),
        ("mura", SWIN, "class_activation_map"),
        ("mura", VIT, "head_gradient"),
        ("mura", {**VIT, "test_time_flip": True}, "head_gradient"),
        ("mura_metric_learning", {}, "class_activation_map"),
        ("mura_fusenet", {}, "class_activation_map"),
        ("mura_fusenet", {"full_resolution": True, "local_size": 96}, "class_activation_map"),
        ("mura_ensemble", {}, "class_activation_map"),
        ("mura_specialized", {}, "class_activation_map"),
    ],
)
def test_auto_is_grad_cam_by_the_cheapest_way(family, fields, method, pictures):
    model = make_model(family, **fields)
    found = explain(model, pictures)
    assert found.method == method
    assert found.maps.shape == (3, 64, 64)
    assert found.maps.dtype == torch.float32
    assert len(found.map_sizes) == 3
    _check_equal(found.maps, grad_cam(model, pictures))
    for other in ("head_gradient", "grad_cam"):
        _check_equal(explain(model, pictures, method=other).maps, found.maps)
    with torch.no_grad():
        output = model.classify_views(pictures, explainable=True)
    torch.testing.assert_close(explain(model, output=output, size=(64, 64)).maps, found.maps)


def test_the_closed_form_is_refused_where_there_is_none(pictures):
    with pytest.raises(CheckpointError, match="no closed form; the method head_gradient"):
        explain(make_model(head_layers=[16]), pictures, method="class_activation_map")


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_a_vision_transformer_is_read_where_its_picture_tokens_still_matter(pool, pictures):
    kwargs = {**VIT["backbone_kwargs"], "global_pool": pool}
    model = make_model(backbone=VIT["backbone"], backbone_kwargs=kwargs)
    last, held = model.mura.backbone.blocks[-1], []
    norm = last.norm1 if pool == "token" else last.norm2
    with torch.enable_grad():
        hook = norm.register_forward_hook(lambda module, inputs, output: held.append(output))
        logits = model(pictures).logits
        (gradient,) = torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), held[0])
        hook.remove()
    tokens, slope = held[0].detach()[:, 1:], gradient[:, 1:]
    expected = torch.einsum("bnd,bd->bn", tokens, slope.mean(1)).clamp_min(0).view(3, 4, 4)
    found = explain(model, pictures, size=(4, 4))
    assert found.map_sizes == [(4, 4)] * 3
    _check_equal(found.maps, expected)


def test_a_copy_of_a_network_on_tokens_is_explained_by_itself(pictures):
    model = make_model(**VIT)
    expected = explain(model, pictures).maps
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.classifier.weight.neg_()
    assert (explain(twin, pictures).maps - expected).abs().max() > 0.1
    torch.testing.assert_close(explain(model, pictures).maps, expected)


def test_answers_are_those_without_explaining(pictures):
    for model in (make_model(**VIT), make_model("mura_ensemble"), make_model(**SWIN)):
        with torch.no_grad():
            plain, explained = model(pictures[None]), model(pictures[None], explainable=True)
        assert not plain.views.logits.requires_grad
        torch.testing.assert_close(explained.study_logits, plain.study_logits, rtol=0, atol=0)
        assert not explained.study_logits.requires_grad


def test_layer_cam_weighs_every_place_by_its_own_positive_gradient(pictures):
    model = make_model(backbone_kwargs={"channels": [8, 16, 24, 32], "global_pool": "max"})
    values = model(pictures).feature_map.detach().requires_grad_()
    logits = model.classify(values).logits
    (gradient,) = torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), values)
    expected = (gradient.clamp_min(0) * values).sum(1).clamp_min(0).detach()
    found = explain(model, pictures, method="layer_cam", size=(2, 2))
    _check_equal(found.maps, expected)


class TestOcclusion:
    def test_equals_covering_by_hand(self, pictures):
        model, picture = make_model(), pictures[:1]
        with torch.no_grad():
            before = model(picture).logits
            lost, count = torch.zeros(64, 64), torch.zeros(64, 64)
            for top in range(0, 64 - 8, 8):
                for left in range(0, 64 - 8, 8):
                    covered = picture.clone()
                    covered[..., top : top + 16, left : left + 16] = picture.mean((2, 3), keepdim=True)
                    change = before - model(covered).logits
                    lost[top : top + 16, left : left + 16] += change[0, 1] - change[0, 0]
                    count[top : top + 16, left : left + 16] += 1
        expected = (lost / count).clamp_min(0)
        plain = torch.ones(1, 3, 64, 64)  # covering changes nothing
        found, cold = occlusion(model, torch.cat([picture, plain]), window=16)
        torch.testing.assert_close(found, expected / expected.max(), rtol=1e-3, atol=1e-3)
        assert not cold.any()

    @pytest.mark.parametrize("family", list(CLASSIFIERS))
    def test_works_for_every_family_and_does_not_depend_on_the_batch(self, family, pictures):
        model = make_model(family)
        parts = torch.tensor([BODY_PARTS.index(part) for part in ("wrist", "elbow", "wrist")])
        given = {"body_parts": parts} if model.NEEDS_PART else {}
        found = occlusion(model, pictures, window=32, **given)
        assert found.max() == pytest.approx(1)
        few = {name: values[1:2] for name, values in given.items()}
        alone = occlusion(model, pictures[1:2], window=32, batch_size=7, **few)
        torch.testing.assert_close(alone[0], found[1], rtol=1e-3, atol=1e-3)

    def test_the_window_must_fit(self, pictures):
        with pytest.raises(ValueError, match="window is 65"):
            occlusion(make_model(), pictures, window=65)


@pytest.mark.parametrize("family", ["mura_fusenet", "mura_ensemble", "mura_specialized"])
def test_every_method_draws_every_family(family, pictures):
    model = make_model(family)
    given = {"body_parts": torch.full((1,), BODY_PARTS.index("wrist"))} if model.NEEDS_PART else {}
    for method in METHODS:
        found = explain(model, pictures[:1], method=method, **given)
        assert (found.method, found.maps.shape) == (method, (1, 64, 64))
        assert method != "occlusion" or found.map_sizes == [(15, 15)]
        assert 0 <= found.maps.min() <= found.maps.max() <= 1
        if method == "smooth_grad_cam":
            torch.testing.assert_close(found.maps, smooth_grad_cam(model, pictures[:1], **given))


def test_what_cannot_be_is_refused_by_name(pictures):
    model = make_model()
    with torch.no_grad():
        output = model.classify_views(pictures)
    for given, message in (
        ({"method": "guess"}, r"unknown heatmap method 'guess'; known are auto, class_activation_map.*occlusion"),
        ({"method": "occlusion", "output": output}, "give pixel_values"),
        ({"method": "smooth_grad_cam", "output": output}, "give pixel_values"),
        ({}, "give pixel_values"),
    ):
        with pytest.raises(ValueError, match=message):
            explain(model, **given)
