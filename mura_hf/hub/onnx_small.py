"""Smaller ONNX graphs: half-precision weights and int8, each kept only if it ranks held-out studies as well."""

import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ..common import put_file, replace_file, require_extra
from ..errors import CheckpointError
from ..metrics import classification_metrics
from .export import ONNX_FOLDER, STUDY_FILE
from .onnx_export import study_probability

AUROC_LOSS = 0.005
"""Largest loss of AUROC on held-out studies with which a smaller graph is kept."""

_TIMED_VIEWS = 40
_MIN_WEIGHTS = 256  # smaller tensors stay in float32
_WEIGHTED = ("Conv", "Gemm", "MatMul")
_OUTPUTS = ("member_logits", "attention_scores", "ood_scores")


@dataclass(frozen=True)
class SmallGraph:
    """A smaller graph, compared with `model.onnx` on held-out studies.

    Attributes:
        bytes: Size of the file.
        auroc: Its AUROC.
        auroc_change: Its AUROC minus that of `model.onnx`.
        largest_change: Largest change of the probability of a study.
        ood_changes: Number of studies that are in distribution for one of both graphs only.
        studies: Number of studies.
        float_layers: Names of convolutions that stay in float32.
        kept: Whether the file was written.
    """

    bytes: int
    auroc: float
    auroc_change: float
    largest_change: float
    ood_changes: int
    studies: int
    float_layers: list[str]
    kept: bool


def shrink_graph(
    folder: str | os.PathLike[str],
    calibration: Sequence[np.ndarray],
    held_out: Sequence[tuple[Sequence[np.ndarray], int]],
) -> dict[str, SmallGraph]:
    """Writes `model_fp16.onnx` and `model_quantized.onnx` beside `model.onnx`.

    Preprocessing, heatmaps and detector stay in float32. With half-precision weights everything is computed in
    float32. With int8, convolutions are static (QDQ, a scale for each channel); if the AUROC suffers, those of the
    stem and those with groups stay in float32. `study.json` records the comparison, and how long each graph takes.

    Args:
        folder: Folder with the `onnx/` of `export_onnx`.
        calibration: Gray levels uint8 `[H, W]`, from which the ranges of activations are measured.
        held_out: Views and label of studies that no training has seen, with both labels.

    Returns:
        The comparison by name of the file, also for those that were not kept.

    Raises:
        CheckpointError: If there is no `model.onnx`.
        ImportError: If the extra `onnx` is not installed.
        ValueError: If there are no pictures, or studies of one label only.
    """
    require_extra("onnx", "onnx", "onnxruntime")
    place = Path(folder) / ONNX_FOLDER
    file = place / "model.onnx"
    if not file.is_file():
        raise CheckpointError(f"{file} does not exist; write it with scripts/export_onnx.py")
    if not calibration or len({label for _, label in held_out}) < 2:
        raise ValueError("give pictures for calibration, and held-out studies of both labels")
    study = json.loads((place / STUDY_FILE).read_text(encoding="utf-8"))
    expected = _predict(file.read_bytes(), study, held_out)
    found: dict[str, SmallGraph] = {}
    for name, drafts in {
        "model_fp16.onnx": _store_half(file),
        "model_quantized.onnx": _quantize(file, calibration),
    }.items():
        (place / name).unlink(missing_ok=True)
        for content, float_layers in drafts:
            found[name] = _compare(content, study, held_out, expected, float_layers)
            if found[name].kept:
                put_file(place, name, content)
                break
    study["smaller_files"] = {name: vars(one) for name, one in found.items()}
    kept = ["model.onnx", *(name for name, one in found.items() if one.kept)]
    pictures = [view for views, _ in held_out for view in views]
    study["milliseconds"] = _measure_time([place / name for name in kept], pictures)
    replace_file(place / STUDY_FILE, (json.dumps(study, indent=2) + "\n").encode())
    return found


def _predict(
    content: bytes, study: dict[str, Any], studies: Sequence[tuple[Sequence[np.ndarray], int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Probability of each study, and whether it is in distribution."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs() if output.name in _OUTPUTS]
    probabilities, known = [], []
    for views, _ in studies:
        rows = [dict(zip(names, session.run(names, {"image": view}), strict=True)) for view in views]
        logits, attention, ood = (
            np.stack([row[name] for row in rows]) if name in names else None for name in _OUTPUTS
        )
        assert logits is not None
        probabilities.append(study_probability(study, logits, attention))
        limits = study["ood_thresholds"][min(len(views), len(study["ood_thresholds"])) - 1] if ood is not None else 0
        known.append(ood is None or bool((ood <= limits).all()))
    return np.asarray(probabilities), np.asarray(known)


def _measure_time(files: Sequence[Path], views: Sequence[np.ndarray]) -> dict[str, float]:
    """Median milliseconds of a view for each graph. They take turns, so that other work slows all of them down."""
    import onnxruntime

    sessions = [onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]) for file in files]
    seconds: list[list[float]] = [[] for _ in files]
    for view in views[:_TIMED_VIEWS]:
        for session, found in zip(sessions, seconds, strict=True):
            start = time.perf_counter()
            session.run(None, {"image": view})
            found.append(time.perf_counter() - start)
    return {file.name: float(1000 * np.median(found)) for file, found in zip(files, seconds, strict=True)}


def _compare(
    content: bytes,
    study: dict[str, Any],
    held_out: Sequence[tuple[Sequence[np.ndarray], int]],
    expected: tuple[np.ndarray, np.ndarray],
    float_layers: list[str],
) -> SmallGraph:
    labels = np.asarray([label for _, label in held_out])
    probabilities, known = _predict(content, study, held_out)
    before, after = _auroc(labels, expected[0]), _auroc(labels, probabilities)
    return SmallGraph(
        bytes=len(content),
        auroc=after,
        auroc_change=after - before,
        largest_change=float(np.abs(probabilities - expected[0]).max()),
        ood_changes=int((known != expected[1]).sum()),
        studies=len(labels),
        float_layers=float_layers,
        kept=after - before >= -AUROC_LOSS,
    )


def _auroc(labels: np.ndarray, probabilities: np.ndarray) -> float:
    found = classification_metrics(labels, probabilities)["auroc"]
    assert found is not None  # there are studies of both labels
    return float(found)


def _store_half(file: Path) -> Iterator[tuple[bytes, list[str]]]:
    """The graph with weights in half precision, which are cast to float32 when it is loaded."""
    import onnx
    from onnx import numpy_helper

    graph = (model := onnx.load(file)).graph
    used = {name for node in graph.node if node.op_type in _WEIGHTED for name in node.input}
    casts = []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        fits = values.dtype == np.float32 and values.size >= _MIN_WEIGHTS and np.abs(values).max() < 65504
        if not fits or tensor.name not in used or "weight" not in tensor.name:
            continue
        name, half = tensor.name, f"{tensor.name}_fp16"
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), half))
        casts.append(onnx.helper.make_node("Cast", [half], [name], f"{name}_cast", to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    yield model.SerializeToString(), []


def _quantize(file: Path, calibration: Sequence[np.ndarray]) -> Iterator[tuple[bytes, list[str]]]:
    """The graph with convolutions in int8; then with those of the stem and with groups in float32."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            picture = next(self.left, None)
            return None if picture is None else {"image": picture}

    convolutions = [node for node in onnx.load(file).graph.node if node.op_type == "Conv"]
    sensitive = [convolutions[0].name] if convolutions else []
    for node in convolutions[1:]:
        groups = [attribute.i for attribute in node.attribute if attribute.name == "group"]
        sensitive += [node.name] if groups and groups[0] > 1 else []
    for float_layers in ([], sensitive):
        with TemporaryDirectory(prefix="mura_hf_int8_") as place:
            target = Path(place, "model.onnx")
            quantize_static(
                file,
                target,
                Reader(),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                per_channel=True,
                reduce_range=True,  # else products overflow on processors without VNNI
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=list(float_layers),
            )
            yield target.read_bytes(), list(float_layers)
