"""Image processor of all model families."""

from typing import Any

import numpy as np
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
    PILImageResampling,
    SizeDict,
)
from transformers.processing_utils import ImagesKwargs
from transformers.utils import TensorType

from .enhancement_mura import apply_filters, complete_filters
from .geometry_mura import (
    RESIZE_MODES,
    check_resize_mode,
    find_center,
    find_field_inside_border,
    resize_back,
    resize_to_canvas,
    to_gray_plane,
)

NORMALIZATIONS = {
    "imagenet": {"image_mean": IMAGENET_DEFAULT_MEAN, "image_std": IMAGENET_DEFAULT_STD},
    "minus_one_to_one": {"image_mean": IMAGENET_STANDARD_MEAN, "image_std": IMAGENET_STANDARD_STD},
}
"""Common normalizations by name: `MuraImageProcessor(**NORMALIZATIONS["minus_one_to_one"])`. Most pretrained weights
of timm use `"imagenet"`; `"minus_one_to_one"` maps black to -1 and white to 1.
"""


class MuraImageProcessorKwargs(ImagesKwargs, total=False):  # type: ignore[call-arg]
    r"""
    resize_mode (`str`, *optional*, defaults to `"letterbox"`):
        `"letterbox"` keeps the aspect ratio and pads with black; `"squash"` stretches the image, as most of the MURA
        literature does.
    crop_border (`bool`, *optional*, defaults to `False`):
        Whether to crop the uniform border (of a collimator or frame) before resizing.
    enhance (`str`, `dict` or `list`, *optional*):
        Filters in the order of their use, each a name or a dict of a name and settings: `"clahe_lab"`, `"clahe_gray"`,
        `"high_frequency_emphasis"`, `"unsharp"`. An empty list means none.
    """

    resize_mode: str | None
    crop_border: bool | None
    enhance: str | dict | list | tuple | None


class MuraImageProcessor(PilBackend):
    r"""
    Converts radiographs to `pixel_values`, float32 `[B, C, height, width]`, with one channel per value of the mean.

    Steps:

    1. `gray_plane`: the image becomes one gray plane, uint8.
    2. `prepare_plane`: with `crop_border`, the uniform border is cropped (`find_field`). The rest is resized to
       `size`, enhanced with the filters of `enhance`, and placed on the black canvas of the letterbox.
    3. `center_crop`: with `do_center_crop`, the center of `crop_size` is kept.
    4. `to_pixel_values`: values are scaled to [0, 1], normalized with `image_mean` and `image_std` (see
       `NORMALIZATIONS`), and repeated over the channels.

    Steps 1 and 2 are deterministic and stay in uint8, so their result can be cached. Training augments it, and may
    crop at random instead of step 3. Calling the processor does all steps; `restore_map` maps a heatmap back.

    Enhancement comes after resizing and before the letterbox, so its effect depends neither on the resolution of the
    detector nor on the black bars. `"squash"` stretches the image before it.

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
    crop_border = False
    enhance: Any = None  # a list of dicts with all settings on instances
    do_resize = True
    do_center_crop = False
    do_rescale = True
    do_normalize = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_resize_mode(self.resize_mode)
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
        """Converts an image to a gray plane, uint8 `[H, W]`; see `to_gray_plane`.

        Raises:
            ValueError: If the image has more than 8 bits, values out of range or an unsupported shape.
        """
        return to_gray_plane(image)

    def find_field(self, plane: np.ndarray, *, crop_border: bool | None = None) -> tuple[int, int, int, int]:
        """Finds the part of an image that is resized.

        Args:
            plane: uint8 `[H, W]`, from `gray_plane`.
            crop_border: As in the processor by default.

        Returns:
            x0, y0, x1, y1 in pixels of the image, x1 and y1 exclusive; the whole image unless `crop_border`.
        """
        if self.crop_border if crop_border is None else crop_border:
            return find_field_inside_border(plane)
        return 0, 0, plane.shape[1], plane.shape[0]

    def prepare_plane(
        self,
        plane: np.ndarray,
        *,
        do_resize: bool = True,
        size: SizeDict | None = None,
        resize_mode: str | None = None,
        resample: PILImageResampling | None = None,
        crop_border: bool | None = None,
        enhance: Any = None,
    ) -> np.ndarray:
        """Does all deterministic steps: border crop, resizing, enhancement, letterbox.

        Args:
            plane: uint8 `[H, W]`, from `gray_plane`.
            do_resize: Whether to resize to `size`; without it there is no letterbox.
            size: As in the processor by default, like the following arguments.
            resize_mode: `"letterbox"` or `"squash"`.
            resample: Interpolation.
            crop_border: Whether to crop the uniform border.
            enhance: Filters; an empty list for none.

        Returns:
            uint8 `[size.height, size.width]`.

        Raises:
            ValueError: If a setting is unknown or out of range.
        """
        x0, y0, x1, y1 = self.find_field(plane, crop_border=crop_border)
        filters = self.enhance if enhance is None else complete_filters(enhance)
        inner = plane[y0:y1, x0:x1]
        if not do_resize:
            return apply_filters(inner, filters)
        size, mode = size or self.size, check_resize_mode(resize_mode or self.resize_mode)
        resample = self.resample if resample is None else resample
        return resize_to_canvas(
            inner, (size.height, size.width), mode, resample, lambda resized: apply_filters(resized, filters)
        )

    def prepare_mask(self, mask: np.ndarray, field: tuple[int, int, int, int]) -> np.ndarray:
        """Transforms a mask of an image as `prepare_plane` transforms the image, without enhancement.

        Args:
            mask: uint8 `[H, W]` of the size of the image; 255 inside, 0 outside.
            field: From `find_field` of the image.

        Returns:
            uint8 `[size.height, size.width]`, interpolated like the image; values above 127 are inside.
        """
        x0, y0, x1, y1 = field
        size = self.size.height, self.size.width
        return resize_to_canvas(mask[y0:y1, x0:x1], size, self.resize_mode, self.resample)

    def center_crop(
        self, planes: np.ndarray, *, do_center_crop: bool | None = None, crop_size: SizeDict | None = None
    ) -> np.ndarray:
        """Crops the center of prepared planes or masks if `do_center_crop`.

        Args:
            planes: `[..., height, width]` of any type.
            do_center_crop: As in the processor by default.
            crop_size: As in the processor by default.

        Returns:
            `[..., crop_size.height, crop_size.width]`; unchanged unless `do_center_crop`.

        Raises:
            ValueError: If there is no `crop_size`, or the planes are smaller.
        """
        if not (self.do_center_crop if do_center_crop is None else do_center_crop):
            return planes
        height, width = _height_and_width(crop_size or self.crop_size, "crop_size")
        top, left = find_center(planes.shape[-2:], (height, width))
        return planes[..., top : top + height, left : left + width]

    def to_pixel_values(
        self,
        planes: np.ndarray,
        *,
        do_rescale: bool | None = None,
        rescale_factor: float | None = None,
        do_normalize: bool | None = None,
        image_mean: float | tuple[float, ...] | None = None,
        image_std: float | tuple[float, ...] | None = None,
    ) -> np.ndarray:
        """Rescales and normalizes gray planes, uint8 `[B, h, w]`, and repeats them to float32 `[B, C, h, w]`."""
        scaled = np.asarray(planes, np.float32)[:, None]
        if self.do_rescale if do_rescale is None else do_rescale:
            scaled = scaled * np.float32(rescale_factor or self.rescale_factor)
        mean = np.atleast_1d(np.asarray(self.image_mean if image_mean is None else image_mean, np.float32))
        std = np.atleast_1d(np.asarray(self.image_std if image_std is None else image_std, np.float32))
        if not (self.do_normalize if do_normalize is None else do_normalize):
            mean, std = np.zeros_like(mean), np.ones_like(std)
        return (scaled - mean[None, :, None, None]) / std[None, :, None, None]

    def restore_map(
        self,
        values: np.ndarray,
        height: int,
        width: int,
        field: tuple[int, int, int, int] | None = None,
    ) -> np.ndarray:
        """Maps values that were computed on `pixel_values`, such as a heatmap, back to the original image.

        Args:
            values: float32 `[h, w]`, covering `pixel_values`, at any resolution.
            height: Height of the original in pixels.
            width: Width of the original in pixels.
            field: From `find_field` of the original; the whole image if None.

        Returns:
            float32 `[height, width]`; 0 outside the field and outside the center crop.
        """
        x0, y0, x1, y1 = field or (0, 0, width, height)
        size = self.size.height, self.size.width
        inner = resize_back(values, (y1 - y0, x1 - x0), size, self.output_size, self.resize_mode)
        if inner.shape == (height, width):
            return inner
        restored = np.zeros((height, width), np.float32)
        restored[y0:y1, x0:x1] = inner
        return restored

    def _prepare_images_structure(self, images: Any, expected_ndims: int = 3) -> list[Any]:
        """A flat list of images; unlike the base class, it takes gray arrays without a channel axis."""
        images = self.fetch_images(images)
        if isinstance(images, list | tuple) or getattr(images, "ndim", 0) > expected_ndims:
            return [image for part in images for image in self._prepare_images_structure(part, expected_ndims)]
        return [images]

    def process_image(self, image: Any, **kwargs: Any) -> np.ndarray:
        """Converts an image to a gray plane with a channel axis, uint8 `[1, H, W]`."""
        return self.gray_plane(image)[None]

    def _preprocess(
        self,
        images: list[np.ndarray],
        do_resize: bool,
        size: SizeDict,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: float | tuple[float, ...] | None,
        image_std: float | tuple[float, ...] | None,
        return_tensors: str | TensorType | None,
        do_center_crop: bool | None = None,
        crop_size: SizeDict | None = None,
        do_pad: bool | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        if do_pad:
            raise ValueError("do_pad is not supported; resize_mode says how an image fills its size")
        if not images:
            raise ValueError("there are no images to process; give at least one")
        options = {name: kwargs[name] for name in ("resize_mode", "resample", "crop_border", "enhance")}
        values = []
        for image in images:
            plane = self.prepare_plane(image[0], do_resize=do_resize, size=size, **options)
            plane = self.center_crop(plane, do_center_crop=do_center_crop, crop_size=crop_size)
            pixels = self.to_pixel_values(
                plane[None],
                do_rescale=do_rescale,
                rescale_factor=rescale_factor,
                do_normalize=do_normalize,
                image_mean=image_mean,
                image_std=image_std,
            )
            values.append(pixels[0])
        return BatchFeature(data={"pixel_values": values}, tensor_type=return_tensors)


def _height_and_width(size: SizeDict | None, name: str) -> tuple[int, int]:
    if size is None or not (size.height and size.width) or min(size.height, size.width) < 1:
        raise ValueError(f"{name} is {None if size is None else dict(size)}: give height and width in pixels")
    return size.height, size.width


__all__ = ["NORMALIZATIONS", "RESIZE_MODES", "MuraImageProcessor", "MuraImageProcessorKwargs"]
