"""What a heatmap costs beside the answer that it explains."""

import copy
import importlib.util
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from mura_hf.explain import explain
from mura_hf.models import MuraClassifier, MuraConfig, MuraForImageClassification

_WITHOUT = "not measured: pip install --no-deps grad-cam ttach (their other needs would replace the headless OpenCV)"


def measure_explain_cost(
    backbones: Sequence[str] = ("densenet169", "resnet50"),
    *,
    image_size: int = 320,
    rounds: int = 15,
    progress: bool = True,
) -> dict[str, dict[str, Any]]:
    """Times answers with heatmaps, each of one picture, alternated in one process; weights are random.

    Args:
        backbones: Of the models.
        image_size: Side of the picture in pixels.
        rounds: Of which the median is taken, after two to warm up.
        progress: Whether to show a progress bar.

    Returns:
        Backbone -> `ratio`, an answer with its heatmap over the bare forward pass; `grad_cam_ratio`, the same over
        what PyPI's `grad-cam` takes for the same map (None where it is not installed; then `grad_cam` says so);
        `milliseconds` of the bare forward pass; and `method`.
    """
    found = {}
    for backbone in backbones:
        torch.manual_seed(0)
        model = MuraForImageClassification(MuraConfig(backbone=backbone, image_size=image_size)).eval()
        model = model.to(memory_format=torch.channels_last)
        picture = torch.randn(1, 3, image_size, image_size).contiguous(memory_format=torch.channels_last)
        ways = _ways(model, picture)
        times: list[list[float]] = []
        for _ in tqdm(range(rounds + 2), desc=f"explain, {backbone}", disable=not progress):
            row = []
            for way in ways.values():
                start = time.perf_counter()
                way()
                row.append(time.perf_counter() - start)
            times.append(row)
        bare, ours, *theirs = zip(*times[2:], strict=True)
        found[backbone] = {
            "ratio": _ratio(ours, bare),
            "grad_cam_ratio": _ratio(ours, theirs[0]) if theirs else None,
            **({} if theirs else {"grad_cam": _WITHOUT}),
            "milliseconds": round(1000 * statistics.median(bare), 1),
            "method": explain(model, picture).method,
        }
    return found


def _ways(model: MuraClassifier, picture: torch.Tensor) -> dict[str, Callable[[], Any]]:
    def bare() -> None:
        with torch.no_grad():
            model(picture)

    def ours() -> None:
        with torch.no_grad():
            output = model(picture, explainable=True)
        explain(model, picture, output=output)

    ways: dict[str, Callable[[], Any]] = {"bare": bare, "ours": ours}
    if importlib.util.find_spec("pytorch_grad_cam") is not None:
        ways["theirs"] = _theirs(model, picture)
    return ways


def _theirs(model: Any, picture: torch.Tensor) -> Callable[[], Any]:
    """The same map by PyPI's grad-cam, at the last layer of the backbone that has a map; on a copy of the model, since
    its hooks stay there.
    """
    from pytorch_grad_cam import GradCAM

    copied = copy.deepcopy(model)

    class Difference(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = copied

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            logits = self.model(pixel_values).logits
            return logits[:, 1] - logits[:, 0]

    net = copied.mura.backbone
    layer = net.features.norm5 if hasattr(net, "features") else net.layer4
    cam = GradCAM(model=Difference(), target_layers=[layer])
    return lambda: cam(input_tensor=picture, targets=[lambda score: score.sum()])


def _ratio(ones: Sequence[float], others: Sequence[float]) -> float:
    return round(statistics.median(one / other for one, other in zip(ones, others, strict=True)), 3)
