"""Image processor of all model families."""

import copy
from typing import Any

import numpy as np
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    PILImageResampling,
)
from transformers.processing_utils import ImagesKwargs

from .enhancement_mura import apply_filters, complete_filters
from .geometry_mura import (
    RESIZE_MODES,
    find_center,
    resize_back,
    resize_to_canvas,
    to_gray_plane,
)


class MuraImageProcessorKwargs(ImagesKwargs, total=False):  # type: ignore[call-arg]
    r"""
    resize_mode (`str`, *optional*, defaults to `"letterbox"`):
        `"letterbox"` keeps the aspect ratio and pads with black; `"squash"` stretches the image, as most of the MURA
        literature does.
    enhance (`str`, `dict` or `list`, *optional*):
        Filters in the order of their use, each a name or a dict of a name and settings: `"clahe"` (in LAB by default),
        `"clahe_lab"`, `"clahe_gray"`, `"high_frequency_emphasis"`, `"unsharp"`. An empty list means none.
    """

    resize_mode: str | None
    enhance: str | dict | list | tuple | None


class MuraImageProcessor(PilBackend):
    r"""
    Converts radiographs to `pixel_values`, float32 `[B, C, height, width]`, with one channel per value of the mean.

    Steps:

    1. `gray_plane`: the image becomes one gray plane, uint8.
    2. `prepare_plane`: the plane is resized to `size`, enhanced with the filters of `enhance`, and placed on the black
       canvas of the letterbox.
    3. `center_crop`: with `do_center_crop`, the center of `crop_size` is kept.
    4. `to_pixel_values`: values are scaled to [0, 1], normalized with `image_mean` and `image_std` (those
       of ImageNet by default), and repeated over the channels.

    Steps 1 and 2 are deterministic and stay in uint8, so their result can be cached. Training augments it, and may
    crop at random instead of step 3. Calling the processor does all steps; `restore_map` maps a heatmap back.

    Enhancement comes after resizing and before the letterbox, so its effect depends neither on the resolution of the
    detector nor on the black bars. With `squash` the image is stretched before it is enhanced.

    The processor takes PIL images of 8 bits, uint8 arrays or tensors (`[H, W]`, `[H, W, C]` or `[C, H, W]`), and float
    arrays in [0, 1]. Images of more than 8 bits must be windowed first, for example with `mura_hf.read_radiograph`.
    Pillow itself keeps only 8 bits of a 16-bit *color* PNG, so read such files with `mura_hf.read_radiograph` too.
    """

    valid_kwargs = MuraImageProcessorKwargs

    resample = PILImageResampling.BILINEAR
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size: Any = {"height": 320, "width": 320}  # a SizeDict on instances
    crop_size: Any = None  # a SizeDict on instances
    resize_mode = "letterbox"
    enhance: Any = None  # a list of dicts with all settings on instances
    do_resize = True
    do_center_crop = False
    do_rescale = True
    do_normalize = True

    def __init__(self, **kwargs: Any) -> None:
        if kwargs.pop("crop_border", False):
            raise ValueError(
                "crop_border is true, but this version of mura_hf does not crop borders; train the checkpoint again "
                "without it"
            )
        super().__init__(**kwargs)
        _check_resize_mode(self.resize_mode)
        if not self.do_resize or self.do_pad:
            raise ValueError(
                "do_resize must be True and do_pad False: a checkpoint has one image size, and resize_mode says how "
                "an image fills it"
            )
        size = _height_and_width(self.size, "size")
        if self.do_center_crop:
            find_center(size, _height_and_width(self.crop_size, "crop_size"))
        if not (np.atleast_1d(self.image_std) > 0).all():  # also false for NaN
            raise ValueError(f"image_std is {self.image_std}: all values must be above 0")
        self.enhance = complete_filters(self.enhance)

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of `pixel_values`: `crop_size` with `do_center_crop`, else `size`."""
        chosen = self.crop_size if self.do_center_crop else self.size
        return chosen.height, chosen.width

    def gray_plane(self, image: Any) -> np.ndarray:
        """Converts an image to a gray plane, uint8 `[H, W]`; see `to_gray_plane`."""
        return to_gray_plane(image)

    def prepare_plane(self, plane: np.ndarray) -> np.ndarray:
        """Does all deterministic steps on a gray plane: resizing to `size`, enhancement, letterbox."""
        if not self.do_resize:  # `do_resize=False` is possible in a call only
            return apply_filters(plane, self.enhance)
        size = self.size.height, self.size.width
        return resize_to_canvas(
            plane, size, self.resize_mode, self.resample, lambda resized: apply_filters(resized, self.enhance)
        )

    def prepare_mask(self, mask: np.ndarray) -> np.ndarray:
        """Transforms a mask of an image as `prepare_plane` transforms the image, without enhancement.

        `mask` is uint8 `[H, W]`, 255 inside and 0 outside. The result is interpolated like the image; values above 127
        are inside.
        """
        return resize_to_canvas(mask, (self.size.height, self.size.width), self.resize_mode, self.resample)

    def center_crop(self, planes: np.ndarray) -> np.ndarray:
        """Crops the center of prepared planes or masks, `[..., height, width]` of any type, if `do_center_crop`.

        Raises:
            ValueError: If there is no `crop_size`, or the planes are smaller.
        """
        if not self.do_center_crop:
            return planes
        height, width = _height_and_width(self.crop_size, "crop_size")
        top, left = find_center(planes.shape[-2:], (height, width))
        return planes[..., top : top + height, left : left + width]

    def to_pixel_values(self, planes: np.ndarray) -> np.ndarray:
        """Rescales and normalizes gray planes, uint8 `[B, h, w]`, and repeats them to float32 `[B, C, h, w]`."""
        scaled = np.asarray(planes, np.float32)[:, None]
        if self.do_rescale:
            scaled = scaled * np.float32(self.rescale_factor)
        mean, std = (np.atleast_1d(np.asarray(values, np.float32)) for values in (self.image_mean, self.image_std))
        if not self.do_normalize:
            mean, std = np.zeros_like(mean), np.ones_like(std)
        return (scaled - mean[None, :, None, None]) / std[None, :, None, None]

    def restore_map(self, values: np.ndarray, height: int, width: int) -> np.ndarray:
        """Maps values `[h, w]` that were computed on `pixel_values`, such as a heatmap, back to the original image.

        Returns:
            float32 `[height, width]`, the size of the original; 0 outside the center crop.
        """
        size = self.size.height, self.size.width
        return resize_back(values, (height, width), size, self.output_size, self.resize_mode)

    def _prepare_images_structure(self, images: Any, expected_ndims: int = 3) -> list[Any]:
        """A flat list of images; unlike the base class, it takes gray arrays without a channel axis."""
        images = self.fetch_images(images)
        if isinstance(images, list | tuple) or getattr(images, "ndim", 0) > expected_ndims:
            return [image for part in images for image in self._prepare_images_structure(part, expected_ndims)]
        return [images]

    def process_image(self, image: Any, **kwargs: Any) -> np.ndarray:
        """Converts an image to a gray plane with a channel axis, `[1, H, W]` from 0 to 255.

        The dtype records the input: uint8, or float16 for float images, which are rescaled even with
        `do_rescale=False`.
        """
        dtype = getattr(image, "dtype", "")
        is_float = "float" in getattr(dtype, "name", str(dtype))  # torch's have no name
        return self.gray_plane(image)[None].astype(np.float16 if is_float else np.uint8, copy=False)

    def _preprocess(self, images: list[np.ndarray], return_tensors: Any = None, **kwargs: Any) -> BatchFeature:
        if kwargs.get("do_pad"):
            raise ValueError("do_pad is not supported; resize_mode says how an image fills its size")
        if not images:
            raise ValueError("there are no images to process; give at least one")
        settings = copy.copy(self)  # with the values of this call
        for name, value in kwargs.items():
            if value is not None:
                setattr(settings, name, value)
        _check_resize_mode(settings.resize_mode)
        settings.enhance = complete_filters(settings.enhance)
        values, do_rescale = [], settings.do_rescale
        for image in images:
            plane = settings.center_crop(settings.prepare_plane(image[0].astype(np.uint8, copy=False)))
            settings.do_rescale = do_rescale or image.dtype != np.uint8  # float images were in [0, 1] already
            values.append(settings.to_pixel_values(plane[None])[0])
        return BatchFeature(data={"pixel_values": values}, tensor_type=return_tensors)


def _check_resize_mode(mode: str | None) -> None:
    if mode not in RESIZE_MODES:
        raise ValueError(f"resize_mode is {mode!r}: it must be one of {', '.join(RESIZE_MODES)}")


def _height_and_width(size: Any, name: str) -> tuple[int, int]:
    if size is None or not (size.height and size.width) or min(size.height, size.width) < 1:
        raise ValueError(f"{name} is {None if size is None else dict(size)}: give height and width in pixels")
    return size.height, size.width
