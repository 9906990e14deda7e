"""Smaller ONNX graphs: half-precision weights and int8, each kept only if it says the same about held-out studies."""

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

LARGEST_CHANGE = 0.1
"""The same for the change of a probability."""

CHANGED_SHARE = 0.02
"""The same for the share of studies whose decision changes: at the default operating point, or about distribution."""

_TIMED_VIEWS = 40
_MIN_WEIGHTS = 256  # smaller tensors stay in float32
_WEIGHTED = ("Conv", "Gemm", "MatMul")
_FLOAT_SHARES = (0, 0.25, 0.5)  # of the convolutions, in the attempts at int8
_RANKED_VIEWS = 4  # from which the noise of int8 is estimated
_ACTIVATIONS = ("Relu", "Clip")  # int8 computes them as part of the convolution before them
_OUTPUTS = ("member_logits", "attention_scores", "ood_scores")


@dataclass(frozen=True)
class SmallGraph:
    """A smaller graph, compared with `model.onnx` on held-out studies.

    Attributes:
        bytes: Size of the file.
        auroc: Its AUROC.
        auroc_change: Its AUROC minus that of `model.onnx`.
        largest_change: Largest change of the probability of a study.
        decision_changes: Number of studies that are abnormal at the default operating point for one of both only.
        ood_changes: Number of studies that are in distribution for one of both graphs only.
        studies: Number of studies.
        float_layers: Names of convolutions that stay in float32.
        kept: Whether the file was written.
    """

    bytes: int
    auroc: float
    auroc_change: float
    largest_change: float
    decision_changes: int
    ood_changes: int
    studies: int
    float_layers: list[str]
    kept: bool

    def __str__(self) -> str:
        return (
            f"{self.bytes / 1e6:.1f} MB, AUROC {self.auroc:.4f} ({self.auroc_change:+.4f}), largest change of a "
            f"probability {self.largest_change:.3f}; of {self.studies} studies, {self.decision_changes} change "
            f"between normal and abnormal and {self.ood_changes} between in and out of distribution"
        )


def shrink_graph(
    folder: str | os.PathLike[str],
    calibration: Sequence[np.ndarray],
    held_out: Sequence[tuple[Sequence[np.ndarray], int]],
) -> dict[str, SmallGraph]:
    """Writes `model_fp16.onnx` and `model_quantized.onnx` beside `model.onnx`.

    Preprocessing, heatmaps and detector stay in float32. With half-precision weights everything is computed in
    float32. With int8, convolutions are static (QDQ, a scale for each channel); if the results suffer, the quarter,
    then the half of them with the largest rounding errors stays in float32. A graph that exceeds `AUROC_LOSS`,
    `LARGEST_CHANGE` or `CHANGED_SHARE` is not kept. `study.json` records the comparison of those that are, and how
    long each graph takes.

    Args:
        folder: Folder with the `onnx/` of `export_onnx`.
        calibration: Gray levels uint8 `[H, W]`, from which the ranges of activations are measured.
        held_out: Views and label of studies that no training has seen, with both labels.

    Returns:
        The comparison by name of the file, also for those that were not kept (the last attempt).

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
    study["smaller_files"] = {name: vars(one) for name, one in found.items() if one.kept}
    kept = ["model.onnx", *study["smaller_files"]]
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
    threshold = study["operating_points"][study["default_operating_point"]]
    change = _auroc(labels, probabilities) - _auroc(labels, expected[0])
    largest = float(np.abs(probabilities - expected[0]).max())
    decisions = int(((probabilities > threshold) != (expected[0] > threshold)).sum())
    ood_changes = int((known != expected[1]).sum())
    return SmallGraph(
        bytes=len(content),
        auroc=_auroc(labels, probabilities),
        auroc_change=change,
        largest_change=largest,
        decision_changes=decisions,
        ood_changes=ood_changes,
        studies=len(labels),
        float_layers=float_layers,
        kept=change >= -AUROC_LOSS
        and largest <= LARGEST_CHANGE
        and max(decisions, ood_changes) <= CHANGED_SHARE * len(labels),
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
    """The graph with convolutions in int8; then with those that lose most accuracy in float32."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QDQQuantizer, QuantType, create_calibrator

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            picture = next(self.left, None)
            return None if picture is None else {"image": picture}

    nodes = onnx.load(file).graph.node
    tensors = {node.output[0]: node for node in nodes if node.op_type == "Conv"}
    others = [node.name for node in nodes if node.op_type in _ACTIVATIONS and node.input[0] not in tensors]
    with TemporaryDirectory(prefix="mura_hf_int8_") as place:
        # ONNX Runtime writes a graph with more outputs there.
        calibrator = create_calibrator(file, ["Conv", *_ACTIVATIONS], str(Path(place, "model.onnx")))
        calibrator.collect_data(Reader())
        ranges = calibrator.compute_data()
    ranked = _rank_convolutions(file, ranges, calibration[:: -(-len(calibration) // _RANKED_VIEWS)])
    for share in _FLOAT_SHARES:
        float_layers = ranked[: round(share * len(ranked))]
        quantizer = QDQQuantizer(
            onnx.load(file),
            per_channel=True,
            reduce_range=True,  # else products overflow on processors without VNNI
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=ranges,
            nodes_to_quantize=[],
            nodes_to_exclude=[*float_layers, *others],
            op_types_to_quantize=["Conv", *_ACTIVATIONS],
            extra_options={},
        )
        quantizer.quantize_model()
        yield quantizer.model.model.SerializeToString(), float_layers


def _rank_convolutions(file: Path, ranges: Any, pictures: Sequence[np.ndarray]) -> list[str]:
    """Names of convolutions, those first whose input and output lose most to rounding, relative to their variance."""
    import onnx
    import onnxruntime

    graph = (model := onnx.load(file)).graph
    after = {node.input[0]: node.output[0] for node in graph.node if node.op_type in _ACTIVATIONS}
    tensors = {
        node.name: (node.input[0], after.get(node.output[0], node.output[0]))
        for node in graph.node
        if node.op_type == "Conv"
    }
    names = list(dict.fromkeys(name for pair in tensors.values() for name in pair if name in ranges))
    del graph.output[:]
    graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    variances = np.mean(
        [[value.var(axis=(0, 2, 3)).mean() for value in session.run(None, {"image": one})] for one in pictures], axis=0
    )
    noise = {}
    for name, variance in zip(names, variances, strict=True):
        low, high = (float(np.ravel(value)[0]) for value in ranges[name].range_value)
        noise[name] = ((max(high, 0) - min(low, 0)) / 255) ** 2 / 12 / max(float(variance), 1e-12)
    losses = {node: sum(noise.get(name, 0) for name in pair) for node, pair in tensors.items()}
    return sorted(losses, key=lambda node: -losses[node])
