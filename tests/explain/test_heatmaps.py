"""Heatmaps: Grad-CAM against hooks and references, every method for every family, occlusion and smoothing."""

import copy
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam

from mura_hf import CheckpointError, MuraConfig, MuraForImageClassification
from mura_hf.explain import METHODS, check_method, explain, grad_cam, heatmaps, occlusion, smooth_grad_cam
from mura_hf.models import BODY_PARTS, CLASSIFIERS
from mura_hf.models.class_activation_mura import boxes_to_pixels
from tests.checkpoints import make_model

VIT = {"backbone": "vit_tiny_patch16_224", "backbone_kwargs": {"depth": 3, "embed_dim": 48}}
SWIN = {"backbone": "swin_tiny_patch4_window7_224", "backbone_kwargs": {"embed_dim": 24, "depths": [1, 1, 1, 1]}}


def _model(backbone, **fields):
    torch.manual_seed(0)
    model = MuraForImageClassification(MuraConfig(backbone=backbone, image_size=96, **fields)).eval()
    with torch.no_grad():  # features are positive after the last ReLU, so these weights give evidence on most places
        model.classifier.weight[0].zero_()
        model.classifier.weight[1].normal_(0.3, 1.0)
    return model


def test_is_scaled_to_one_at_the_size_of_the_input_and_leaves_the_model_as_it_was():
    model = _model("resnet10t").requires_grad_(False)
    maps = grad_cam(model, torch.randn(2, 3, 96, 64))
    assert (maps.shape, maps.dtype) == ((2, 96, 64), torch.float32)
    assert maps.min() >= 0
    assert maps.amax(dim=(1, 2)).tolist() == pytest.approx([1, 1])
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_tokens_must_be_asked_for():
    model = make_model(**VIT)
    with pytest.raises(CheckpointError, match=r"vit_tiny_patch16_224 works on tokens.*explainable=True"):
        grad_cam(model, output=model(draw_pictures(1)))


@pytest.mark.parametrize("method", [grad_cam, partial(smooth_grad_cam, n_samples=2)])
def test_works_inside_inference_mode_and_without_evidence(method):
    model, pixel_values = _model("resnet10t"), torch.randn(1, 3, 96, 96)
    expected = method(model, pixel_values)
    with torch.inference_mode():
        torch.testing.assert_close(method(model, pixel_values), expected)
    with torch.no_grad():
        model.classifier.weight[0].fill_(1.0)
        model.classifier.weight[1].fill_(-1.0)
    assert not method(model, pixel_values).any()


def test_threads_may_share_a_model():
    model = _model("resnet10t").requires_grad_(False)
    inputs = [torch.randn(1, 3, 96, 96) for _ in range(6)]
    with ThreadPoolExecutor(len(inputs)) as pool:
        together = list(pool.map(partial(grad_cam, model), inputs))
    for values, found in zip(inputs, together, strict=True):
        torch.testing.assert_close(found, grad_cam(model, values))


def draw_pictures(n):
    pictures = torch.randn(n, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    for number, picture in enumerate(pictures):
        picture[:, 16 * number : 16 * number + 20, 40 - 10 * number : 60 - 10 * number] += 4
    return pictures


def _of_feature_map(score, feature_map, size=(64, 64)):
    """Grad-CAM by hand: channels weighted by their mean gradient, cut at 0, enlarged and divided by the maximum."""
    values = feature_map.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(score(values).sum(), values)
    maps = (gradient.mean((2, 3), keepdim=True) * values).sum(1).clamp_min(0).detach()
    return _scaled(torch.nn.functional.interpolate(maps[:, None], size, mode="bicubic")[:, 0].clamp_min(0))


def _scaled(maps):
    return maps / maps.amax((1, 2), keepdim=True).clamp_min(1e-30)


def test_fusenet_is_the_mean_of_its_branches():
    model, pictures = make_model("mura_fusenet", crop_threshold=0.8), draw_pictures(2)
    with torch.no_grad():
        output = model(pictures)
        codes = output.pooler_output.split(32, dim=1)

    def score(values, place):
        both = list(codes)
        both[place] = values.mean((2, 3))
        logits = model.classifier(torch.cat(both, dim=1))
        return logits[:, 1] - logits[:, 0]

    whole = _of_feature_map(lambda values: score(values, 0), output.feature_map)
    part = torch.zeros(2, 64, 64)
    for number, (left, top, right, bottom) in enumerate(boxes_to_pixels(output.boxes, 64, 64).tolist()):
        assert (right - left) * (bottom - top) < 64 * 64
        heat = _of_feature_map(lambda values: score(values, 1), output.local_feature_map, (bottom - top, right - left))
        part[number, top:bottom, left:right] = heat[number]
    torch.testing.assert_close(grad_cam(model, pictures), _scaled(whole + part), atol=1e-4, rtol=1e-4)


def test_fusenets_global_stage_shows_the_global_branch():
    model, pictures = make_model("mura_fusenet"), draw_pictures(2)
    model.start_stage("global")
    torch.testing.assert_close(grad_cam(model, pictures), grad_cam(model.global_branch, pictures))


def test_an_ensemble_shows_the_weighted_mean_of_its_members():
    model, pictures = make_model("mura_ensemble"), draw_pictures(3)
    one, other = (grad_cam(model.members[name], pictures) for name in ("zeta", "alpha"))
    assert (one - other).abs().max() > 0.05
    torch.testing.assert_close(grad_cam(model, pictures), _scaled(0.8 * one + 0.2 * other))


def test_models_by_part_show_each_view_by_the_model_of_its_part():
    model, pictures = make_model("mura_specialized"), draw_pictures(4)
    parts = torch.tensor([BODY_PARTS.index(part) for part in ("wrist", "elbow", "elbow", "wrist")])
    found = grad_cam(model, pictures, body_parts=parts)
    wrist, elbow = (grad_cam(model.members[part], pictures) for part in ("wrist", "elbow"))
    assert (wrist - elbow).abs().max() > 0.05
    torch.testing.assert_close(found, torch.stack([wrist[0], elbow[1], elbow[2], wrist[3]]))


SIDE = 64


@pytest.fixture(scope="module")
def model():
    return _model("resnet10t")


@pytest.fixture(scope="module")
def pixel_values():
    """Two smooth images, the second with five times the range."""
    coarse = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    coarse[1] *= 5
    return torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic")


def test_smooth_grad_cam_is_the_mean_over_noisy_copies(model, pixel_values, monkeypatch):
    monkeypatch.setattr(heatmaps, "_BATCH_SIZE", 2)
    found = smooth_grad_cam(model, pixel_values, n_samples=5, noise=0.2, seed=3)
    for picture, smooth in zip(pixel_values, found, strict=True):
        generator = torch.Generator().manual_seed(3)
        total = torch.zeros(SIDE, SIDE)
        for _ in range(5):
            noise = torch.randn(3, SIDE, SIDE, generator=generator) * 0.2 * (picture.max() - picture.min())
            total += grad_cam(model, (picture + noise)[None])[0]
        torch.testing.assert_close(smooth, total / total.max(), rtol=1e-4, atol=1e-5)
    plain = grad_cam(model, pixel_values)
    assert (found - plain).abs().mean() > 0.01


def test_without_noise_it_is_grad_cam(model, pixel_values):
    for noise, apart in ((0, 0), (1e-6, 1e-3)):
        found = smooth_grad_cam(model, pixel_values, noise=noise, n_samples=3)
        torch.testing.assert_close(found, grad_cam(model, pixel_values), rtol=0, atol=apart)


def test_the_seed_decides_and_the_global_generator_is_left_alone(model, pixel_values):
    state = torch.get_rng_state()
    one, again, other = (smooth_grad_cam(model, pixel_values, n_samples=3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one, again)
    assert (one - other).abs().max() > 0.01


def test_a_map_does_not_depend_on_its_neighbours(model, pixel_values):
    both = smooth_grad_cam(model, pixel_values, n_samples=4)
    alone = smooth_grad_cam(model, pixel_values[1:], n_samples=4)
    torch.testing.assert_close(alone[0], both[1], rtol=1e-4, atol=1e-5)
    assert smooth_grad_cam(model, pixel_values, n_samples=2, size=(5, 7)).shape == (2, 5, 7)


@pytest.mark.parametrize("options", [{"n_samples": 0}, {"noise": -0.1}])
def test_refuses_numbers_out_of_range(options, model, pixel_values):
    with pytest.raises(ValueError, match="must be 1 or more"):
        smooth_grad_cam(model, pixel_values, **options)
    with pytest.raises(ValueError, match=r"must be \[B, C, H, W\]"):
        smooth_grad_cam(model, pixel_values[:0])


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
def test_the_closed_form_equals_captum(backbone, layer):
    model, pictures = make_model(backbone=backbone, backbone_kwargs=None), torch.randn(3, 3, 64, 64)

    def difference(values):
        logits = model(values).logits
        return logits[:, 1] - logits[:, 0]

    found = explain(model, pictures, size=(2, 2))
    assert (found.method, found.map_sizes) == ("grad_cam", [(2, 2)] * 3)
    expected = LayerGradCam(difference, layer(model.mura.backbone)).attribute(pictures, relu_attributions=True)[:, 0]
    _check_equal(found.maps, expected.detach())


@pytest.mark.parametrize(
    ("family", "fields", "closed"),
    [
        ("mura", {"temperature": 3.0, "test_time_flip": True}, True),
        ("mura", {"study_pooling": "gated_attention", "body_part_head": True}, True),
        ("mura", {"map_pooling": "attention", "head_init": "random"}, True),
        ("mura", {"map_pooling": "attention", "test_time_flip": True}, True),
        ("mura", {"map_pooling": "attention", "backbone": "convnext_atto", "backbone_kwargs": None}, False),
        ("mura", {"head_layers": [24]}, False),
        ("mura", {"backbone_kwargs": {"channels": [8, 16, 24, 32], "global_pool": "max"}}, False),
        ("mura", SWIN, True),
        ("mura", VIT, False),
        ("mura", {**VIT, "test_time_flip": True}, False),
        ("mura_metric_learning", {}, True),
        ("mura_fusenet", {"full_resolution": True, "local_size": 96}, True),
        ("mura_ensemble", {}, True),
        ("mura_specialized", {}, True),
    ],
)
def test_every_family_equals_captum(family, fields, closed, pictures):
    model = make_model(family, **fields)
    found = explain(model, pictures)
    assert found.maps.shape == (3, 64, 64)
    assert found.maps.dtype == torch.float32
    assert len(found.map_sizes) == 3
    with torch.no_grad():  # an output saves the forward pass
        output, study = model.classify_views(pictures, explainable=True), model(pictures[None], explainable=True)
    assert all((one.channel_weights is not None) == closed for one in model.explain(output))
    outputs = [output, study.views] if family != "mura_specialized" else [output]  # which routes the whole study
    for one in outputs:
        _check_equal(found.maps, grad_cam(model, output=one, size=(64, 64)))


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
    @pytest.fixture(autouse=True)
    def large_windows(self, monkeypatch):
        monkeypatch.setattr(heatmaps, "_WINDOWS_PER_SIDE", 4)

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
        found, cold = occlusion(model, torch.cat([picture, plain]))
        torch.testing.assert_close(found, expected / expected.max(), rtol=1e-3, atol=1e-3)
        assert not cold.any()

    @pytest.mark.parametrize("family", list(CLASSIFIERS))
    def test_works_for_every_family_and_does_not_depend_on_the_batch(self, family, pictures, monkeypatch):
        model = make_model(family)
        parts = torch.tensor([BODY_PARTS.index(part) for part in ("wrist", "elbow")])
        given = {"body_parts": parts} if model.NEEDS_PART else {}
        found = occlusion(model, pictures[:2], **given)
        assert found.max() == pytest.approx(1)
        few = {name: values[1:2] for name, values in given.items()}
        monkeypatch.setattr(heatmaps, "_BATCH_SIZE", 7)
        alone = occlusion(model, pictures[1:2], **few)
        torch.testing.assert_close(alone[0], found[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", ["mura_fusenet", "mura_ensemble", "mura_specialized"])
def test_every_method_draws_every_family(family, pictures, monkeypatch):
    monkeypatch.setattr(heatmaps, "_WINDOWS_PER_SIDE", 4)
    model = make_model(family)
    given = {"body_parts": torch.full((1,), BODY_PARTS.index("wrist"))} if model.NEEDS_PART else {}
    for method in METHODS:
        found = explain(model, pictures[:1], method=method, **given)
        assert (found.method, found.maps.shape) == (method, (1, 64, 64))
        assert method != "occlusion" or found.map_sizes == [(7, 7)]
        assert 0 <= found.maps.min() <= found.maps.max() <= 1
        if method == "smooth_grad_cam":
            torch.testing.assert_close(found.maps, smooth_grad_cam(model, pictures[:1], **given))


def test_what_cannot_be_is_refused_by_name(pictures):
    model = make_model()
    with torch.no_grad():
        output = model.classify_views(pictures)
    for given, message in (
        ({"method": "guess"}, r"unknown heatmap method 'guess'; known are auto, grad_cam.*occlusion"),
        ({"method": "occlusion", "output": output}, "give pixel_values"),
        ({"method": "smooth_grad_cam", "output": output}, "give pixel_values"),
        ({}, "give pixel_values"),
    ):
        with pytest.raises(ValueError, match=message):
            explain(model, **given)


def test_former_names_are_grad_cam():
    assert [check_method(name) for name in ("auto", "class_activation_map", "head_gradient")] == ["auto"] * 3
