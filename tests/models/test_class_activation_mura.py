import math

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from scipy import ndimage
from torch.nn import functional

from mura_hf.models.class_activation_mura import (
    boxes_to_pixels,
    crop_and_resize,
    expand_boxes,
    gradient_map,
    largest_region,
    resize,
)
from tests.checkpoints import make_model

EIGHT = np.ones((3, 3))


@pytest.mark.parametrize("sign", [1, -1])
def test_equals_captum_without_the_relu(sign):
    model, images = make_model(), torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        model.classifier.weight.mul_(sign)

    def difference(values):
        logits = model(values).logits
        return logits[:, 1] - logits[:, 0]

    layer = model.mura.backbone.layer4[-1]
    expected = LayerGradCam(difference, layer).attribute(images, relu_attributions=False)[:, 0].detach()
    found = gradient_map(model.score, model(images).feature_map)
    assert bool((expected < 0).any()) == (sign < 0)  # what speaks against it is kept
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    with torch.inference_mode():
        torch.testing.assert_close(gradient_map(model.score, model(images).feature_map), found)


def _reference(values, threshold):
    """The box of the largest region by scipy; of equal ones, that whose last pixel comes first."""
    low, high = values.min(), values.max()
    labels, count = ndimage.label(values - low >= np.float32(threshold) * (high - low), EIGHT)
    places = [np.flatnonzero(labels == number) for number in range(1, count + 1)]
    best = min(range(count), key=lambda number: (-len(places[number]), places[number][-1]))
    rows, columns = ndimage.find_objects(labels)[best]
    height, width = values.shape
    return [columns.start / width, rows.start / height, columns.stop / width, rows.stop / height]


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 1), (9, 13), (24, 24)])
@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_regions_equal_scipy(shape, threshold):
    rng = np.random.default_rng(sum(shape))
    maps = rng.random((150, *shape)).astype(np.float32)
    maps[::2] = ndimage.gaussian_filter(maps[::2], (0, 1, 1))  # larger regions beside scattered ones
    found = largest_region(torch.tensor(maps), threshold)
    np.testing.assert_allclose(found, [_reference(values, threshold) for values in maps], atol=1e-6)


def test_long_regions_are_followed_to_the_end():
    snake = np.zeros((33, 33), np.float32)
    snake[::2] = 1
    snake[1::4, 32] = snake[3::4, 0] = 1
    maps = np.stack([snake, snake.T, snake[::-1]])
    assert [ndimage.label(values, EIGHT)[1] for values in maps] == [1, 1, 1]
    assert largest_region(torch.tensor(maps), 0.5).tolist() == [[0, 0, 1, 1]] * 3


def test_constant_maps_ties_and_corners():
    touching = torch.eye(5)
    touching[0, 4] = touching[0, 3] = 1
    assert largest_region(touching[None], 0.5).tolist() == [[0, 0, 1, 1]]  # corners touch
    maps = torch.zeros(3, 4, 8)
    maps[0] = 3.0
    maps[1, 0, 6:] = maps[1, 3, :2] = 1
    maps[2, :3, 0] = maps[2, 0, 3:6] = 1  # the upright one begins first and ends last
    assert largest_region(maps, 0.5).tolist() == [[0, 0, 1, 1], [0.75, 0, 1, 0.25], [0.375, 0, 0.75, 0.25]]


@pytest.mark.parametrize("square", [False, True])
@pytest.mark.parametrize("least", [0.1, 0.25, 1.0])
def test_expanded_boxes_contain_the_old_ones(least, square):
    rng = np.random.default_rng(0)
    ends = np.sort(rng.random((200, 2, 2)), axis=1)  # [box, start or stop, axis]
    boxes = torch.tensor(ends.reshape(200, 4), dtype=torch.float32)
    found = expand_boxes(boxes, least, square=square).double()
    old_sides, sides = boxes[:, 2:] - boxes[:, :2], found[:, 2:] - found[:, :2]
    expected = np.maximum(old_sides, least)
    expected = expected.amax(1, keepdim=True).expand(-1, 2) if square else expected
    np.testing.assert_allclose(sides, expected, atol=1e-6)
    assert found.min() >= 0
    assert found.max() <= 1 + 1e-6
    assert (found[:, :2] <= boxes[:, :2] + 1e-6).all()
    assert (found[:, 2:] >= boxes[:, 2:] - 1e-6).all()
    free = ((found > 1e-4) & (found < 1 - 1e-4)).view(-1, 2, 2).all(1)  # not shifted along this axis
    middles = (found[:, :2] + found[:, 2:]) / 2 - (boxes[:, :2] + boxes[:, 2:]) / 2
    assert middles[free].abs().max() < 1e-6 if free.any() else least == 1.0


def test_crops_are_resized_slices():
    images = torch.randn(4, 3, 40, 60)
    boxes = torch.tensor(
        [[0.0, 0.0, 1.0, 1.0], [0.5, 0.25, 0.75, 0.5], [0.51, 0.26, 0.74, 0.49], [0.9, 0.0, 1.0, 0.1]]
    )
    slices = [(0, 40, 0, 60), (10, 20, 30, 45), (10, 20, 30, 45), (0, 4, 54, 60)]
    found = crop_and_resize(images, boxes, 12)
    for image, (top, bottom, left, right), crop in zip(images, slices, found, strict=True):
        part = image[None, :, top:bottom, left:right]
        expected = functional.interpolate(part, (12, 12), mode="bilinear", antialias=True)[0]
        torch.testing.assert_close(crop, expected)
    box = torch.tensor([[0.25, 0.5, 0.5, 0.75]])
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(crop_and_resize(image, box, 16), image[:, :, 32:48, 16:32])
    half = images.bfloat16()  # resized in float32
    expected = functional.interpolate(half.float(), (20, 20), mode="bilinear", antialias=True)
    assert torch.equal(resize(half, 20), expected.bfloat16())


def test_pixels_of_a_box_are_the_smallest_around_it():
    rng = np.random.default_rng(1)
    for height, width in ((56, 56), (320, 300), (7, 1023)):
        ends = np.sort(rng.integers(0, 57, (100, 2, 2)), axis=1)
        ends[:, 1] = np.maximum(ends[:, 1], ends[:, 0] + 1).clip(1, 56)
        ends[:, 0] = np.minimum(ends[:, 0], ends[:, 1] - 1)
        found = boxes_to_pixels(torch.tensor(ends.reshape(-1, 4) / 56, dtype=torch.float32), height, width)
        for (start, stop), edges in zip(ends.tolist(), found.tolist(), strict=True):
            assert edges[:2] == [start[0] * width // 56, start[1] * height // 56]
            assert edges[2:] == [math.ceil(stop[0] * width / 56), math.ceil(stop[1] * height / 56)]
