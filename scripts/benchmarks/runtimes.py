"""Compares runtimes on a CPU with two threads. Ratios are medians of calls in turn in one process.

Topics (together some minutes, of which the compiler of PyTorch takes most):
  forward  milliseconds per image of a forward pass, and the same over ONNX Runtime in float32: PyTorch as it is, with
           channels last, and compiled; ONNX Runtime in float32 and int8; OpenVINO; random weights
  whole    one view from its PNG file to JSON with heatmap, in PyTorch, ONNX Runtime and OpenVINO, over a bare forward
           pass of the same network in ONNX Runtime: a DenseNet-169 at 320 px and both bundled checkpoints, or those
           that --checkpoint names; all are called in turn
  export   largest differences between exported graphs and PyTorch over pictures of many sizes: each family with a
           small random network, and both bundled checkpoints, of which mura-film has a head for regions and a detector
  memory   resident memory of `python app.py` after its first answer, and seconds until it answers, with PyTorch only
           and with the fastest runtime; Linux only

What is not installed is left out, and the figures say why.
"""

import copy
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from demo_app import running_app, save_large_checkpoint, save_studies
from harness import alternate, median_ratio, milliseconds, run_benchmark
from PIL import Image
from torch import nn
from tqdm.auto import tqdm

from mura_hf import MuraImageProcessor, StudyPredictor, read_radiograph
from mura_hf.common import BUNDLED, DEFAULT
from mura_hf.errors import first_line
from mura_hf.hub import export_onnx
from mura_hf.hub.onnx_small import _quantize
from mura_hf.inference.runtimes import RUNTIME_VARIABLE, check_runtime, to_onnx
from mura_hf.models import CLASSIFIERS, MuraClassifier, MuraConfig, MuraForImageClassification

VARIANTS = ("eager", "channels_last", "compiled", "onnxruntime", "openvino", "int8")
LARGE = "densenet169_320"
"""Stands for a DenseNet-169 at 320 px with random weights."""

PICTURE_SIZES = ((40, 40), (40, 470), (1100, 97), (333, 501), (768, 640), (2021, 1013), (2500, 3000), (3000, 2500))
"""Height and width of pictures on which exported graphs are compared with PyTorch."""

_NEEDS = {"onnxruntime": "onnxruntime", "openvino": "openvino", "int8": "onnxruntime"}
_BARE = "bare_onnxruntime"
_CALIBRATION = 4  # random images; they decide about accuracy, not about speed

Forward = Callable[[torch.Tensor], Any]


class Logits(nn.Module):
    """A classifier of single views, from pixel values `[B, C, H, W]` to logits `[B, 2]`."""

    def __init__(self, model: MuraClassifier) -> None:
        super().__init__()
        self.model = model.eval()

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Returns the logits."""
        return self.model.classify_views(pixel_values).logits


@contextmanager
def _use_threads(threads: int) -> Iterator[dict[str, Any]]:
    """Sets the threads of PyTorch, which the predictor gives to every runtime; yields what figures depend on."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield {"threads": threads, "instructions": torch.backends.cpu.get_cpu_capability()}
    finally:
        torch.set_num_threads(before)


def _summarize(seconds: Mapping[str, Sequence[float]], baselines: Sequence[str], images: int = 1) -> dict[str, Any]:
    """Milliseconds per image and ratios over those baselines that were measured."""
    return {
        name: {
            "milliseconds": round(milliseconds(found) / images, 1),
            **{f"over_{one}": median_ratio(found, seconds[one]) for one in baselines if one in seconds},
        }
        for name, found in seconds.items()
    }


def measure_forward(
    networks: Sequence[tuple[str, Sequence[int]]] = (("densenet169", (1, 8)), ("resnet50", (1,))),
    image_size: int = 320,
    variants: Sequence[str] = VARIANTS,
    threads: int = 2,
    rounds: int = 12,
) -> dict[str, Any]:
    """Times forward passes from pixel values to logits, with random weights.

    Args:
        networks: Backbones with their batch sizes.
        image_size: Side in pixels.
        variants: Of `VARIANTS`.
        threads: Of each runtime.
        rounds: Of which medians are taken.

    Returns:
        Network and batch size -> variant -> `milliseconds` per image and `over_onnxruntime`, its ratio over ONNX
        Runtime in float32; and `left_out`, variant -> why it was not measured.
    """
    left_out: dict[str, str] = {}
    with _use_threads(threads) as found:
        for backbone, batches in networks:
            torch.manual_seed(0)
            model = Logits(MuraForImageClassification(MuraConfig(backbone=backbone, image_size=image_size)))
            shape = (model.model.config.num_channels, image_size, image_size)
            forwards, reasons = open_variants(model, torch.randn(batches[0], *shape), variants, threads)
            left_out |= reasons
            for batch in batches:
                images = torch.randn(batch, *shape)
                functions = {name: partial(forward, images) for name, forward in forwards.items()}
                title = f"{backbone}, batch of {batch}"
                with torch.no_grad():
                    seconds = alternate(functions, rounds, title=title)
                found[title] = _summarize(seconds, ["onnxruntime"], batch)
    return {**found, "rounds": rounds, "left_out": left_out}


def open_variants(
    model: nn.Module, images: torch.Tensor, variants: Sequence[str], threads: int
) -> tuple[dict[str, Forward], dict[str, str]]:
    """Returns functions that give the logits of a batch of any size, and why other variants cannot run here."""
    graph = cache(lambda: _export(model, images))
    last = cache(lambda: copy.deepcopy(model).to(memory_format=torch.channels_last))
    openers: dict[str, Callable[[], Forward]] = {
        "eager": lambda: model,
        "channels_last": lambda: partial(_run_channels_last, last()),
        "compiled": lambda: partial(_run_channels_last, _compile(last())),
        "onnxruntime": lambda: _open_onnxruntime(graph(), threads),
        "openvino": lambda: _open_openvino(graph(), threads),
        "int8": lambda: _open_onnxruntime(_to_int8(graph(), images), threads),
    }
    forwards, left_out = {}, {}
    for name in variants:
        try:
            check_runtime(_NEEDS.get(name, "torch"))
            forward = openers[name]()
            with torch.no_grad():
                forward(images)
            forwards[name] = forward
        except Exception as error:  # compilers raise errors of many kinds, for example without a compiler of C++
            left_out[name] = first_line(error)
    return forwards, left_out


def _compile(network: nn.Module) -> Forward:
    """Compiles at the first call with each batch size, which takes more than a minute for a DenseNet-169."""
    return torch.compile(network, dynamic=False, options={"freezing": True})


def _run_channels_last(network: Forward, images: torch.Tensor) -> torch.Tensor:
    return network(images.contiguous(memory_format=torch.channels_last))


def _export(model: nn.Module, images: torch.Tensor) -> bytes:
    graph = to_onnx(model, torch.zeros(2, *images.shape[1:]), [0], ["logits"])
    return graph.SerializeToString()


def _to_int8(graph: bytes, images: torch.Tensor) -> bytes:
    """Convolutions in int8, as in the `model_quantized.onnx` of a checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        file.write_bytes(graph)
        content, _ = next(_quantize(file, torch.randn(_CALIBRATION, 1, *images.shape[1:]).numpy()))
        return content


def _open_onnxruntime(graph: bytes, threads: int) -> Forward:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Its threads wait actively during a call, as by default, but not when others have their turn.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"image": images.numpy()})[0]


def _open_openvino(graph: bytes, threads: int) -> Forward:
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
    compiled = core.compile_model(core.read_model(graph), "CPU", settings)
    return lambda images: compiled([images.numpy()], share_inputs=True)[0]


def _find_runtimes() -> tuple[list[str], dict[str, str]]:
    """Runtimes of the predictor that are installed, and why others are left out."""
    installed, left_out = ["torch"], {}
    for name in ("onnxruntime", "openvino"):
        try:
            installed.append(check_runtime(name))
        except ImportError as error:
            left_out[name] = first_line(error)
    return installed, left_out


def measure_whole(
    checkpoints: Sequence[str] = (LARGE, *BUNDLED), threads: int = 2, rounds: int = 12
) -> dict[str, Any]:
    """Times `StudyPredictor` from the PNG file of one view to JSON with its heatmap, and a bare forward pass.

    Args:
        checkpoints: `LARGE`, names of bundled checkpoints, or folders.
        threads: Of each runtime.
        rounds: Of which medians are taken.

    Returns:
        Checkpoint -> runtime, or `bare_onnxruntime` for the bare pass in float32 -> `milliseconds`, its ratios
        `over_bare_onnxruntime` and `over_torch`, and the `difference` of the probability from PyTorch's; and
        `left_out`, runtime -> why it was not measured.
    """
    runtimes, left_out = _find_runtimes()
    functions: dict[tuple[str, str], Callable[[], Any]] = {}
    differences: dict[str, dict[str, float]] = {}
    with _use_threads(threads) as found, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _, [file] = save_studies(folder / "studies", 2, n_views=1)
        for checkpoint in checkpoints:
            place = save_large_checkpoint(folder / LARGE) if checkpoint == LARGE else checkpoint
            predictors = {
                runtime: StudyPredictor.from_pretrained(place, device="cpu", runtime=runtime) for runtime in runtimes
            }
            in_torch = predictors["torch"]
            expected = in_torch([file]).probability
            for runtime, predictor in predictors.items():
                functions[checkpoint, runtime] = lambda predictor=predictor: predictor([file]).to_json()
                differences.setdefault(checkpoint, {})[runtime] = abs(predictor([file]).probability - expected)
            if "onnxruntime" in runtimes:
                pixel_values = in_torch.pixel_values([read_radiograph(file)])
                graph = _export(Logits(in_torch.model), pixel_values)
                functions[checkpoint, _BARE] = partial(_open_onnxruntime(graph, threads), pixel_values)
        timed = alternate(functions, rounds, title="whole")
        for checkpoint in checkpoints:
            seconds = {runtime: values for (one, runtime), values in timed.items() if one == checkpoint}
            rows = found[checkpoint] = _summarize(seconds, [_BARE, "torch"])
            for runtime, difference in differences[checkpoint].items():
                rows[runtime]["difference"] = difference
    return {**found, "rounds": rounds, "left_out": left_out}


def measure_export(
    families: Sequence[str] = tuple(CLASSIFIERS),
    image_sizes: Sequence[int] = (64, 320),
    checkpoints: Sequence[str] = tuple(BUNDLED),
    picture_sizes: Sequence[tuple[int, int]] = PICTURE_SIZES,
) -> dict[str, Any]:
    """Exports models to ONNX and compares their predictions with those of PyTorch.

    Args:
        families: Of which a small random model is exported at each of `image_sizes`.
        image_sizes: Sides in pixels.
        checkpoints: Names of bundled checkpoints, or folders.
        picture_sizes: Height and width of the pictures, which are noise at several scales.

    Returns:
        Family and image size, or checkpoint -> `probability`, `logit`, `heatmap` (largest differences; None without
        heatmap) and `different_boxes`; and `pictures`, their sizes.
    """
    pictures = [_make_noise(*size) for size in picture_sizes]
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        for family in families:
            for image_size in image_sizes:
                folder = Path(name, f"{family}, {image_size} px")
                _make_family(family, image_size).save_pretrained(folder)
                MuraImageProcessor(size={"height": image_size, "width": image_size}).save_pretrained(folder)
                found[folder.name] = _compare_export(folder, Path(name, "exported"), pictures)
        for checkpoint in checkpoints:
            found[checkpoint] = _compare_export(checkpoint, Path(name, "exported"), pictures)
    return {**found, "pictures": [f"{height} x {width}" for height, width in picture_sizes]}


def _compare_export(checkpoint: str | Path, folder: Path, pictures: Sequence[np.ndarray]) -> dict[str, Any]:
    export = export_onnx(checkpoint, folder, pictures)
    return {
        "probability": export.probability_difference,
        "logit": export.logit_difference,
        "heatmap": export.heatmap_difference,
        "different_boxes": export.different_boxes,
    }


def _make_noise(height: int, width: int) -> np.ndarray:
    random = np.random.default_rng(height * width)
    scales = [random.integers(0, 256, (side, side), dtype=np.uint8) for side in (5, 17, 60)]
    planes = [np.asarray(Image.fromarray(one).resize((width, height)), np.float32) for one in scales]
    return np.mean(planes, axis=0).astype(np.uint8)


def _make_family(family: str, image_size: int, seed: int = 0) -> MuraClassifier:
    """A small random model; of `mura` with every head, and of families with members, these of several families."""
    kind = CLASSIFIERS[family]
    make = partial(_make_family, image_size=image_size)
    if family == "mura_ensemble":
        members = {"first": make("mura", seed=1), "second": make("mura_fusenet", seed=2)}
        return kind.from_members(members, weights={"first": 0.7, "second": 0.3}, temperature=1.3)
    if family == "mura_specialized":
        members = {"wrist": make("mura", seed=1), "elbow": make("mura_fusenet", seed=2)}
        return kind.from_members(members, router=make("mura", seed=3))
    torch.manual_seed(seed)
    heads = {"body_part_head": True, "finding_types": ["a", "b"], "regions": ["hand", "leg"]}
    network = {"backbone": "resnet10t", "backbone_kwargs": {"channels": [8, 16, 24, 32]}, "head_init": "xavier"}
    fields = {**network, **heads} if family == MuraConfig.model_type else network
    model = kind(kind.config_class(**fields, image_size=image_size)).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):  # as after a training, so that logits and heatmaps vary
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.5)
    return model


def measure_memory(rounds: int = 2) -> dict[str, Any]:
    """Starts the app with its default checkpoint, with `MURA_RUNTIME` "torch" and "auto" in turn.

    Args:
        rounds: Starts of each, of which medians are taken.

    Returns:
        Runtime -> `start`, seconds until its first response; `answered`, seconds from its start until the result of a
        study of three views; `megabytes` of all its processes after that. `auto_is` names the runtime of "auto".
    """
    from gradio_client import Client, handle_file

    # Compiles the checkpoint if that has not happened on this machine, since it happens once.
    auto = StudyPredictor.from_pretrained(DEFAULT, device="cpu").runtime
    starts: dict[str, list[dict[str, float]]] = {"torch": [], "auto": []}
    with tempfile.TemporaryDirectory() as name:
        ((*files,),) = save_studies(Path(name, "studies"), 1)
        for _ in tqdm(range(rounds), desc="memory"):
            for runtime, rows in starts.items():
                place = Path(tempfile.mkdtemp(dir=name))
                start = time.monotonic()
                with running_app(place, {RUNTIME_VARIABLE: runtime}) as app:
                    client = Client(app.url, verbose=False)
                    client.predict(list(map(handle_file, files)), heatmaps=True, api_name="/predict_study")
                    answered = time.monotonic() - start
                    rows.append({"start": app.seconds, "answered": answered, "megabytes": app.tree_bytes() / 2**20})
                    client.close()
    medians = {
        runtime: {key: round(statistics.median(row[key] for row in rows), 1) for key in rows[0]}
        for runtime, rows in starts.items()
    }
    return {**medians, "auto_is": auto, "cores": len(os.sched_getaffinity(0)), "rounds": rounds}


TOPICS = {
    "forward": (
        measure_forward,
        {
            "networks": [("resnet10t", [2])],
            "image_size": 64,
            "variants": [name for name in VARIANTS if name != "compiled"],
            "threads": 1,
            "rounds": 2,
        },
    ),
    "whole": (measure_whole, {"checkpoints": ["mura-phantom"], "threads": 1, "rounds": 2}),
    "export": (
        measure_export,
        {"families": ["mura"], "image_sizes": [64], "checkpoints": [], "picture_sizes": [(40, 40), (61, 300)]},
    ),
    "memory": (measure_memory, {"rounds": 1}),
}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    return run_benchmark(__doc__, TOPICS, argv, of_checkpoints="whole")


if __name__ == "__main__":
    main()
