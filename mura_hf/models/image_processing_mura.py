"""Image processor of the mura model family: one gray plane, resized, scaled, repeated over the channels."""

from typing import Any

import numpy as np
from PIL import Image, ImageOps
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling, SizeDict
from transformers.processing_utils import ImagesKwargs
from transformers.utils import TensorType, logging

logger = logging.get_logger(__name__)

RESIZE_MODES = ("letterbox", "squash")


class MuraImageProcessorKwargs(ImagesKwargs, total=False):  # type: ignore[call-arg]
    r"""
    resize_mode (`str`, *optional*, defaults to `"letterbox"`):
        `"letterbox"` keeps the shape and fills up with black; `"squash"` stretches to the size, as most of the MURA
        literature does.
    """

    resize_mode: str | None


class MuraImageProcessor(PilBackend):
    r"""
    Turns radiographs into `pixel_values`, float32 `[B, C, height, width]`, C being the number of means.

    The road of a picture has two halves. `gray_plane` and `resize_plane` are deterministic and stay in uint8, so their
    result can be cached and augmented; `to_pixel_values` scales and normalises. Calling the processor goes all the
    way.

    Accepts PIL images of 8 bits, uint8 arrays or tensors (`[H, W]`, `[H, W, C]` or `[C, H, W]`), and float arrays in
    [0, 1]. A picture of more than 8 bits must be windowed first; `mura_hf.read_radiograph` does that. Of a 16-bit
    *colour* PNG Pillow itself keeps 8 bits only: read such files with `mura_hf.read_radiograph` too.
    """

    valid_kwargs = MuraImageProcessorKwargs

    resample = PILImageResampling.BILINEAR
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size: Any = {"height": 320, "width": 320}  # a SizeDict on instances
    resize_mode = "letterbox"
    do_resize = True
    do_rescale = True
    do_normalize = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _check_resize_mode(self.resize_mode)
        if not (self.size.height and self.size.width):
            raise ValueError(f"size is {dict(self.size)}: give height and width in pixels")
        if not (np.atleast_1d(self.image_std) > 0).all():  # also catches NaN
            raise ValueError(f"image_std is {self.image_std}: every deviation must be above 0")

    def gray_plane(self, image: Any) -> np.ndarray:
        """One picture as a gray plane.

        Args:
            image: A PIL image, array or tensor as the class says.

        Returns:
            uint8 `[H, W]`.

        Raises:
            ValueError: If the picture has more than 8 bits, values out of range or an odd shape.
        """
        if isinstance(image, Image.Image):
            if image.mode in ("I", "F") or image.mode.startswith("I;"):
                raise ValueError(
                    f"the picture has mode {image.mode}, more than 8 bits a pixel, and would be cut off; window "
                    "it first, for instance with mura_hf.read_radiograph"
                )
            image = ImageOps.exif_transpose(image)
            rgb = image if image.mode in ("L", "RGB") else image.convert("RGB")
            plane = np.asarray(rgb.convert("L"))
        else:
            plane = _plane_from_array(_to_array(image))
        if plane.size and (plane == 255).mean() > 0.9:
            logger.warning(
                "More than nine tenths of a picture are pure white. If its file has 16 bits, it was cut off on "
                "the way here: "
                "read it with mura_hf.read_radiograph, which windows it."
            )
        return plane

    def resize_plane(
        self,
        plane: np.ndarray,
        size: SizeDict | None = None,
        resize_mode: str | None = None,
        resample: PILImageResampling | None = None,
    ) -> np.ndarray:
        """Resizes a gray plane, uint8 `[H, W]`, to the processor's size, uint8 `[height, width]`."""
        size = size or self.size
        mode = _check_resize_mode(resize_mode or self.resize_mode)
        top, left, height, width = _placement(plane.shape, (size.height, size.width), mode)
        resized = np.asarray(
            Image.fromarray(plane).resize((width, height), resample=self.resample if resample is None else resample)
        )
        if mode == "squash":
            return resized
        canvas = np.zeros((size.height, size.width), np.uint8)
        canvas[top : top + height, left : left + width] = resized
        return canvas

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
        """Scales, normalises and repeats gray planes, uint8 `[B, h, w]`, to float32 `[B, C, h, w]`, a channel for
        each value of the mean.
        """
        scaled = np.asarray(planes, np.float32)[:, None]
        if self.do_rescale if do_rescale is None else do_rescale:
            scaled = scaled * np.float32(rescale_factor or self.rescale_factor)
        mean = np.atleast_1d(np.asarray(self.image_mean if image_mean is None else image_mean, np.float32))
        deviation = np.atleast_1d(np.asarray(self.image_std if image_std is None else image_std, np.float32))
        if not (self.do_normalize if do_normalize is None else do_normalize):
            mean, deviation = np.zeros_like(mean), np.ones_like(deviation)
        return (scaled - mean[None, :, None, None]) / deviation[None, :, None, None]

    def restore_map(self, values: np.ndarray, height: int, width: int) -> np.ndarray:
        """Lays a map that was computed on the processed picture back over the original one.

        Args:
            values: float32 `[h, w]`, covering the processed picture, at any resolution.
            height: Height of the original in pixels.
            width: Width of the original in pixels.

        Returns:
            float32 `[height, width]`.
        """
        size = (self.size.height, self.size.width)
        top, left, inner_height, inner_width = _placement((height, width), size, self.resize_mode)
        down, across = values.shape[0] / size[0], values.shape[1] / size[1]
        box = (left * across, top * down, (left + inner_width) * across, (top + inner_height) * down)
        picture = Image.fromarray(np.asarray(values, np.float32))
        return np.asarray(picture.resize((width, height), resample=Image.Resampling.BILINEAR, box=box))

    def _prepare_images_structure(self, images: Any, expected_ndims: int = 3) -> list[Any]:
        """A flat list of pictures; unlike the base's, it takes gray arrays without a channel axis."""
        images = self.fetch_images(images)
        if isinstance(images, list | tuple) or getattr(images, "ndim", 0) > expected_ndims:
            return [picture for part in images for picture in self._prepare_images_structure(part, expected_ndims)]
        return [images]

    def process_image(self, image: Any, **kwargs: Any) -> np.ndarray:
        """A picture as a gray plane with a channel axis, uint8 `[1, H, W]`."""
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
        resize_mode: str | None = None,
        resample: PILImageResampling | None = None,
        do_center_crop: bool | None = None,
        do_pad: bool | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        if do_center_crop or do_pad:
            raise ValueError(
                "do_center_crop and do_pad are not known here; resize_mode says how a picture fills its size"
            )
        if not images:
            raise ValueError("there are no pictures to process; give at least one")
        planes = [
            self.resize_plane(image[0], size, resize_mode, resample) if do_resize else image[0] for image in images
        ]
        options: dict[str, Any] = {
            "do_rescale": do_rescale,
            "rescale_factor": rescale_factor,
            "do_normalize": do_normalize,
            "image_mean": image_mean,
            "image_std": image_std,
        }
        values = [self.to_pixel_values(plane[None], **options)[0] for plane in planes]
        return BatchFeature(data={"pixel_values": values}, tensor_type=return_tensors)


def _check_resize_mode(mode: str | None) -> str:
    if mode not in RESIZE_MODES:
        raise ValueError(f"resize_mode is {mode!r}: it must be one of {', '.join(RESIZE_MODES)}")
    return mode


def _placement(original: tuple[int, ...], size: tuple[int, int], mode: str) -> tuple[int, int, int, int]:
    """Where the resized picture lies inside the processed one: top, left, height, width in pixels."""
    if mode == "squash":
        return 0, 0, size[0], size[1]
    scale = min(size[0] / original[0], size[1] / original[1])
    height, width = max(1, round(original[0] * scale)), max(1, round(original[1] * scale))
    return (size[0] - height) // 2, (size[1] - width) // 2, height, width


def _to_array(image: Any) -> np.ndarray:
    if not hasattr(image, "detach"):
        return np.asarray(image)
    tensor = image.detach().cpu()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _plane_from_array(array: np.ndarray) -> np.ndarray:
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (1, 3, 4):
        array = np.moveaxis(array, 0, -1)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ValueError(f"an array of shape {array.shape} is no picture; give [H, W], [H, W, C] or [C, H, W]")
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    elif np.issubdtype(array.dtype, np.floating):
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):  # also catches NaN
            raise ValueError(
                f"float pixels must lie in [0, 1], but these run from {low:g} to {high:g}; scale them first"
            )
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ValueError(
            f"integer pixels must be uint8, not {array.dtype}; window them first, as mura_hf.read_radiograph does"
        )
    if array.ndim == 3:
        picture = array[..., 0] if array.shape[2] == 1 else array[..., :3]
        return np.asarray(Image.fromarray(np.ascontiguousarray(picture)).convert("L"))
    return array


__all__ = ["RESIZE_MODES", "MuraImageProcessor", "MuraImageProcessorKwargs"]
