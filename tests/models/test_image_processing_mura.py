import logging

import numpy as np
import pytest
import torch
from PIL import Image

from mura_hf import MuraImageProcessor

RNG = np.random.default_rng(0)
PLANE = RNG.integers(0, 256, (90, 60), dtype=np.uint8)


def _processor(**options):
    return MuraImageProcessor(size={"height": 48, "width": 48}, **options)


def test_every_input_form_gives_the_same_values():
    gray = Image.fromarray(PLANE)
    forms = [
        gray,
        gray.convert("RGB"),
        gray.convert("RGBA"),
        PLANE,
        PLANE[..., None],
        np.stack([PLANE] * 3, -1),
        np.stack([PLANE] * 3, 0),
        torch.from_numpy(PLANE)[None],
        PLANE.astype(np.float32) / 255,
    ]
    processor = _processor()
    reference = processor(gray, return_tensors="pt")["pixel_values"]
    assert reference.shape == (1, 3, 48, 48)
    assert reference.dtype == torch.float32
    for form in forms:
        assert torch.equal(processor(form, return_tensors="pt")["pixel_values"], reference)
    together = processor(forms, return_tensors="pt")["pixel_values"]
    assert torch.equal(together, reference.expand(len(forms), -1, -1, -1))


def test_normalises_by_mean_and_deviation():
    processor = _processor(image_mean=[0.5, 0.4, 0.3], image_std=[0.1, 0.2, 0.4])
    values = processor.to_pixel_values(PLANE[None])
    for channel, (mean, std) in enumerate(zip((0.5, 0.4, 0.3), (0.1, 0.2, 0.4), strict=True)):
        np.testing.assert_allclose(values[0, channel], (PLANE / 255 - mean) / std, rtol=1e-5, atol=1e-5)


def test_letterbox_keeps_the_shape_and_squash_does_not():
    white = np.full((90, 60), 200, np.uint8)
    boxed = _processor(resize_mode="letterbox").resize_plane(white)
    assert boxed.shape == (48, 48)
    assert (boxed[:, :8] == 0).all()
    assert (boxed[:, 8:40] == 200).all()
    assert (boxed[:, 40:] == 0).all()
    assert (_processor(resize_mode="squash").resize_plane(white) == 200).all()


@pytest.mark.parametrize("mode", ["letterbox", "squash"])
@pytest.mark.parametrize(("height", "width"), [(90, 60), (60, 90), (200, 200)])
def test_a_map_lands_where_it_came_from(mode, height, width):
    picture = np.zeros((height, width), np.uint8)
    row, column = int(0.7 * height), int(0.3 * width)
    picture[row - 5 : row + 5, column - 5 : column + 5] = 255
    processor = _processor(resize_mode=mode)
    restored = processor.restore_map(processor.resize_plane(picture).astype(np.float32), height, width)
    assert restored.shape == (height, width)
    rows, columns = np.nonzero(restored > 0.5 * restored.max())
    assert abs(rows.mean() - row) <= 3
    assert abs(columns.mean() - column) <= 3


def test_survives_a_round_trip(tmp_path):
    processor = _processor(resize_mode="squash", image_mean=[0.1, 0.2, 0.3])
    processor.save_pretrained(tmp_path)
    again = MuraImageProcessor.from_pretrained(tmp_path)
    assert again.resize_mode == "squash"
    first, second = (one(PLANE, return_tensors="np")["pixel_values"] for one in (processor, again))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (Image.fromarray(PLANE.astype(np.uint16) * 257), "more than 8 bits"),
        (PLANE.astype(np.uint16), "uint8"),
        (PLANE.astype(np.float32), r"\[0, 1\]"),
        (np.full((40, 40), np.nan, np.float32), r"\[0, 1\]"),
        (np.zeros((7, 5, 6), np.uint8), "shape"),
        ([], "no pictures"),
    ],
)
def test_refuses_what_it_would_misread(picture, message):
    with pytest.raises(ValueError, match=message):
        _processor()(picture, return_tensors="pt")


def test_a_picture_that_was_cut_off_at_white_is_warned_about(caplog):
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)  # transformers keeps its messages from the root logger
    try:
        _processor()(np.full((40, 40), 255, np.uint8), return_tensors="pt")
        assert "read_radiograph" in caplog.text
    finally:
        logger.removeHandler(caplog.handler)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resize_mode": "zoom"}, "letterbox, squash"),
        ({"size": {"shortest_edge": 48}}, "height and width"),
        ({"image_std": [0.0, 0.0, 0.0]}, "above 0"),
        ({"image_std": [float("nan")] * 3}, "above 0"),
    ],
)
def test_refuses_odd_settings(options, message):
    with pytest.raises(ValueError, match=message):
        MuraImageProcessor(**options)


def test_refuses_to_crop_or_pad():
    with pytest.raises(ValueError, match="resize_mode"):
        _processor()(PLANE, do_center_crop=True, crop_size={"height": 8, "width": 8})


def test_turns_a_picture_as_its_exif_says():
    turned = Image.fromarray(PLANE)
    turned.getexif()[0x0112] = 6
    np.testing.assert_array_equal(_processor().gray_plane(turned), np.rot90(PLANE, -1))


def test_options_of_a_call_count():
    values = _processor()(PLANE, do_normalize=False, return_tensors="np")["pixel_values"]
    assert values.min() >= 0
    assert values.max() <= 1
    squashed = _processor()(PLANE, resize_mode="squash", return_tensors="np")["pixel_values"]
    same = _processor(resize_mode="squash")(PLANE, return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(squashed, same)
    nearest = _processor()(PLANE, resample=Image.Resampling.NEAREST, return_tensors="np")["pixel_values"]
    assert (nearest != _processor()(PLANE, return_tensors="np")["pixel_values"]).any()
