from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch

from mura_hf import CheckpointError, MuraConfig, MuraForImageClassification
from mura_hf.explain import grad_cam, smooth_grad_cam
from mura_hf.models import BODY_PARTS, CLASSIFIERS
from mura_hf.models.class_activation_mura import boxes_to_pixels
from tests.conftest import make_model


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


def test_a_given_feature_map_saves_the_forward_pass():
    model = _model("resnet10t")
    pixel_values = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        feature_map = model(pixel_values).feature_map
    torch.testing.assert_close(grad_cam(model, feature_map=feature_map, size=(96, 96)), grad_cam(model, pixel_values))
    assert grad_cam(model, feature_map=feature_map).shape == (2, 3, 3)
    for given in ({}, {"pixel_values": pixel_values, "feature_map": feature_map}):
        with pytest.raises(ValueError, match="either"):
            grad_cam(model, **given)


def test_tokens_must_be_asked_for():
    model, pictures = _model("vit_tiny_patch16_224", backbone_kwargs={"depth": 3, "embed_dim": 48}), draw_pictures(1)
    pictures = torch.nn.functional.interpolate(pictures, (96, 96))
    with pytest.raises(CheckpointError, match=r"vit_tiny_patch16_224 works on tokens.*explainable=True"):
        grad_cam(model, output=model(pictures))
    torch.testing.assert_close(
        grad_cam(model, output=model(pictures, explainable=True), size=(96, 96)), grad_cam(model, pictures)
    )


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


@pytest.mark.parametrize("family", list(CLASSIFIERS))
def test_an_output_saves_the_forward_pass_in_every_family(family):
    model, pictures = make_model(family), draw_pictures(3)
    with torch.no_grad():
        output = model.classify_views(pictures)
        study = model(pictures[None])
    maps = grad_cam(model, pictures)
    assert maps.shape == (3, 64, 64)
    assert maps.max() == pytest.approx(1)
    torch.testing.assert_close(grad_cam(model, output=output, size=(64, 64)), maps)
    if family != "mura_specialized":  # where the whole study is routed, not each view
        torch.testing.assert_close(grad_cam(model, output=study.views, size=(64, 64)), maps)


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


@pytest.mark.parametrize("family", ["mura_fusenet", "mura_ensemble", "mura_specialized"])
def test_one_feature_map_does_not_explain_several(family):
    with pytest.raises(ValueError, match="depend on several feature maps: give pixel_values or output"):
        grad_cam(make_model(family), feature_map=torch.rand(1, 32, 2, 2))


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


def test_smooth_grad_cam_is_the_mean_over_noisy_copies(model, pixel_values):
    found = smooth_grad_cam(model, pixel_values, n_samples=5, noise=0.2, seed=3, batch_size=2)
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


def test_a_map_depends_neither_on_its_neighbours_nor_on_the_batch_size(model, pixel_values):
    both = smooth_grad_cam(model, pixel_values, n_samples=4)
    alone = smooth_grad_cam(model, pixel_values[1:], n_samples=4, batch_size=3)
    torch.testing.assert_close(alone[0], both[1], rtol=1e-4, atol=1e-5)
    assert smooth_grad_cam(model, pixel_values, n_samples=2, size=(5, 7)).shape == (2, 5, 7)


@pytest.mark.parametrize("options", [{"n_samples": 0}, {"noise": -0.1}, {"batch_size": 0}])
def test_refuses_numbers_out_of_range(options, model, pixel_values):
    with pytest.raises(ValueError, match="must be 1 or more"):
        smooth_grad_cam(model, pixel_values, **options)
    with pytest.raises(ValueError, match=r"must be \[B, C, H, W\]"):
        smooth_grad_cam(model, pixel_values[:0])
