import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from mura_hf import CheckpointError
from mura_hf.inference.external_processor import ExternalProcessor

HEIGHT, WIDTH = 130, 100


class Fake:
    """A processor made of one function from a gray plane in [0, 1] to another."""

    def __init__(self, change):
        self.change = change

    def __call__(self, images, return_tensors):
        planes = [self.change(np.asarray(image, np.float32)[..., 0] / 255) for image in images]
        return {"pixel_values": torch.stack([torch.tensor(plane.copy()).expand(3, -1, -1) for plane in planes])}


def _letterbox(plane):
    """On a gray square, the picture in its middle."""
    square = np.full((max(plane.shape),) * 2, 0.5, np.float32)
    top, left = ((max(plane.shape) - side) // 2 for side in plane.shape)
    square[top : top + plane.shape[0], left : left + plane.shape[1]] = plane
    return np.asarray(Image.fromarray(square).resize((64, 64), Image.Resampling.BILINEAR))


def _timm(**settings):
    config = {"input_size": [3, 64, 64], "crop_pct": 0.875, "mean": [0.5] * 3, "std": [0.2] * 3, **settings}
    return transformers.TimmWrapperImageProcessor(pretrained_cfg={"interpolation": "bicubic", **config})


SQUARE = {"height": 64, "width": 64}
# Edge 64 / .875 = 73 px on the short side and 94 on the long one, of which 64 in the middle are kept.
MIDDLE = (4.5 / 73 * WIDTH, 15 / 94 * HEIGHT, 68.5 / 73 * WIDTH, 79 / 94 * HEIGHT)


@pytest.mark.parametrize(
    ("processor", "window"),
    [
        (transformers.ViTImageProcessor(size=SQUARE), (0, 0, WIDTH, HEIGHT)),
        (transformers.ViTImageProcessor(do_resize=False), (0, 0, WIDTH, HEIGHT)),
        (transformers.ConvNextImageProcessor(size={"shortest_edge": 64}, crop_pct=0.875), MIDDLE),
        (transformers.ConvNextImageProcessor(size={"shortest_edge": 384}), (0, 0, WIDTH, HEIGHT)),
        (transformers.CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=SQUARE), (0, 15, WIDTH, 115)),
        (
            transformers.DeiTImageProcessor(size={"height": 80, "width": 80}, crop_size=SQUARE),
            (0.1 * WIDTH, 0.1 * HEIGHT, 0.9 * WIDTH, 0.9 * HEIGHT),
        ),
        (
            transformers.EfficientNetImageProcessor(size=SQUARE, rescale_offset=True, include_top=True),
            (0, 0, WIDTH, HEIGHT),
        ),
        (_timm(), MIDDLE),
        (_timm(crop_pct=1.0, crop_mode="squash"), (0, 0, WIDTH, HEIGHT)),
        (_timm(crop_pct=1.0, crop_mode="border"), (-7 / 49 * WIDTH, 0, 57 / 49 * WIDTH, HEIGHT)),
        (Fake(_letterbox), (-15, 0, 115, HEIGHT)),
        (Fake(lambda plane: 1 - plane), (0, 0, WIDTH, HEIGHT)),
    ],
)
def test_the_visible_part_is_measured(processor, window):
    np.testing.assert_allclose(ExternalProcessor(processor)._window(HEIGHT, WIDTH), window, atol=1.2)


@pytest.mark.parametrize(
    "change",
    [
        lambda plane: plane.T,
        lambda plane: plane[:, ::-1],
        lambda plane: np.where(plane > 0.5, 1.0, 0.0).astype(np.float32),
        lambda plane: np.random.default_rng(0).random((64, 64), np.float32),
        lambda plane: (plane - plane.mean()) / (plane.std() + 1e-6),
    ],
    ids=["transposed", "mirrored", "two tones", "noise", "by its deviation"],
)
def test_unknown_geometry_is_an_error(change):
    with pytest.raises(CheckpointError, match="cannot be determined"):
        ExternalProcessor(Fake(change)).restore_map(np.ones((4, 4), np.float32), HEIGHT, WIDTH)


def test_maps_return_to_their_position():
    size, picture = (400, 650), np.zeros((400, 650), np.uint8)
    picture[200:240, 217:282] = 255
    for inner in (transformers.ConvNextImageProcessor(size={"shortest_edge": 64}), _timm(), Fake(_letterbox)):
        processor = ExternalProcessor(inner)
        fed = processor([picture])["pixel_values"][0, 0].numpy()
        fed = (fed - fed.min()) / (fed.max() - fed.min())
        if isinstance(inner, Fake):
            fed[fed < 0.7] = 0  # its gray bars
        restored = processor.restore_map(fed, *size)
        assert restored.shape == size
        np.testing.assert_allclose(np.argwhere(restored > 0.6).mean(0), (219.5, 249), atol=0.012 * max(size))


def test_maps_are_zero_outside_of_the_visible_part():
    processor = ExternalProcessor(transformers.CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=SQUARE))
    restored = processor.restore_map(np.ones((2, 2), np.float32), HEIGHT, WIDTH)
    assert not restored[:14].any()
    assert not restored[116:].any()
    assert (restored[17:113] == 1).mean() > 0.97


def test_grayscale_images_for_a_model_with_one_channel():
    one = transformers.ViTImageProcessor(size=SQUARE, image_mean=[0.5], image_std=[0.5])
    assert ExternalProcessor(one, gray=True)([np.eye(80, dtype=np.uint8)])["pixel_values"].shape == (1, 1, 64, 64)


def test_a_processor_of_another_modality_is_refused():
    with pytest.raises(CheckpointError, match="Fake, does not return one array"):
        ExternalProcessor(type("Fake", (), {"__call__": lambda *args, **_: {"pixel_values": torch.ones(4, 8)}})())(
            [np.eye(64, dtype=np.uint8)]
        )
