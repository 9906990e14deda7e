"""Runtimes: OpenVINO or ONNX Runtime compute the feature maps of a model on a CPU, instead of PyTorch.

Only backbones run there, and only without gradients: from pixel values to the last feature map, where almost all the
time goes. Heads, calibration, the choice of members, heatmaps, codes and out-of-distribution scores are the same code
for every runtime. Whatever a runtime cannot do, such as gradients of a network on tokens, PyTorch does.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.utils import logging

from ..common import home_folder, require_extra
from ..errors import CheckpointError, first_line
from ..models import MuraClassifier, MuraConfig, MuraModel
from ..models.backbone_mura import create_backbone

RUNTIMES = ("auto", "torch", "onnxruntime", "openvino")
RUNTIME_VARIABLE = "MURA_RUNTIME"
"""Environment variable with the runtime that "auto" means."""

_EXTRA = ("onnx", "onnxscript")  # build graphs
_FAST = ("openvino", "onnxruntime")  # the fastest first
_FORMAT = 1  # of the graphs in the cache
_MAX_GRAPHS = 24  # in the cache; those that were not used for the longest time are deleted
_BUILD_SECONDS = 900
_TOLERANCE = 5e-4  # largest difference of a feature map, as a share of its largest value
_BUILD = "import sys; from mura_hf.inference.runtimes import build_graphs; build_graphs(sys.argv[1])"

logger = logging.get_logger(__name__)

Run = Callable[[np.ndarray], np.ndarray]


def check_runtime(name: str) -> str:
    """Returns a runtime, or for "auto" what `MURA_RUNTIME` says, unchanged.

    Raises:
        ImportError: If it is not installed (extra `fast`).
        ValueError: If there is no such runtime.
    """
    chosen = os.environ.get(RUNTIME_VARIABLE) or name if name == "auto" else name
    if chosen not in RUNTIMES:
        raise ValueError(f"runtime is {chosen!r}; it must be one of {', '.join(RUNTIMES)}")
    if chosen in _FAST:
        require_extra("fast", chosen, *_EXTRA)
    return chosen


@contextmanager
def record_examples(model: MuraClassifier) -> Iterator[dict[MuraModel, torch.Tensor]]:
    """Collects an input of each backbone that runs without gradients inside the block."""
    networks = [module for module in model.modules() if isinstance(module, MuraModel)]
    examples: dict[MuraModel, torch.Tensor] = {}

    def record(network: MuraModel, pixel_values: torch.Tensor) -> None:  # stands in for a compiled backbone
        examples[network] = pixel_values[:1].detach().clone()

    for network in networks:
        network.compiled = partial(record, network)
    try:
        yield examples
    finally:
        for network in networks:
            network.compiled = None


def compile_backbones(examples: dict[MuraModel, torch.Tensor], runtime: str) -> str:
    """Compiles backbones for the shapes of their examples, and returns the runtime that they use.

    "auto" is OpenVINO if it is installed, else ONNX Runtime, else PyTorch. It is PyTorch on accelerators and in half
    precision, and if a backbone cannot be compiled.

    Raises:
        CheckpointError: If a backbone cannot be compiled, or gives other feature maps, and `runtime` is not "auto".
        ValueError: If the model is not in float32 on the CPU, and `runtime` is not "auto".
    """
    fits = all(one.device.type == "cpu" and one.dtype == torch.float32 for one in examples.values())
    chosen = runtime
    if runtime == "auto":
        installed = [name for name in _FAST if find_spec(name)] if all(map(find_spec, _EXTRA)) else []
        chosen = installed[0] if installed and examples and fits else "torch"
    if chosen == "torch":
        return chosen
    if not fits:
        raise ValueError(f"runtime {chosen} needs a model in float32 on the CPU; use device='cpu' and float32")
    try:
        if not examples:
            raise CheckpointError("this model has no backbone of mura_hf")
        files = _find_graphs(examples)
        compiled = {
            network: CompiledBackbone(network.backbone, example, _OPENERS[chosen](file.read_bytes()))
            for (network, example), file in zip(examples.items(), files, strict=True)
        }
    except Exception as error:  # compilers raise errors of many kinds
        message = f"the network cannot run in {chosen} ({first_line(error)})"
        if runtime != "auto":
            raise CheckpointError(f"{message}; use runtime='torch'") from error
        logger.warning(f"It runs in PyTorch, because {message}.")
        return "torch"
    for network, backbone in compiled.items():
        network.compiled = backbone
    return chosen


class CompiledBackbone:
    """A backbone in another runtime, for images of one size. Threads may share it.

    It returns None, so that PyTorch computes the feature map, for images of another size, device or dtype, and once
    the weights of the backbone have changed. A copy or a pickle of it is None.

    Args:
        backbone: The network in PyTorch, in evaluation mode.
        example: One input, float32 `[1, C, H, W]`.
        run: Runs the compiled network on such arrays.

    Raises:
        CheckpointError: If its feature map differs from that of PyTorch.
    """

    def __init__(self, backbone: nn.Module, example: torch.Tensor, run: Run) -> None:
        self._backbone, self._run, self._shape = backbone, run, example.shape[1:]
        self._tensors = [*backbone.parameters(), *backbone.buffers()]
        self._state = self._find_state()
        with torch.no_grad():
            expected, found = backbone.forward_features(example), self(example)  # type: ignore[operator]
        difference = torch.inf if found is None else float((found - expected).abs().max() / expected.abs().max())
        if not difference <= _TOLERANCE:
            raise CheckpointError(f"its feature map differs from that of PyTorch by {difference:.2g} of its maximum")

    def __call__(self, pixel_values: torch.Tensor) -> torch.Tensor | None:
        """Returns the feature map of pixel values `[B, C, H, W]`, or None."""
        is_image = pixel_values.device.type == "cpu" and pixel_values.dtype == torch.float32
        if not is_image or pixel_values.shape[1:] != self._shape or self._find_state() != self._state:
            return None
        return torch.from_numpy(self._run(np.ascontiguousarray(pixel_values.detach().numpy())))

    def _find_state(self) -> list[tuple[int, int]]:
        """Where the weights lie in memory, and how often they were changed in place."""
        return [(one.data_ptr(), 0 if one.is_inference() else one._version) for one in self._tensors]

    def __reduce__(self) -> Any:
        return type(None), ()


def _open_onnxruntime(graph: bytes) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    # Waiting threads sleep; else they would take the processor from PyTorch, which does the rest.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return lambda values: session.run(None, {"image": values})[0]


@cache
def _openvino_core() -> Any:
    import openvino

    return openvino.Core()


def _open_openvino(graph: bytes) -> Run:
    core = _openvino_core()
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",  # else it takes bfloat16 where the processor can, with errors of 1 %
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # several processes would be pinned to the same cores
    }
    compiled = core.compile_model(core.read_model(graph), "CPU", settings)
    idle: SimpleQueue[Any] = SimpleQueue()  # a request serves one thread at a time

    def run(values: np.ndarray) -> np.ndarray:
        try:
            request = idle.get_nowait()
        except Empty:
            request = compiled.create_infer_request()
        try:
            request.infer([values], share_inputs=True)
            return request.get_output_tensor(0).data.copy()
        finally:
            idle.put(request)

    return run


_OPENERS: dict[str, Callable[[bytes], Run]] = {"onnxruntime": _open_onnxruntime, "openvino": _open_openvino}


def _find_graphs(examples: dict[MuraModel, torch.Tensor]) -> list[Path]:
    """Returns the graphs of backbones from the cache, and builds those that are missing.

    They lie in `graphs` of `home_folder`, under a hash of architecture, weights and input size. Each is complete as
    soon as it has its name, so several processes may build and use them.
    """
    folder = home_folder() / "graphs"
    folder.mkdir(exist_ok=True)
    files = [folder / f"{_digest(network, example)}.onnx" for network, example in examples.items()]
    missing = {file: number for number, file in enumerate(files) if not file.is_file()}
    if missing:
        logger.warning("The network is compiled for this machine. This happens once for each checkpoint.")
        networks = list(examples.items())
        with tempfile.TemporaryDirectory(prefix=".build-", dir=folder) as place:
            for file, number in missing.items():
                network, example = networks[number]
                state = {name: one.contiguous() for name, one in network.backbone.state_dict().items()}
                save_file(state, Path(place, f"{file.stem}.safetensors"))
                described = {"config": _describe(network), "shape": list(example.shape)}
                Path(place, f"{file.stem}.json").write_text(json.dumps(described))
            _run_build(place)
            for file in missing:
                os.replace(Path(place, file.name), file)
    for file in files:
        os.utime(file)
    for old in sorted(folder.glob("*.onnx"), key=lambda file: file.stat().st_mtime)[:-_MAX_GRAPHS]:
        if old not in files:
            old.unlink(missing_ok=True)
    return files


def _describe(network: MuraModel) -> dict[str, Any]:
    return {name: getattr(network.config, name) for name in MuraConfig.__annotations__}


def _digest(network: MuraModel, example: torch.Tensor) -> str:
    config = network.config
    parts = [_FORMAT, timm.__version__, config.backbone, config.backbone_kwargs, list(example.shape)]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    for name, value in network.backbone.state_dict().items():
        digest.update(f"{name} {list(value.shape)} {value.dtype}".encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _run_build(place: str) -> None:
    """Builds graphs in a process of its own: an export changes classes of torch that other threads use meanwhile."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-P", "-c", _BUILD, place]
    found = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=_BUILD_SECONDS, start_new_session=True
    )
    if found.returncode != 0:
        lines = found.stderr.strip().splitlines() or [f"exit status {found.returncode}"]
        raise CheckpointError(f"its graph cannot be built: {lines[-1]}")


def build_graphs(place: str | os.PathLike[str]) -> None:
    """Exports the backbones that a folder describes (`NAME.json`, `NAME.safetensors`) as `NAME.onnx`."""
    for file in Path(place).glob("*.json"):
        described = json.loads(file.read_text())
        backbone = create_backbone(MuraConfig(**described["config"]))
        backbone.load_state_dict(load_file(file.with_suffix(".safetensors")))
        example = torch.zeros(2, *described["shape"][1:])
        graph = to_onnx(_Features(backbone), example, [0], ["feature_map"])
        file.with_suffix(".onnx").write_bytes(graph.SerializeToString())


class _Features(nn.Module):
    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.backbone.forward_features(pixel_values)


def to_onnx(module: nn.Module, example: torch.Tensor, dynamic: Sequence[int], outputs: Sequence[str]) -> Any:
    """Exports a module with one input, called `image`, whose axes in `dynamic` may have any size.

    Returns:
        An ONNX `ModelProto`.
    """
    shapes = (dict.fromkeys(dynamic, torch.export.Dim.DYNAMIC),)
    with torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            (example,),
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=["image"],
            output_names=list(outputs),
            verbose=False,
        )
    assert program is not None  # without a file, the exporter returns the program
    return program.model_proto
