"""What an exported graph computes: preprocessing, the model, its heatmap and out-of-distribution scores, for one view.

All sizes that depend on the view are values in tensors, never shapes, so that one graph fits views of any size.
"""

import copy
from typing import Any

import torch
from PIL import Image
from torch import nn
from torch._higher_order_ops.while_loop import while_loop
from torch.nn import functional

from ..errors import CheckpointError
from ..explain.heatmaps import enlarge, fast_grad_cam, normalize
from ..models import (
    ExplainedMap,
    MuraClassifier,
    MuraEnsembleForImageClassification,
    MuraForImageClassification,
    MuraFuseNetForImageClassification,
    MuraImageProcessor,
)
from ..models.class_activation_mura import boxes_to_pixels, spread_labels
from ..models.geometry_mura import find_center
from ..retrieval import OODDetector, feature_means, view_codes

_BITS = 22  # Pillow computes resized gray levels with weights of this many bits after the point
_LOW_BITS = 8  # weights are split, so that products of both parts and gray levels add up exactly in float32


class Preprocessing(nn.Module):
    """`MuraImageProcessor` as tensor operations; gray levels are bit-equal, because Pillow's arithmetic is repeated.

    Raises:
        CheckpointError: If the processor does something that the graph cannot do.
    """

    table: torch.Tensor

    def __init__(self, processor: MuraImageProcessor) -> None:
        super().__init__()
        unsupported = {
            "enhance": bool(processor.enhance),
            f"resample {processor.resample}": processor.resample != Image.Resampling.BILINEAR,
        }
        found = [name for name, used in unsupported.items() if used]
        if found:
            raise CheckpointError(
                f"the image processor uses {', '.join(found)}, which an ONNX graph cannot do; export a "
                "checkpoint that was trained without it"
            )
        self.canvas = (processor.size.height, processor.size.width)
        self.size = processor.output_size
        self.crop = find_center(self.canvas, self.size)
        self.letterbox = processor.resize_mode == "letterbox"
        # What the processor does to gray levels, as a table of 256 entries for each channel.
        levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 256).numpy()[0]
        table = processor.to_pixel_values(levels[None])[0, :, 0]
        self.register_buffer("table", torch.from_numpy(table))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns pixel values `[1, C, h, w]` of gray levels uint8 `[H, W]`, and the `placements` of both axes."""
        lengths = [torch.arange(side, device=image.device).amax(0) + 1 for side in image.shape]
        inner = self._inner_sizes(lengths)
        down, across = (
            torch.stack([(side - size) // 2, size, length])
            for side, size, length in zip(self.canvas, inner, lengths, strict=True)
        )
        columns = _weights(across, self.canvas[1], image.shape[1])
        rows = _weights(down, self.canvas[0], image.shape[0])
        resized = _resize_levels(rows, _resize_levels(columns, image.float().T).T)
        top, left = self.crop
        resized = resized[top : top + self.size[0], left : left + self.size[1]]
        return self.table[:, resized.long()][None], down, across

    def _inner_sizes(self, lengths: list[torch.Tensor]) -> list[torch.Tensor]:
        """Height and width of the view on the canvas, rounded as in `find_placement`."""
        if not self.letterbox:
            return [torch.full_like(length, side) for length, side in zip(lengths, self.canvas, strict=True)]
        sides = [length.double() for length in lengths]
        # A number divided by a tensor would be multiplied with its reciprocal, which rounds differently.
        scales = [torch.full_like(side, size) / side for side, size in zip(sides, self.canvas, strict=True)]
        scale = torch.minimum(*scales)
        return [(side * scale).round().long().clamp_min(1) for side in sides]

    def restore(self, heatmap: torch.Tensor, image: torch.Tensor, *placements: torch.Tensor) -> torch.Tensor:
        """Maps a heatmap `[h, w]` back to the view, as `MuraImageProcessor.restore_map` does: `[H, W]`."""
        for axis, placement in enumerate(placements):
            start, size, length = placement
            positions = torch.arange(image.shape[axis], device=image.device)
            canvas = torch.arange(self.canvas[axis], device=image.device)
            weights = _triangles(positions[:, None], length, canvas - start, size).float()
            weights = weights / weights.sum(1, keepdim=True)
            first, last = self.crop[axis], self.crop[axis] + self.size[axis]
            inside = weights[:, first:last].clone()
            inside[:, 0] += weights[:, :first].sum(1)
            inside[:, -1] += weights[:, last:].sum(1)
            centers = start + (positions + 0.5) * size / length
            inside = torch.where(((centers >= first) & (centers < last))[:, None], inside, 0.0)
            heatmap = (inside @ heatmap).T
        return heatmap


def _triangles(
    outputs: torch.Tensor, out_length: torch.Tensor, inputs: torch.Tensor, in_length: torch.Tensor
) -> torch.Tensor:
    """Weights of input positions for output positions, int64, before they are divided by their sum.

    Bilinear with antialiasing: a triangle around the output position, as wide as one output pixel or one input pixel,
    whichever is larger. All values are multiplied by twice the output length, which makes them whole.
    """
    distances = (2 * out_length * inputs + out_length - (2 * outputs + 1) * in_length).abs()
    return (2 * torch.maximum(in_length, out_length) - distances).clamp_min(0)


def _weights(placement: torch.Tensor, side: int, length: int) -> torch.Tensor:
    """Pillow's fixed-point weights of the `length` input pixels for each of `side` pixels of the canvas."""
    start, size, in_length = placement
    rows = (torch.arange(side, device=placement.device) - start)[:, None]
    weights = _triangles(rows, size, torch.arange(length, device=placement.device), in_length)
    weights = torch.where((rows >= 0) & (rows < size), weights, 0)
    total = weights.sum(1, keepdim=True).clamp_min(1)
    # ONNX divides whole numbers exactly here; div with rounding_mode="trunc" would become a division in float32.
    return torch.floor_divide(weights * 2 ** (_BITS + 1) + total, 2 * total)


def _resize_levels(weights: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """Resizes the first axis of gray levels `[L, n]` with weights `[side, L]`; rounded gray levels `[side, n]`."""
    high = torch.floor_divide(weights, 2**_LOW_BITS)
    low = weights - high * 2**_LOW_BITS
    total = (high.float() @ levels).int() * 2**_LOW_BITS + (low.float() @ levels).int()
    rounded = torch.floor_divide(total + 2 ** (_BITS - 1), 2**_BITS)
    return rounded.clamp(0, 255).float()


class ViewGraph(nn.Module):
    """Preprocessing, model, heatmap and out-of-distribution scores of one view.

    Args:
        model: A classifier in evaluation mode.
        processor: Its image processor.
        detector: Its out-of-distribution detector, if there is one.
        specialized: The specialized model that this model is a member of, if it is one.

    Attributes:
        heatmap: Whether the heatmap is one of the outputs.
        study_config: Config with the calibration of studies, which comes last.

    Raises:
        CheckpointError: If the graph cannot do what the image processor or the model does.
    """

    scales: torch.Tensor
    whitening: torch.Tensor
    means: torch.Tensor

    def __init__(
        self,
        model: MuraClassifier,
        processor: MuraImageProcessor,
        detector: OODDetector | None = None,
        specialized: MuraClassifier | None = None,
    ) -> None:
        super().__init__()
        for member in list_models(model):
            if member.attention is not None and not isinstance(member.classifier, nn.Linear):
                raise CheckpointError(
                    "gated attention over views with a nonlinear head needs more than the logits of the views, which "
                    "is all that the ONNX graph has; use the checkpoint with PyTorch"
                )
        self.preprocessing = Preprocessing(processor)
        self.model = copy.deepcopy(model).eval()
        for module in self.model.modules():
            if isinstance(module, MuraFuseNetForImageClassification):
                module.__class__ = _FuseNetGraph
        self.study_config: Any = (specialized or self.model).config
        self.heatmap = True
        self.detector = detector
        self.inside = [] if detector is None else detector.inside.tolist()
        if detector is not None:
            for name in ("scales", "whitening", "means"):
                self.register_buffer(name, torch.from_numpy(getattr(detector, name)))

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns the outputs by name for gray levels uint8 `[H, W]`; see `export_onnx`."""
        pixel_values, *placements = self.preprocessing(image)
        output: Any = self.model.classify_views(pixel_values)
        members = list(getattr(output, "members", {"": output}).values())
        member_logits = torch.cat([member.logits for member in members])
        logits = output.logits[0]
        found = {
            "probability": self._probability(member_logits),
            "logits": logits if self.study_config is self.model.config else logits / self.study_config.temperature,
            "member_logits": member_logits,
        }
        if self.heatmap:
            size = self.preprocessing.size
            maps = [part.weight * _draw(part, size) for part in closed_form_parts(self.model, output)]
            heatmap = normalize(torch.stack(maps).sum(0))[0]
            restored = self.preprocessing.restore(heatmap, image, *placements).clamp(0, 1)
            found["heatmap"] = normalize(restored[None])[0]
        for name in ("body_part_logits", "finding_logits", "region_logits"):
            if getattr(output, name) is not None:
                found[name] = getattr(output, name)[0]
        attentions = [getattr(member, "attention", None) for member in list_models(self.model)]
        if any(attentions):
            found["attention_scores"] = torch.stack(
                [
                    torch.zeros(()) if attention is None else attention(member.pooler_output)[0]
                    for attention, member in zip(attentions, members, strict=True)
                ]
            )
        found["code"] = view_codes(self.model, output)[0]
        if self.inside:
            found["ood_scores"] = self._ood_scores(feature_means(output))[0]
        return found

    @torch.no_grad()
    def find_obstacle(self, image: torch.Tensor) -> str | None:
        """Returns why the graph can have no heatmap, or None."""
        try:
            closed_form_parts(self.model, self.model.classify_views(self.preprocessing(image)[0]))
        except CheckpointError as error:
            return str(error)
        return None

    def _probability(self, member_logits: torch.Tensor) -> torch.Tensor:
        """P(abnormal) of a study that has only this view."""
        members = list_members(self.model, self.study_config)
        weights, slopes, intercepts = (
            member_logits.new_tensor([member[name] for member in members]) for name in ("weight", "slope", "intercept")
        )
        logits = slopes * (member_logits[:, 1] - member_logits[:, 0]) + intercepts
        log_p, log_q = (
            torch.logsumexp(functional.logsigmoid(sign * logits) + weights.log(), dim=0) for sign in (1, -1)
        )
        return torch.sigmoid(self.study_config.study_slope * (log_p - log_q) + self.study_config.study_intercept)

    def _ood_scores(self, codes: torch.Tensor) -> torch.Tensor:
        """As `OODDetector.score`."""
        projected = torch.arcsinh(codes / self.scales) @ self.whitening
        squares = (projected[:, None] - self.means).square().sum(2)
        near = squares[:, self.inside].amin(1)
        if all(self.inside):
            return near[:, None]
        return torch.stack([near, near - squares[:, [not one for one in self.inside]].amin(1)], dim=1)


class _FuseNetGraph(MuraFuseNetForImageClassification):
    """FuseNet without Python code that depends on values."""

    def _global_map(self, feature_map: torch.Tensor) -> torch.Tensor:
        direction = self.global_branch.code_direction()
        if direction is None:
            raise CheckpointError(
                "FuseNet with a nonlinear head finds its crop with gradients, which the ONNX graph cannot compute; "
                "use the checkpoint with PyTorch"
            )
        return torch.einsum("d,ndhw->nhw", direction, feature_map)

    @staticmethod
    def _spread_labels(labels: torch.Tensor, above: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_exporting():
            return spread_labels(labels, above)

        def spread(
            labels: torch.Tensor, above: torch.Tensor, changed: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            wider = functional.max_pool2d(labels, 3, 1, 1) * above
            return wider, above.clone(), (wider != labels).any()

        start = labels.clone(), above.clone(), (labels >= 0).any()
        return while_loop(lambda labels, above, changed: changed.clone(), spread, start)[0]

    @staticmethod
    def _crop(images: torch.Tensor, boxes: torch.Tensor, side: int) -> torch.Tensor:
        left, top, right, bottom = boxes_to_pixels(boxes, *images.shape[2:])[0]
        resized = images
        for start, end in ((top, bottom), (left, right)):
            pixels = torch.arange(resized.shape[2])
            outputs, length = torch.arange(side)[:, None], torch.full_like(start, side)
            weights = _triangles(outputs, length, pixels - start, end - start)
            weights = torch.where((pixels >= start) & (pixels < end), weights, 0).float()
            resized = (weights / weights.sum(1, keepdim=True) @ resized).transpose(2, 3)
        return resized


def _draw(part: ExplainedMap, size: tuple[int, int]) -> torch.Tensor:
    """Class activation map of a part at its place in an image of this size, `[1, *size]`, divided by its maximum."""
    drawn = fast_grad_cam(part)
    if part.boxes is None:
        return normalize(enlarge(drawn, size))
    left, top, right, bottom = boxes_to_pixels(part.boxes, *size)[0]
    rows, columns = (
        _cubic_weights(start, end, side, length)
        for start, end, side, length in zip((top, left), (bottom, right), size, drawn.shape[1:], strict=True)
    )
    return normalize((rows @ drawn @ columns.T).clamp_min(0))


def _cubic_weights(start: torch.Tensor, end: torch.Tensor, side: int, length: int) -> torch.Tensor:
    """Weights `[side, length]` that enlarge a map to the pixels from `start` to `end`, bicubic as in torch."""
    positions = torch.arange(side)
    centers = (positions - start + 0.5) * length / (end - start) - 0.5
    first = centers.floor()
    beyond = centers - first
    total = torch.zeros(side, length)
    for tap in (-1, 0, 1, 2):
        x = (beyond - tap).abs()[:, None]
        near, far = (1.25 * x - 2.25) * x * x + 1, ((-0.75 * x + 3.75) * x - 6) * x + 3
        index = (first + tap).clamp(0, length - 1)[:, None]
        total = total + torch.where(index == torch.arange(length), near if tap in (0, 1) else far, 0.0)
    return torch.where(((positions >= start) & (positions < end))[:, None], total, 0.0)


def closed_form_parts(model: MuraClassifier, output: Any) -> list[ExplainedMap]:
    """As `model.explain`, but with channel weights for every pooling and without a look at values.

    The heatmap equals Grad-CAM if the gradients of the pooled code sum to the same for each channel, as they do for
    the mean, the maximum and attention. The export compares heatmaps with those of PyTorch to make sure.

    Raises:
        CheckpointError: If the model has no feature map or its head is not linear.
    """
    if isinstance(model, MuraEnsembleForImageClassification):
        return [
            part._replace(weight=weight * part.weight)
            for name, weight in model.config.weights.items()
            for part in closed_form_parts(model.members[name], output.members[name])
        ]
    if isinstance(model, MuraFuseNetForImageClassification):
        weight = model.classifier.weight.detach()
        directions = ((weight[1] - weight[0]) / model.config.temperature).chunk(2)
        found = [(output.feature_map, None), (output.local_feature_map, output.boxes)]
        return [
            ExplainedMap(maps, _no_score, boxes=boxes, weight=0.5, channel_weights=direction)
            for (maps, boxes), direction in zip(found, directions, strict=True)
        ]
    direction = model.code_direction() if isinstance(model, MuraForImageClassification) else None
    maps = getattr(output, "feature_map", None)
    if direction is None or maps is None or maps.ndim != 4 or maps.shape[1] != len(direction):
        raise CheckpointError(
            "the class activation map has a closed form only for a feature map that is pooled to one number per "
            "channel, followed by one linear layer"
        )
    if output.mirrored_feature_map is not None:
        maps, direction = torch.cat([maps, output.mirrored_feature_map], dim=1), torch.cat([direction, direction]) / 2
    return [ExplainedMap(maps, _no_score, channel_weights=direction)]


def _no_score(feature_map: torch.Tensor) -> torch.Tensor:
    raise NotImplementedError("the closed form needs no gradient of the score")


def list_models(model: MuraClassifier) -> list[MuraClassifier]:
    """Returns the members of an ensemble, or the one model if it is none."""
    return list(model.members.values()) if isinstance(model, MuraEnsembleForImageClassification) else [model]


def list_members(model: MuraClassifier, last: Any) -> list[dict[str, Any]]:
    """Returns weight, pooling of views and study calibration of each of `list_models`.

    `last` is the configuration whose calibration comes last. It is that of the model itself unless the model is a
    member of a specialized one, and then it is not repeated here.
    """
    weights = model.config.weights.values() if isinstance(model, MuraEnsembleForImageClassification) else [1.0]
    found = []
    for weight, member in zip(weights, list_models(model), strict=True):
        config: Any = member.config
        slope, intercept = (1.0, 0.0) if config is last else (config.study_slope, config.study_intercept)
        found.append(
            {
                "weight": weight,
                "pooling": config.study_pooling,
                "slope": float(slope),
                "intercept": float(intercept),
            }
        )
    return found
