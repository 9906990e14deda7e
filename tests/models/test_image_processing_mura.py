import io
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.image_transforms import center_crop as reference_center_crop

from mura_hf import MuraImageProcessor
from mura_hf.models.enhancement_mura import apply_filters, complete_filters
from mura_hf.models.geometry_mura import find_placement

RNG = np.random.default_rng(0)
PLANE = RNG.integers(0, 256, (90, 60), dtype=np.uint8)


def _processor(**options):
    return MuraImageProcessor(size={"height": 48, "width": 48}, **options)


def test_all_input_forms_give_the_same_values():
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
        PLANE / 255 * 1.0000001,  # rounding errors
        PLANE / 255 - 1e-6,
    ]
    processor = _processor()
    reference = processor(gray, return_tensors="pt")["pixel_values"]
    assert reference.shape == (1, 3, 48, 48)
    assert reference.dtype == torch.float32
    for form in forms:
        assert torch.equal(processor(form, return_tensors="pt")["pixel_values"], reference)
    together = processor(forms, return_tensors="pt")["pixel_values"]
    assert torch.equal(together, reference.expand(len(forms), -1, -1, -1))


def test_normalization():
    mean, std = [0.5, 0.4, 0.3], [0.1, 0.2, 0.4]
    values = _processor(image_mean=mean, image_std=std).to_pixel_values(PLANE[None])[0]
    expected = (PLANE[..., None] / 255 - mean) / std
    np.testing.assert_allclose(values, np.moveaxis(expected, -1, 0), rtol=1e-5, atol=1e-5)


def test_letterbox_and_squash():
    resized = Image.fromarray(PLANE).resize((32, 48), Image.Resampling.BILINEAR)
    enhanced = apply_filters(np.asarray(resized), complete_filters("clahe_gray"))  # without the bars
    boxed = _processor(resize_mode="letterbox", enhance="clahe_gray").prepare_plane(PLANE)
    np.testing.assert_array_equal(boxed, np.pad(enhanced, ((0, 0), (8, 8))))
    assert (_processor(resize_mode="squash").prepare_plane(np.full((90, 60), 200, np.uint8)) == 200).all()


def test_round_trip(tmp_path):
    options = {
        "resize_mode": "squash",
        "image_mean": [0.1, 0.2, 0.3],
        "do_center_crop": True,
        "crop_size": {"height": 40, "width": 30},
        "enhance": ["clahe_lab", {"name": "unsharp", "amount": 0.5}],
    }
    processor = _processor(**options)
    processor.save_pretrained(tmp_path)
    again = MuraImageProcessor.from_pretrained(tmp_path)
    assert (again.resize_mode, again.output_size) == ("squash", (40, 30))
    assert again.enhance == processor.enhance == complete_filters(options["enhance"])
    first, second = (one(PLANE, return_tensors="np")["pixel_values"] for one in (processor, again))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.fromarray(PLANE.astype(np.uint16) * 257), "more than 8 bits"),
        (PLANE.astype(np.uint16), "uint8"),
        (PLANE.astype(np.float32), r"\[0, 1\]"),
        (np.full((40, 40), np.nan, np.float32), r"\[0, 1\]"),
        (PLANE / 255 * 1.01, r"\[0, 1\], but range from 0 to 1.01"),
        (np.zeros((0, 5)), "shape"),
        (np.zeros((7, 5, 6), np.uint8), "shape"),
        ([], "no images"),
    ],
)
def test_unsupported_images_are_rejected(image, message):
    with pytest.raises(ValueError, match=message):
        _processor()(image, return_tensors="pt")


def test_clipped_images_cause_a_warning(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    _processor()(np.full((40, 40), 255, np.uint8), return_tensors="pt")
    assert "read_radiograph" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resize_mode": "zoom"}, "letterbox, squash"),
        ({"size": {"shortest_edge": 48}}, "height and width"),
        ({"size": {"height": 48, "width": -48}}, "height and width"),
        ({"do_center_crop": True}, "crop_size is None"),
        ({"do_center_crop": True, "crop_size": {"shortest_edge": 48}}, "height and width"),
        ({"do_center_crop": True, "crop_size": 400}, "does not fit"),
        ({"do_resize": False}, "do_resize must be True"),
        ({"do_pad": True}, "do_pad False"),
        ({"enhance": "clahe_grey"}, "did you mean 'clahe_gray'"),
        ({"crop_border": True}, "this version of mura_hf does not crop borders"),
        ({"image_std": [0.0, 0.0, 0.0]}, "above 0"),
        ({"image_std": [float("nan")] * 3}, "above 0"),
    ],
)
def test_invalid_settings_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        MuraImageProcessor(**options)


def test_exif_orientation_is_applied():
    turned = Image.fromarray(PLANE)
    turned.getexif()[0x0112] = 6
    np.testing.assert_array_equal(_processor().gray_plane(turned), np.rot90(PLANE, -1))


@pytest.mark.parametrize("load", [False, True])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_the_orientation_of_a_tiff_file_is_applied_once(turns, load):
    file = io.BytesIO()
    Image.fromarray(PLANE).save(file, "TIFF", tiffinfo={0x0112: [1, 6, 3, 8][turns]})
    image = Image.open(file)
    if load:
        image.load()  # Pillow turns the pixels now, else when they are first used
    np.testing.assert_array_equal(_processor().gray_plane(image), np.rot90(PLANE, -turns))


@pytest.mark.parametrize(
    "scaled", [PLANE / np.float32(255), torch.from_numpy(PLANE / 255)[None], (PLANE / 255).astype(">f4")]
)
def test_float_images_stay_in_their_range_without_rescaling(scaled):
    processor = _processor()
    expected = processor(PLANE, return_tensors="np")["pixel_values"]
    together = processor([scaled, PLANE], do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(processor(scaled, do_rescale=False, return_tensors="np")["pixel_values"], expected)
    np.testing.assert_allclose(together[0] * 255, together[1], rtol=1e-5)  # values of 8 bits are left as they are


@pytest.mark.parametrize(
    "options",
    [
        {"do_center_crop": True, "crop_size": {"height": 30, "width": 40}},
        {"enhance": ["clahe_gray", {"name": "unsharp", "radius": 1}]},
        {"size": {"height": 40, "width": 64}},
        {"resize_mode": "squash"},
        {"resample": Image.Resampling.NEAREST},
        {"image_std": [0.3, 0.2, 0.1]},
    ],
)
def test_options_of_a_call_equal_settings(options):
    framed = np.pad(PLANE, 20)
    by_call = _processor()(framed, return_tensors="np", **options)["pixel_values"]
    by_setting = MuraImageProcessor(**{"size": {"height": 48, "width": 48}, **options})
    np.testing.assert_array_equal(by_call, by_setting(framed, return_tensors="np")["pixel_values"])
    assert by_call.shape[2:] == by_setting.output_size
    plain = _processor()(framed, return_tensors="np")["pixel_values"]
    assert by_call.shape != plain.shape or (by_call != plain).any()
    off = {name: getattr(_processor(), name) for name in options} | {"size": {"height": 48, "width": 48}}
    np.testing.assert_array_equal(by_setting(framed, return_tensors="np", **off)["pixel_values"], plain)


def test_a_call_can_leave_the_size_alone():
    values = _processor(enhance="unsharp")(PLANE, do_resize=False, do_normalize=False, return_tensors="np")
    expected = apply_filters(PLANE, complete_filters("unsharp"))
    np.testing.assert_array_equal(np.rint(values["pixel_values"][0, 0] * 255), expected)
    with pytest.raises(ValueError, match="does not fit"):
        _processor()(PLANE, do_resize=False, do_center_crop=True, crop_size={"height": 91, "width": 20})
    with pytest.raises(ValueError, match="resize_mode"):
        _processor()(PLANE, do_pad=True)


@pytest.mark.parametrize(("height", "width", "top", "left"), [(30, 40, 9, 4), (31, 41, 8, 3), (48, 48, 0, 0)])
def test_center_crop_equals_transformers(height, width, top, left):
    processor = _processor(do_center_crop=True, crop_size={"height": height, "width": width})
    planes = RNG.integers(0, 256, (3, 48, 48), dtype=np.uint8)
    found = processor.center_crop(planes)
    np.testing.assert_array_equal(found, planes[:, top : top + height, left : left + width])
    np.testing.assert_array_equal(found, reference_center_crop(planes, (height, width)))
    np.testing.assert_array_equal(_processor().center_crop(planes), planes)


def test_a_false_border_crop_of_former_versions_is_ignored():
    assert "crop_border" not in _processor(crop_border=False).to_dict()


@pytest.mark.parametrize("mode", ["letterbox", "squash"])
def test_a_mask_is_transformed_like_its_image(mode):
    mask = np.zeros((90, 60), np.uint8)
    mask[20:70, 15:50] = 255
    processor = _processor(resize_mode=mode)
    np.testing.assert_array_equal(processor.prepare_mask(mask), processor.prepare_plane(mask))
    enhanced = _processor(resize_mode=mode, enhance="unsharp")
    np.testing.assert_array_equal(enhanced.prepare_mask(mask), processor.prepare_plane(mask))


@pytest.mark.parametrize("resolution", [1, 4])
@pytest.mark.parametrize("crop", [None, {"height": 35, "width": 45}])
@pytest.mark.parametrize("mode", ["letterbox", "squash"])
def test_a_map_is_restored_through_the_crop(mode, crop, resolution):
    image = np.zeros((180, 130), np.uint8)
    image[20:150, 10:120] = RNG.integers(60, 90, (130, 110))
    image[75:87, 68:80] = 255
    processor = _processor(resize_mode=mode, do_center_crop=crop is not None, crop_size=crop)
    seen = processor.center_crop(processor.prepare_plane(image))
    height, width = seen.shape
    assert (height, width) == processor.output_size
    values = np.repeat(np.repeat(seen.astype(np.float32), resolution, 0), resolution, 1)
    restored = processor.restore_map(values, 180, 130)
    assert restored.shape == (180, 130)
    assert np.argwhere(restored > 160).mean(0) == pytest.approx([80.5, 73.5], abs=1.5)
    # A map that is 1 everywhere says where the model could see: nowhere outside the crop.
    reach = processor.restore_map(np.ones((height * resolution, width * resolution), np.float32), 180, 130)
    placed = find_placement((180, 130), (48, 48), mode)
    share = min(1, height / placed[2]) * min(1, width / placed[3])
    assert (reach == 1).mean() == pytest.approx(share, abs=0.02)
    assert set(np.unique(reach)) <= {0.0, 1.0}
