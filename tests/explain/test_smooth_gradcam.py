import pytest
import torch

from mura_hf import MuraConfig, MuraForImageClassification
from mura_hf.explain import grad_cam, smooth_grad_cam

SIDE = 64


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = MuraForImageClassification(MuraConfig(backbone="resnet10t", image_size=SIDE)).eval()
    with torch.no_grad():  # features are positive after the last ReLU, so these weights give evidence on most places
        model.classifier.weight[0].zero_()
        model.classifier.weight[1].normal_(0.3, 1.0)
    return model


@pytest.fixture(scope="module")
def pixel_values():
    """Two smooth pictures, the second with five times the range."""
    coarse = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    coarse[1] *= 5
    return torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic")


def test_is_the_mean_over_noisy_copies(model, pixel_values):
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
    torch.testing.assert_close(
        smooth_grad_cam(model, pixel_values, noise=0, n_samples=3), grad_cam(model, pixel_values), rtol=0, atol=0
    )
    barely = smooth_grad_cam(model, pixel_values, noise=1e-6, n_samples=3)
    torch.testing.assert_close(barely, grad_cam(model, pixel_values), rtol=0, atol=1e-3)


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


def test_is_scaled_to_one_at_the_size_asked_for(model, pixel_values):
    maps = smooth_grad_cam(model, pixel_values[..., :48], n_samples=2)
    assert maps.shape == (2, SIDE, 48)
    assert maps.dtype == torch.float32
    assert maps.min() >= 0
    assert maps.amax(dim=(1, 2)).tolist() == pytest.approx([1, 1])
    assert smooth_grad_cam(model, pixel_values, n_samples=2, size=(5, 7)).shape == (2, 5, 7)


def test_no_positive_evidence_is_all_zeros(pixel_values):
    model = MuraForImageClassification(MuraConfig(backbone="resnet10t", image_size=SIDE)).eval()
    with torch.no_grad():
        model.classifier.weight[0].fill_(1.0)
        model.classifier.weight[1].fill_(-1.0)
    assert not smooth_grad_cam(model, pixel_values, n_samples=2).any()


def test_works_inside_inference_mode(model, pixel_values):
    expected = smooth_grad_cam(model, pixel_values, n_samples=2)
    with torch.inference_mode():
        torch.testing.assert_close(smooth_grad_cam(model, pixel_values, n_samples=2), expected)


def test_refuses_numbers_out_of_range(model, pixel_values):
    for options in ({"n_samples": 0}, {"noise": -0.1}, {"batch_size": 0}):
        with pytest.raises(ValueError, match="must be 1 or above"):
            smooth_grad_cam(model, pixel_values, **options)
    for values in (pixel_values[0], pixel_values[:0]):
        with pytest.raises(ValueError, match=r"must be \[B, C, H, W\]"):
            smooth_grad_cam(model, values)
