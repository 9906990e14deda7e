"""Class activation maps: their computation, the layer of a network they come from, and the region they highlight."""

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

from .modeling_mura_base import ExplainedMap


def gradient_map(score: Callable[[torch.Tensor], torch.Tensor], feature_map: torch.Tensor) -> torch.Tensor:
    """Computes Grad-CAM without the final ReLU, so that evidence against the score is negative.

    Channels are weighted by the mean gradient of the score (Selvaraju et al., arXiv 1610.02391, equations 1 and 2).

    Args:
        score: Function from a feature map to the explained score, `[B]`. Only this function is differentiated.
        feature_map: `[B, D, h, w]`.

    Returns:
        `[B, h, w]`, without a gradient.
    """
    with torch.inference_mode(False), torch.enable_grad():
        values = feature_map.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(score(values).sum(), values)
    return (gradient.mean((2, 3), keepdim=True) * values.detach()).sum(1)


def is_mean(code: torch.Tensor | None, *feature_maps: torch.Tensor) -> bool:
    """Checks whether a pooled code `[B, D]` is the spatial mean of feature maps `[B, D, h, w]`.

    The values themselves are compared, within their precision, whatever pooling layer the network has.
    """
    if code is None or code.shape != feature_maps[0].shape[:2]:
        return False
    mean = torch.stack([values.float().mean((2, 3)) for values in feature_maps]).mean(0).detach()
    tolerance = max(1e-5, 2 * torch.finfo(code.dtype).eps)
    return bool(torch.allclose(code.float(), mean, rtol=tolerance, atol=tolerance * float(mean.abs().max())))


def spread_labels(labels: torch.Tensor, above: torch.Tensor) -> torch.Tensor:
    """Gives all pixels of a region the largest label in it; `above` `[B, 1, h, w]` is 1 inside regions, else 0.

    Pixels are connected to their eight neighbors. Each pixel repeatedly takes the largest label among its neighbors
    until nothing changes, for all maps at once.
    """
    while True:
        spread = labels
        for _ in range(8):  # comparing synchronizes with an accelerator, so it is not done after each step
            spread = functional.max_pool2d(spread, 3, 1, 1) * above
        if torch.equal(spread, labels):
            return labels
        labels = spread


def largest_region(
    maps: torch.Tensor,
    threshold: float,
    spread: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = spread_labels,
) -> torch.Tensor:
    """Finds the bounding box of the largest connected region above a threshold.

    Each map is scaled to [0, 1] first.

    Args:
        maps: `[B, h, w]`, finite.
        threshold: Fraction of the way from the minimum to the maximum of the map, in (0, 1).
        spread: Labels connected regions, as `spread_labels` does.

    Returns:
        float `[B, 4]`: left, top, right and bottom as fractions of the sides. The whole map if it is constant. Of
        regions of equal size, the one whose last pixel comes first in row order.
    """
    batch, height, width = maps.shape
    values = maps.detach().float()
    low, high = values.amin((1, 2), keepdim=True), values.amax((1, 2), keepdim=True)
    above = (values - low >= threshold * (high - low)).float()[:, None]
    numbers = torch.arange(1, height * width + 1, device=maps.device, dtype=torch.float32).view(1, 1, height, width)
    labels = spread(numbers * above, above)
    flat = labels.view(batch, -1).long()
    areas = torch.zeros(batch, height * width + 1, device=maps.device).scatter_add_(1, flat, above.view(batch, -1))
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


def expand_boxes(boxes: torch.Tensor, min_side: float, *, square: bool) -> torch.Tensor:
    """Expands boxes `[B, 4]`, given as fractions, around their centers and shifts them to stay inside the image.

    Afterwards each side is at least `min_side` long and, if `square`, as long as the other.
    """
    center, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).clamp_min(min_side)
    if square:
        sides = sides.amax(1, keepdim=True).expand(-1, 2)
    start = torch.minimum((center - sides / 2).clamp_min(0), 1 - sides)
    return torch.cat([start, start + sides], dim=1)


def boxes_to_pixels(boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Converts boxes `[B, 4]` from fractions to int64 pixels, expanded to whole ones; ends are exclusive."""
    edges = boxes * torch.tensor([width, height, width, height], device=boxes.device)
    return torch.cat([(edges[:, :2] + 1e-3).floor(), (edges[:, 2:] - 1e-3).ceil()], dim=1).long()


def crop_and_resize(images: torch.Tensor, boxes: torch.Tensor, side: int) -> torch.Tensor:
    """Crops a box `[B, 4]`, in fractions, from each image `[B, C, H, W]`, and resizes it as `resize` does."""
    edges = boxes_to_pixels(boxes, images.shape[-2], images.shape[-1]).tolist()
    return torch.cat(
        [
            resize(image[None, :, top:bottom, left:right], side)
            for image, (left, top, right, bottom) in zip(images, edges, strict=True)
        ]
    )


def resize(images: torch.Tensor, side: int) -> torch.Tensor:
    """Resizes images `[B, C, H, W]` to `[B, C, side, side]`, bilinear with antialiasing.

    Computed in float32, because torch cannot resize half precision like this on every device.
    """
    if images.shape[-2:] == (side, side):
        return images
    resized = functional.interpolate(images.float(), (side, side), mode="bilinear", antialias=True)
    return resized.to(images.dtype)


@dataclass(frozen=True)
class Grid:
    """Layout of a layer's output as a feature map."""

    kind: str  # "channels first" `[B, D, h, w]`, "channels last" `[B, h, w, D]` or "tokens" `[B, N, D]`
    height: int  # h
    width: int  # w
    prefix: int = 0  # number of class, distillation and register tokens before the image tokens

    def to_map(self, values: torch.Tensor) -> torch.Tensor:
        """Returns the output as `[B, D, h, w]`."""
        if self.kind == "tokens":
            values = values[:, self.prefix :].unflatten(1, (self.height, self.width))
        return values if self.kind == "channels first" else values.permute(0, 3, 1, 2)


class MapLayer:
    """Access to the output of a layer while the network runs. Threads may share it.

    The forward hook stays on the layer. It only acts in threads that are inside `cut` or `watch`.
    """

    def __init__(self, module: nn.Module, grid: Grid) -> None:
        self.grid = grid
        self._cut: dict[int, list[torch.Tensor]] = {}  # by thread; a threading.local cannot be copied
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
        return leaf.clone()  # later layers may work in place, which a leaf does not allow

    @contextmanager
    def cut(self) -> Iterator[list[torch.Tensor]]:
        """Makes the output of the layer a leaf of the graph in this thread, and appends it to the yielded list."""
        with self._collect(self._cut) as held, torch.inference_mode(False), torch.enable_grad():
            yield held

    @contextmanager
    def watch(self) -> Iterator[list[torch.Tensor]]:
        """Appends the output of the layer in this thread to the yielded list, without changing it."""
        with self._collect(self._watched) as held:
            yield held

    @contextmanager
    def _collect(self, lists: dict[int, list[torch.Tensor]]) -> Iterator[list[torch.Tensor]]:
        thread = threading.get_ident()
        lists[thread] = []
        try:
            yield lists[thread]
        finally:
            del lists[thread]

    def explain(self, logits: torch.Tensor, outputs: tuple[torch.Tensor, ...]) -> ExplainedMap:
        """Describes how logits `[n, 2]` depend on the outputs of the layer, for heatmaps.

        The returned score is linear with the gradient of the logits, which is all that Grad-CAM needs, so the network
        does not run again. `outputs` come from `cut`: of the images, and of their mirror images if those were used.
        """

        def join(outputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
            first, *mirrored = (self.grid.to_map(output.detach()) for output in outputs)
            return torch.cat([first, *(values.flip(-1) for values in mirrored)], dim=1)

        with torch.inference_mode(False), torch.enable_grad():
            difference = (logits[:, 1] - logits[:, 0]).sum()
            gradients = torch.autograd.grad(difference, outputs, retain_graph=True)
            maps, slope = join(outputs), join(gradients)
        return ExplainedMap(maps, lambda values: (values * slope).sum((1, 2, 3)))


_INSIDE_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_MAX_PREFIX_TOKENS = 8  # class, distillation and register tokens; no known network has more


@dataclass(frozen=True, eq=False)
class _Candidate:
    module: nn.Module
    output: torch.Tensor
    grid: Grid


def find_map_layer(
    model: nn.Module, score: Callable[[torch.Tensor], torch.Tensor], shape: tuple[int, int, int]
) -> MapLayer | None:
    """Finds the last layer whose output has a spatial layout and influences the score at more than one position.

    In a convolutional network, this is the input of the last pooling. In a network on tokens, it is the last norm
    whose image tokens influence the score: the final one if tokens are averaged (Swin), or the one before the last
    attention if only the class token is used (ViT).

    The network runs forward and backward once, on two images of noise.

    Args:
        model: Network in evaluation mode.
        score: Function from pixel values `[B, C, H, W]` to the explained score, `[B]`.
        shape: C, H and W.
    """
    candidates: list[_Candidate] = []
    this_thread = threading.get_ident()

    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        ours = threading.get_ident() == this_thread  # other threads may use the network at the same time
        if ours and isinstance(output, torch.Tensor) and output.requires_grad and output.is_floating_point():
            grid = _find_grid(output, shape[1:])
            if grid is not None:
                candidates.append(_Candidate(module, output, grid))

    named = [(name, module) for name, module in model.named_modules() if not _INSIDE_ATTENTION.search(name)]
    hooks = [module.register_forward_hook(hook) for name, module in named if name]
    weight = next(model.parameters())
    noise = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).to(weight.device, weight.dtype)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            total = score(noise.requires_grad_() * 1).sum()
            outputs = [candidate.output for candidate in candidates]
            gradients = torch.autograd.grad(total, outputs, allow_unused=True) if outputs else ()
    finally:
        for handle in hooks:
            handle.remove()
    relevant = []
    for candidate, gradient in zip(candidates, gradients, strict=True):
        if gradient is not None:
            positions = (candidate.grid.to_map(gradient).abs().sum(1) > 0).flatten(1).sum(1)
            if bool((positions > 1).all()):
                relevant.append(candidate)
    best = _select(relevant)
    return None if best is None else MapLayer(best.module, best.grid)


def _select(candidates: list[_Candidate]) -> _Candidate | None:
    """Returns the last map or normalized tokens; or the last tokens of any kind if they come after the last map."""
    tokens = [candidate for candidate in candidates if candidate.grid.kind == "tokens"]
    normed = [candidate for candidate in tokens if "norm" in type(candidate.module).__name__.casefold()]
    maps = [candidate for candidate in candidates if candidate.grid.kind != "tokens"]
    last = max([*maps[-1:], *normed[-1:]], key=candidates.index, default=None)
    if last is None or last.grid.kind != "tokens":
        return max([*maps[-1:], *tokens[-1:]], key=candidates.index, default=None)
    return last


def _find_grid(output: torch.Tensor, image: tuple[int, ...]) -> Grid | None:
    """Returns the spatial layout of an output for two images of this height and width, or None."""
    if len(output) != 2:
        return None
    if output.ndim == 4:
        for kind, first in (("channels first", 2), ("channels last", 1)):
            height, width = output.shape[first : first + 2]
            if _has_aspect(height, width, image):
                return Grid(kind, height, width)
    if output.ndim == 3:
        for prefix in range(min(_MAX_PREFIX_TOKENS, output.shape[1]) + 1):
            count = output.shape[1] - prefix
            height = isqrt(count * image[0] // image[1])
            width, patch = (count // height, image[0] // height) if height else (0, 0)
            whole = height * width == count and (height * patch, width * patch) == tuple(image)  # of square patches
            if whole and _has_aspect(height, width, image):
                return Grid("tokens", height, width, prefix)
    return None


def _has_aspect(height: int, width: int, image: tuple[int, ...]) -> bool:
    """Whether a map has the aspect ratio of the image, within one row, and at most half its size."""
    same_aspect = abs(height - width * image[0] / image[1]) < 1
    return same_aspect and 2 <= height <= image[0] // 2 and 2 <= width <= image[1] // 2
