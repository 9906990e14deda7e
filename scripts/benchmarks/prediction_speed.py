"""Measures how long a prediction takes, and what its parts cost. Ratios are medians of calls in turn in one process.

Topics (together 3 minutes):
  import   seconds that `import mura_hf` adds to torch and transformers' modelling, best of five
  predict  milliseconds from the three files of a study to its prediction with heatmaps, for both bundled checkpoints,
           and the same over the prediction without heatmaps
  explain  forward pass with heatmap over the bare forward pass and over PyPI's grad-cam, one image of 320 px
           (needs `pip install --no-deps grad-cam ttach`, else that figure is left out)
  fusenet  prediction of FuseNet (ResNet-50, 224 px), and of its full-resolution variant (512 px), over its global
           branch
"""

import copy
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from harness import alternate, median_ratio, milliseconds, run_benchmark
from PIL import Image
from torch import nn
from tqdm.auto import tqdm

from mura_hf import MuraFuseNetForImageClassification, StudyPredictor
from mura_hf.common import BUNDLED
from mura_hf.explain import explain
from mura_hf.models import MuraClassifier, MuraConfig, MuraForImageClassification, MuraFuseNetConfig
from mura_hf.phantoms import render_phantom

_IMPORT = """
import time, torch
from transformers import PreTrainedModel
start = time.perf_counter()
import mura_hf
print(time.perf_counter() - start)
"""
# The other requirements of grad-cam would replace the headless OpenCV.
_NO_GRAD_CAM = "not measured: pip install --no-deps grad-cam ttach"


def measure_import(repeats: int = 5) -> dict[str, float]:
    """Returns `seconds`, the best of the repeats, each in a new process."""
    seconds = []
    for _ in tqdm(range(repeats), desc="import"):
        done = subprocess.run([sys.executable, "-c", _IMPORT], capture_output=True, text=True, check=True)
        seconds.append(float(done.stdout))
    return {"seconds": round(min(seconds), 3)}


@contextmanager
def _write_study(views: int = 3) -> Iterator[list[str]]:
    """Files of a phantom wrist."""
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder, f"view{view}.png")) for view in range(views)]
        for view, file in enumerate(files):
            phantom = render_phantom(810_000, body_part="wrist", view=view, finding="displaced_fracture")
            Image.fromarray(phantom.pixels).save(file)
        yield files


def measure_prediction(names: Sequence[str] = tuple(BUNDLED), rounds: int = 30) -> dict[str, dict[str, Any]]:
    """Times `StudyPredictor` in PyTorch on the files of a phantom wrist with three views.

    Returns:
        Checkpoint -> `milliseconds` with heatmaps, `heatmap_ratio` over the same without, and `n` rounds.
    """
    found = {}
    with _write_study() as files:
        for name in names:
            predictor = StudyPredictor.from_pretrained(name, device="cpu", runtime="torch")
            functions = {
                "without": lambda predictor=predictor: predictor(files, heatmaps=False),
                "with": lambda predictor=predictor: predictor(files),
            }
            seconds = alternate(functions, rounds, title=name, warm_up=1)
            found[name] = {
                "milliseconds": milliseconds(seconds["with"]),
                "heatmap_ratio": median_ratio(seconds["with"], seconds["without"]),
                "n": rounds,
            }
    return found


def measure_heatmaps(
    backbones: Sequence[str] = ("densenet169", "resnet50"), image_size: int = 320, rounds: int = 15
) -> dict[str, dict[str, Any]]:
    """Times forward passes with heatmaps, of one image each, with random weights.

    Returns:
        Backbone -> `ratio` over the bare forward pass; `grad_cam_ratio` over PyPI's grad-cam for the same map (None
        if it is not installed; `grad_cam` says so then); `milliseconds` of the bare forward pass; `method`.
    """
    found = {}
    for backbone in backbones:
        torch.manual_seed(0)
        model = MuraForImageClassification(MuraConfig(backbone=backbone, image_size=image_size)).eval()
        model = model.to(memory_format=torch.channels_last)
        image = torch.randn(1, 3, image_size, image_size).contiguous(memory_format=torch.channels_last)
        functions = _heatmap_functions(model, image)
        seconds = alternate(functions, rounds, title=f"explain, {backbone}")
        has_grad_cam = "grad-cam" in functions
        found[backbone] = {
            "ratio": median_ratio(seconds["heatmap"], seconds["bare"], 3),
            "grad_cam_ratio": median_ratio(seconds["heatmap"], seconds["grad-cam"], 3) if has_grad_cam else None,
            **({} if has_grad_cam else {"grad_cam": _NO_GRAD_CAM}),
            "milliseconds": milliseconds(seconds["bare"]),
            "method": explain(model, image).method,
        }
    return found


def _heatmap_functions(model: MuraClassifier, image: torch.Tensor) -> dict[str, Callable[[], Any]]:
    def bare() -> None:
        with torch.no_grad():
            model(image)

    def heatmap() -> None:
        with torch.no_grad():
            output = model(image, explainable=True)
        explain(model, image, output=output)

    functions: dict[str, Callable[[], Any]] = {"bare": bare, "heatmap": heatmap}
    if importlib.util.find_spec("pytorch_grad_cam") is not None:
        functions["grad-cam"] = _grad_cam(model, image)
    return functions


def _grad_cam(model: Any, image: torch.Tensor) -> Callable[[], Any]:
    """PyPI's grad-cam at the last layer with a feature map; on a copy of the model, because its hooks remain."""
    from pytorch_grad_cam import GradCAM

    copied = copy.deepcopy(model)

    class Difference(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = copied

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            logits = self.model(pixel_values).logits
            return logits[:, 1] - logits[:, 0]

    backbone = copied.mura.backbone
    layer = backbone.features.norm5 if hasattr(backbone, "features") else backbone.layer4
    cam = GradCAM(model=Difference(), target_layers=[layer])
    return lambda: cam(input_tensor=image, targets=[lambda score: score.sum()])


def measure_fusenet(
    backbone: str = "resnet50", image_size: int = 224, full_size: int = 512, views: int = 3, rounds: int = 15
) -> dict[str, float]:
    """Times predictions of a study by FuseNet with random weights.

    Args:
        backbone: Of both branches.
        image_size: Side in pixels that each branch sees.
        full_size: Side of the images that the full-resolution variant takes its crops from.
        views: Of the study.
        rounds: Of which medians are taken.

    Returns:
        `ratio` of FuseNet over its global branch on the same images; `full_resolution_ratio` of the variant that crops
        from images of `full_size` over the global branch on images of `image_size`; `milliseconds` of that branch.
    """
    torch.manual_seed(0)
    config = MuraFuseNetConfig(backbone=backbone, image_size=image_size)
    model = MuraFuseNetForImageClassification(config).eval().to(memory_format=torch.channels_last)
    small, large = (
        torch.randn(views, 3, side, side).contiguous(memory_format=torch.channels_last)
        for side in (image_size, full_size)
    )

    def predict(images: torch.Tensor, full_resolution: bool) -> None:
        config.full_resolution = full_resolution
        model(images)

    functions = {
        "global": lambda: model.global_branch(small),
        "fused": lambda: predict(small, False),
        "full": lambda: predict(large, True),
    }
    with torch.no_grad():
        seconds = alternate(functions, rounds, title="fusenet")
    return {
        "ratio": median_ratio(seconds["fused"], seconds["global"]),
        "full_resolution_ratio": median_ratio(seconds["full"], seconds["global"]),
        "milliseconds": milliseconds(seconds["global"]),
    }


TOPICS = {
    "import": (measure_import, {"repeats": 1}),
    "predict": (measure_prediction, {"names": ["mura-phantom"], "rounds": 2}),
    "explain": (measure_heatmaps, {"backbones": ["resnet50"], "image_size": 160, "rounds": 5}),
    "fusenet": (
        measure_fusenet,
        {"backbone": "resnet18", "image_size": 128, "full_size": 293, "views": 2, "rounds": 5},
    ),
}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    return run_benchmark(__doc__, TOPICS, argv)


if __name__ == "__main__":
    main()
