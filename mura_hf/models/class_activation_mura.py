"""Class activation maps, the region that they point at, and the crop of it.

The layer of a network that a heatmap can be read from, found by trying the network out.
"""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from .modeling_mura_base import Explained


def gradient_map(score: Callable[[torch.Tensor], torch.Tensor], feature_map: torch.Tensor) -> torch.Tensor:
    """Evidence for the score at each place, negative where it speaks against it.

    Grad-CAM without its last step (Selvaraju et al., arXiv 1610.02391, equations 1 and 2): the channels of the feature
    map weighted by the mean gradient of the score. Only what follows the map is differentiated.

    Args:
        score: From a feature map to what is explained, `[B]`.
        feature_map: `[B, D, h, w]`.

    Returns:
        `[B, h, w]`, without a gradient.
    """
    with torch.inference_mode(False), torch.enable_grad():
        values = feature_map.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(score(values).sum(), values)
    return (gradient.mean((2, 3), keepdim=True) * values.detach()).sum(1)


def is_mean(code: torch.Tensor | None, *feature_maps: torch.Tensor) -> bool:
    """Whether a pooled code `[B, D]` is the mean of feature maps `[B, D, h, w]` over their places.

    Seen on the values themselves, to what their precision can tell, whatever the layer that pooled is called.
    """
    if code is None or code.shape != feature_maps[0].shape[:2]:
        return False
    mean = torch.stack([values.float().mean((2, 3)) for values in feature_maps]).mean(0)
    far = max(1e-5, 2 * torch.finfo(code.dtype).eps)
    return bool(torch.allclose(code.float(), mean, rtol=far, atol=far * float(mean.abs().max())))


def largest_region(maps: torch.Tensor, threshold: float) -> torch.Tensor:
    """The rectangle around the largest connected hot region of each map.

    Each map is normalised to [0, 1] and cut at the threshold; neighbours are eight. Components are found by handing
    the largest number of a pixel on to its neighbours until nothing changes, for all maps at once.

    Args:
        maps: `[B, h, w]`, finite.
        threshold: Share of the way from the coldest to the hottest pixel, in (0, 1).

    Returns:
        float `[B, 4]`: left, top, right and bottom in shares of the map's sides. The whole of a map that is constant.
        Of regions of equal size, the one whose last pixel, row by row, comes first.
    """
    batch, height, width = maps.shape
    values = maps.detach().float()
    low, high = values.amin((1, 2), keepdim=True), values.amax((1, 2), keepdim=True)
    hot = (values - low >= threshold * (high - low)).float()[:, None]
    numbers = torch.arange(1, height * width + 1, device=maps.device, dtype=torch.float32).view(1, 1, height, width)
    labels = numbers * hot
    while True:
        spread = labels
        for _ in range(8):  # looking whether something changed waits for an accelerator, so it is not done each time
            spread = functional.max_pool2d(spread, 3, 1, 1) * hot
        if torch.equal(spread, labels):
            break
        labels = spread
    flat = labels.view(batch, -1).long()
    areas = torch.zeros(batch, height * width + 1, device=maps.device).scatter_add_(1, flat, hot.view(batch, -1))
    areas[:, 0] = 0
    inside = labels[:, 0] == areas.argmax(1).view(-1, 1, 1)
    columns, rows = inside.any(1).float(), inside.any(2).float()
    return torch.stack(
        [
            columns.argmax(1) / width,
            rows.argmax(1) / height,
            1 - columns.flip(1).argmax(1) / width,
            1 - rows.flip(1).argmax(1) / height,
        ],
        dim=1,
    )


def widen(boxes: torch.Tensor, least: float, *, square: bool) -> torch.Tensor:
    """Boxes `[B, 4]` in shares, grown around their middle and shifted to lie inside the picture: until each side is at
    least `least`, and, where asked, as long as the other one.
    """
    middle, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).clamp_min(least)
    if square:
        sides = sides.amax(1, keepdim=True).expand(-1, 2)
    start = torch.minimum((middle - sides / 2).clamp_min(0), 1 - sides)
    return torch.cat([start, start + sides], dim=1)


def crop_and_resize(pictures: torch.Tensor, boxes: torch.Tensor, side: int) -> torch.Tensor:
    """What lies in the boxes, resized bilinearly, with antialiasing where it shrinks.

    Args:
        pictures: `[B, C, H, W]`.
        boxes: `[B, 4]` in shares; grown to whole pixels.
        side: Of the result, in pixels.

    Returns:
        `[B, C, side, side]`.
    """
    edges = find_edges(boxes, pictures.shape[-2], pictures.shape[-1]).tolist()
    return torch.cat(
        [
            resize(picture[None, :, top:bottom, left:right], side)
            for picture, (left, top, right, bottom) in zip(pictures, edges, strict=True)
        ]
    )


def find_edges(boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Boxes `[B, 4]` in shares as int64 `[B, 4]` in pixels of a picture, grown to whole ones: left, top, right and
    bottom, of which the latter two lie outside.
    """
    edges = boxes * torch.tensor([width, height, width, height], device=boxes.device)
    return torch.cat([(edges[:, :2] + 1e-3).floor(), (edges[:, 2:] - 1e-3).ceil()], dim=1).long()


def resize(pictures: torch.Tensor, side: int) -> torch.Tensor:
    """Pictures `[B, C, H, W]` as squares `[B, C, side, side]`, bilinear, with antialiasing where they shrink.

    Computed in float32: torch has no such resizing for half precision on every device.
    """
    if pictures.shape[-2:] == (side, side):
        return pictures
    resized = functional.interpolate(pictures.float(), (side, side), mode="bilinear", antialias=True)
    return resized.to(pictures.dtype)


_INSIDE_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_MOST_PREFIX_TOKENS = 8  # class, distillation and register tokens, which no known network has more of


@dataclass(frozen=True)
class Grid:
    """How a layer's output is a feature map.

    Attributes:
        kind: "channels first" `[B, D, h, w]`, "channels last" `[B, h, w, D]` or "tokens" `[B, N, D]`.
        height: h.
        width: w.
        prefix: Tokens in front of those of the picture.
    """

    kind: str
    height: int
    width: int
    prefix: int = 0

    def to_map(self, values: torch.Tensor) -> torch.Tensor:
        """The output as `[B, D, h, w]`."""
        if self.kind == "tokens":
            values = values[:, self.prefix :].unflatten(1, (self.height, self.width))
        return values if self.kind == "channels first" else values.permute(0, 3, 1, 2)


class MapLayer:
    """A layer whose output can be taken hold of while the network runs. Threads may share it.

    The hook stays on the network for good, and does something only in a thread that is inside `cut` or `watch`.

    Args:
        name: The layer's.
        module: It.
        grid: How its output is a feature map.
    """

    def __init__(self, name: str, module: nn.Module, grid: Grid) -> None:
        self.name = name
        self.grid = grid
        self._cut: dict[int, list[torch.Tensor]] = {}  # by thread; a threading.local could not be copied
        self._watched: dict[int, list[torch.Tensor]] = {}
        module.register_forward_hook(self._hook)

    def _hook(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
        watched = self._watched.get(threading.get_ident())
        if watched is not None:
            watched.append(output)
        held = self._cut.get(threading.get_ident())
        if held is None:
            return None
        leaf = output.detach().requires_grad_()
        held.append(leaf)
        return leaf.clone()  # what follows may write into it, and a leaf forbids that

    @contextmanager
    def cut(self) -> Iterator[list[torch.Tensor]]:
        """While open, the layer's output in this thread is a leaf of a graph that begins there; it is put into the
        list that is given.
        """
        held: list[torch.Tensor] = []
        thread = threading.get_ident()
        self._cut[thread] = held
        try:
            with torch.inference_mode(False), torch.enable_grad():
                yield held
        finally:
            del self._cut[thread]

    @contextmanager
    def watch(self) -> Iterator[list[torch.Tensor]]:
        """While open, the layer's output in this thread is put into the list that is given, and left as it is."""
        held: list[torch.Tensor] = []
        thread = threading.get_ident()
        self._watched[thread] = held
        try:
            yield held
        finally:
            del self._watched[thread]

    def explain(self, logits: torch.Tensor, outputs: tuple[torch.Tensor, ...]) -> Explained:
        """What logits say about the layer's outputs that they were computed from.

        The score is the linear one that has the answer's gradient, which is all that Grad-CAM needs: the network is
        not run again.

        Args:
            logits: `[n, 2]`, with the graph that begins at the outputs.
            outputs: What `cut` held: of the pictures, and of their mirror images where they had a say.
        """
        with torch.inference_mode(False), torch.enable_grad():
            difference = (logits[:, 1] - logits[:, 0]).sum()
            gradients = torch.autograd.grad(difference, outputs, retain_graph=True)
            maps, slope = (self._join(values) for values in (outputs, gradients))
        return Explained(maps, lambda values: (values * slope).sum((1, 2, 3)))

    def _join(self, outputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Outputs as one map, channel by channel behind each other; those of mirror images mirrored back."""
        first, *mirrored = (self.grid.to_map(output.detach()) for output in outputs)
        return torch.cat([first, *(values.flip(-1) for values in mirrored)], dim=1)


@dataclass(frozen=True)
class _Seen:
    name: str
    module: nn.Module
    output: torch.Tensor
    grid: Grid


def find_map_layer(
    model: nn.Module, score: Callable[[torch.Tensor], torch.Tensor], shape: tuple[int, int, int]
) -> MapLayer | None:
    """The last layer whose output is laid out like the picture and still matters for the answer.

    Of convolutional networks, that is what feeds the last pooling. Of networks on tokens, it is the last normalisation
    whose picture tokens the answer depends on: the final one where tokens are averaged (Swin), and the one in front of
    the last attention where a class token answers alone (ViT), since behind that only the class token counts.

    Two pictures of noise run through the network, and back, once.

    Args:
        model: In evaluation mode.
        score: From pixel values `[B, C, H, W]` to what is explained, `[B]`.
        shape: C, H and W.

    Returns:
        None where there is no such layer.
    """
    seen: list[_Seen] = []
    here = threading.get_ident()

    def look(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            ours = threading.get_ident() == here  # others may ask the network meanwhile
            if ours and isinstance(output, torch.Tensor) and output.requires_grad and output.is_floating_point():
                grid = _find_grid(output, shape[1:])
                if grid is not None:
                    seen.append(_Seen(name, module, output, grid))

        return hook

    named = [(name, module) for name, module in model.named_modules() if not _INSIDE_ATTENTION.search(name)]
    hooks = [module.register_forward_hook(look(name)) for name, module in named if name]
    one = next(model.parameters())
    noise = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).to(one.device, one.dtype)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            total = score(noise.requires_grad_() * 1).sum()
            outputs = [one.output for one in seen]
            gradients = torch.autograd.grad(total, outputs, allow_unused=True) if outputs else ()
    finally:
        for handle in hooks:
            handle.remove()
    counting = [one for one, gradient in zip(seen, gradients, strict=True) if _counts(one.grid, gradient)]
    best = _choose(counting)
    return None if best is None else MapLayer(best.name, best.module, best.grid)


def _choose(counting: list[_Seen]) -> _Seen | None:
    """The last map or normalised tokens; the last tokens of any kind where tokens come after that."""
    tokens = [one for one in counting if one.grid.kind == "tokens"]
    normed = [one for one in tokens if "norm" in type(one.module).__name__.casefold()]
    maps = [one for one in counting if one.grid.kind != "tokens"]
    last = max([*maps[-1:], *normed[-1:]], key=counting.index, default=None)
    if tokens and (last is None or (last.grid.kind != "tokens" and counting.index(tokens[-1]) > counting.index(last))):
        return tokens[-1]
    return last


def _counts(grid: Grid, gradient: torch.Tensor | None) -> bool:
    """Whether the answer depends on more than one place of the grid."""
    if gradient is None:
        return False
    return bool((grid.to_map(gradient).abs().sum(1) > 0).flatten(1).sum(1).gt(1).all())


def _find_grid(output: torch.Tensor, picture: tuple[int, ...]) -> Grid | None:
    """How an output for two pictures of this height and width is laid out like them; None where it is not."""
    if len(output) != 2:
        return None
    if output.ndim == 4:
        for kind, first in (("channels first", 2), ("channels last", 1)):
            height, width = output.shape[first : first + 2]
            if _fits(height, width, picture):
                return Grid(kind, height, width)
    if output.ndim == 3:
        for prefix in range(min(_MOST_PREFIX_TOKENS, output.shape[1]) + 1):
            count = output.shape[1] - prefix
            height = isqrt(count * picture[0] // picture[1])
            if height and count % height == 0 and _divides(height, count // height, picture):
                return Grid("tokens", height, count // height, prefix)
    return None


def _fits(height: int, width: int, picture: tuple[int, ...]) -> bool:
    """Whether a map has the shape of the picture, give or take a row, and at most half its size."""
    return (
        2 <= height <= picture[0] // 2
        and 2 <= width <= picture[1] // 2
        and abs(height - width * picture[0] / picture[1]) < 1
    )


def _divides(height: int, width: int, picture: tuple[int, ...]) -> bool:
    """Whether square patches of the picture, none left over, make such a grid."""
    return (
        _fits(height, width, picture)
        and picture[0] % height == 0
        and picture[1] % width == 0
        and picture[0] // height == picture[1] // width
    )


__all__ = [
    "Grid",
    "MapLayer",
    "crop_and_resize",
    "find_edges",
    "find_map_layer",
    "gradient_map",
    "is_mean",
    "largest_region",
    "resize",
    "widen",
]
