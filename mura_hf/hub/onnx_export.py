"""ONNX export: one graph from the gray levels of a view to probability, logits, heatmap and code.

Beside the graph, `study.json` says how the views of a study are combined and what the numbers mean, so that a client
in another language needs nothing else.
"""

import inspect
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..common import LOWER_LIMB, put_file, require_extra, sync_folder
from ..errors import CheckpointError, first_line
from ..explain import find_regions, localize
from ..inference import StudyPrediction, StudyPredictor
from ..inference.loading import find_source, find_weights
from ..inference.prediction import REGION_WORDS
from ..inference.runtimes import to_onnx
from ..models import BANDS, BODY_PARTS, MuraImageProcessor, MuraSpecializedForImageClassification
from ..models.golden_mura import digest_weights
from .export import ONNX_FOLDER, STUDY_FILE
from .onnx_graph import ViewGraph, list_members

TOLERANCE = 1e-4
"""Largest difference from PyTorch that the probability of an exported graph may have."""

HEATMAP_TOLERANCE = 1e-3
"""The same for values of heatmaps, which lie in [0, 1]."""

DIFFERENT_BOXES = 0.05
"""Largest share of pictures whose box may differ; the border of a region can depend on a rounding error."""

_EXAMPLES = Path(__file__).parents[1] / "resources" / "examples"
_ODD_SIZES = ((40, 40), (47, 470), (611, 97), (801, 640))  # height and width of pictures that a comparison adds
_MAX_VIEWS = 16  # study.json holds out-of-distribution thresholds for studies of up to so many views
_LICENSE = re.compile(r"^license: *(\S+)", re.MULTILINE)


@dataclass(frozen=True)
class OnnxExport:
    """What `export_onnx` wrote.

    Attributes:
        files: The graphs: `model.onnx`, or one for each body part and the router of a specialized model.
        pictures: Number of pictures on which it was compared with PyTorch.
        probability_difference: Largest difference of a probability.
        logit_difference: Largest difference of a logit.
        heatmap_difference: Largest difference of a value of a heatmap, in [0, 1]; None without a heatmap.
        different_boxes: Number of pictures on which the hottest region has another box.
        no_heatmap: Why the graph has no heatmap; None if it has one.
    """

    files: list[Path]
    pictures: int
    probability_difference: float
    logit_difference: float
    heatmap_difference: float | None
    different_boxes: int
    no_heatmap: str | None


def export_onnx(
    checkpoint: str | os.PathLike[str],
    folder: str | os.PathLike[str] | None = None,
    pictures: Sequence[np.ndarray] | None = None,
) -> OnnxExport:
    """Writes `onnx/model.onnx` and `onnx/study.json`, after a comparison with PyTorch.

    A specialized model has one graph for each body part, such as `wrist.onnx`, and `router.onnx`, whose
    `body_part_logits` choose among them.

    The graph takes one view, uint8 `[H, W]` of any size, windowed so that bone is bright, as `read_radiograph` gives
    it (`Radiograph.to_uint8`). Preprocessing is part of the graph. Outputs, as far as the checkpoint has them:

    - `probability`: P(abnormal) of a study that has only this view.
    - `logits` `[2]` for normal and abnormal, divided by the temperature.
    - `member_logits` `[M, 2]`, from which `study_probability` combines several views.
    - `heatmap` `[H, W]` in [0, 1], where Grad-CAM has a closed form.
    - `attention_scores` `[M]`, with gated attention over views.
    - `body_part_logits` `[7]`, `finding_logits` `[F]` and `region_logits` `[R]`.
    - `code` `[D]`, see `view_codes`.
    - `ood_scores` `[K]`; a view is out of distribution if one is above its threshold in `study.json`.

    Args:
        checkpoint: Folder, Hub name, or name of a bundled checkpoint.
        folder: Folder that gets `onnx/`; the checkpoint's own if None. An older `onnx/` is replaced.
        pictures: Gray levels uint8 `[H, W]` for the comparison. If None, the example films of the package, and some of
            them at odd sizes.

    Raises:
        CheckpointError: If the checkpoint cannot be exported, or the results of the graph are not those of PyTorch.
            Nothing is written then.
        ImportError: If onnx, onnxscript or onnxruntime is not installed (extra `onnx`).
    """
    require_extra("onnx", "onnx", "onnxscript", "onnxruntime")
    predictor = StudyPredictor.from_pretrained(checkpoint, device="cpu", dtype=torch.float32, runtime="torch")
    original = find_weights(find_source(checkpoint))
    assert original is not None  # the predictor was loaded from it
    target = Path(original if folder is None else folder)
    target.mkdir(parents=True, exist_ok=True)
    pictures = _read_examples() if pictures is None else pictures
    graphs = _list_graphs(predictor)
    card = original / "README.md"
    licence = _LICENSE.search(card.read_text(encoding="utf-8")) if card.is_file() else None
    common = {
        "format": 1,
        "checkpoint": predictor.checkpoint,
        "model_type": predictor.model.config.model_type,
        "weights_sha256": digest_weights(original),
        "license": licence[1] if licence else None,
        "notice": "Not a medical device.",
        "warnings": predictor.warnings,  # of every prediction
    }
    described, rows = {}, []
    with tempfile.TemporaryDirectory(prefix=".onnx-", dir=target) as draft:
        fresh = Path(draft) / ONNX_FOLDER
        fresh.mkdir()
        for name, (graph, predict) in graphs.items():
            file = fresh / f"{name}.onnx"
            found, study = _export_graph(file, graph, common, pictures, [predict(picture) for picture in pictures])
            if not found["probability"] <= TOLERANCE:  # also true for NaN
                raise CheckpointError(
                    f"the graph of {predictor.checkpoint} differs from PyTorch by {found['probability']:.2g} in a "
                    f"probability, and {TOLERANCE:g} is allowed; nothing was written. Update torch and onnxscript, or "
                    "use the checkpoint with PyTorch"
                )
            rows.append(found)
            described[name] = {**study, "probability_difference": found["probability"]}
        whole = described.get("model") or {"graphs": described}
        put_file(fresh, STUDY_FILE, (json.dumps({**common, **whole}, indent=2) + "\n").encode())
        sync_folder(fresh)
        shutil.rmtree(target / ONNX_FOLDER, ignore_errors=True)
        fresh.rename(target / ONNX_FOLDER)
    largest = {name: max(row[name] for row in rows) for name in rows[0]}
    reasons = [study["no_heatmap"] for study in described.values()]
    return OnnxExport(
        files=[target / ONNX_FOLDER / f"{name}.onnx" for name in graphs],
        pictures=len(pictures),
        probability_difference=largest["probability"],
        logit_difference=largest["logit"],
        heatmap_difference=None if all(reasons) else largest["heatmap"],
        different_boxes=int(largest["boxes"]),
        no_heatmap=next(filter(None, reasons), None),
    )


def study_probability(
    study: Mapping[str, Any], member_logits: np.ndarray, attention_scores: np.ndarray | None = None
) -> float:
    """Returns P(abnormal) of a study from its `study.json` and the outputs of the graph for its views.

    Every member pools the views and is calibrated. Then the probabilities of the members are averaged with their
    weights, and the result is calibrated.

    Args:
        study: Content of `study.json`.
        member_logits: `[V, M, 2]`.
        attention_scores: `[V, M]`; only graphs with gated attention have them.
    """
    probability = 0.0
    for number, member in enumerate(study["members"]):
        logits = np.asarray(member_logits, np.float64)[:, number]
        if member["pooling"] == "gated_attention":
            assert attention_scores is not None
            shares = np.exp(np.asarray(attention_scores, np.float64)[:, number])
            logits = (shares[:, None] * logits).sum(0, keepdims=True) / shares.sum()
        views = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
        pooled = {"max": views.max(), "noisy_or": 1 - np.prod(1 - views)}.get(member["pooling"], views.mean())
        probability += member["weight"] * _calibrate(pooled, member["slope"], member["intercept"])
    return _calibrate(probability, study["slope"], study["intercept"])


def _calibrate(probability: float, slope: float, intercept: float) -> float:
    tiny = np.finfo(np.float64).tiny
    logit = np.log(max(probability, tiny)) - np.log(max(1 - probability, tiny))
    return float(1 / (1 + np.exp(-(slope * logit + intercept))))


def describe_study(graph: ViewGraph) -> dict[str, Any]:
    """Returns what `study.json` says about a graph."""
    config, detector = graph.study_config, graph.detector
    points = {name: float(value) for name, value in config.operating_points.items()}
    return {
        "labels": list(config.id2label.values()),
        "positive_class_description": config.positive_class_description,
        "members": list_members(graph.model, config),
        "slope": float(config.study_slope),
        "intercept": float(config.study_intercept),
        "operating_points": points,
        "default_operating_point": config.find_threshold()[0],
        # At each operating point: "low" is up to the first number, "suspected" above the second, "uncertain" between.
        "bands": list(BANDS),
        "band_limits": {name: config.find_band_limits(value) for name, value in points.items()},
        "body_parts": list(BODY_PARTS),
        "finding_types": getattr(graph.model.config, "finding_types", None) or [],
        "regions": {name: REGION_WORDS.get(name, name) for name in getattr(graph.model.config, "regions", None) or []},
        # With a detector, a study that shows one of these is not what the checkpoint is made for.
        "outside_regions": list(LOWER_LIMB),
        # For studies of 1, 2, ... views: the highest scores of a view in distribution.
        "ood_thresholds": []
        if detector is None
        else [detector.thresholds(number).tolist() for number in range(1, _MAX_VIEWS + 1)],
        # A box of a heatmap: the largest 8-connected region at or above this share of its range.
        "box_threshold": inspect.signature(find_regions).parameters["threshold"].default,
        "trained_on_phantoms": config.trained_on_phantoms,
    }


def _list_graphs(predictor: StudyPredictor) -> dict[str, tuple[ViewGraph, Callable[[np.ndarray], StudyPrediction]]]:
    """Returns the graphs by the names of their files, each with a function that gives the prediction of PyTorch."""
    model, processor = predictor.model, predictor.processor
    if not isinstance(processor, MuraImageProcessor):
        raise CheckpointError(f"{predictor.checkpoint} is no checkpoint of mura_hf; export it with its own tools")
    if not isinstance(model, MuraSpecializedForImageClassification):
        return {"model": (ViewGraph(model, processor, predictor.ood_detector), predictor)}
    found: dict[str, Any] = {
        part: (ViewGraph(member, processor, specialized=model), partial(predictor, body_part=part))
        for part, member in model.members.items()
    }
    if model.router is not None:
        found["router"] = (ViewGraph(model.router, processor), StudyPredictor(model.router, processor, "router"))
    return found


def _export_graph(
    file: Path,
    graph: ViewGraph,
    common: dict[str, Any],
    pictures: Sequence[np.ndarray],
    expected: Sequence[StudyPrediction],
) -> tuple[dict[str, float], dict[str, Any]]:
    """Writes a graph, with a heatmap if it equals that of PyTorch. Returns its differences and its description."""
    import onnx

    reason = graph.find_obstacle(torch.from_numpy(pictures[0].copy()))
    while True:
        graph.heatmap = reason is None
        study = {**describe_study(graph), "no_heatmap": reason}
        proto = _to_onnx(graph, common["checkpoint"])
        texts = {key: one if isinstance(one, str) else json.dumps(one) for key, one in {**common, **study}.items()}
        onnx.helper.set_model_props(proto, texts)
        put_file(file.parent, file.name, proto.SerializeToString())
        found = _compare(file, pictures, expected)
        same_boxes = found["boxes"] <= DIFFERENT_BOXES * len(pictures)
        if reason is not None or (found["heatmap"] <= HEATMAP_TOLERANCE and same_boxes):
            return found, study
        reason = "the closed form of the class activation map differs from Grad-CAM for its pooling"


def _to_onnx(graph: ViewGraph, checkpoint: str) -> Any:
    example = torch.zeros(61, 53, dtype=torch.uint8)
    try:
        with torch.no_grad():
            names = list(graph(example))
        return to_onnx(graph, example, (0, 1), names)
    except CheckpointError:
        raise
    except Exception as error:  # the exporter raises errors of many kinds, and the reason is the first of them
        reason: BaseException = error
        while reason.__cause__ is not None:
            reason = reason.__cause__
        raise CheckpointError(
            f"{checkpoint} cannot be exported to ONNX: {first_line(reason)}. Use the checkpoint with PyTorch"
        ) from error


def _compare(file: Path, pictures: Sequence[np.ndarray], expected: Sequence[StudyPrediction]) -> dict[str, float]:
    """Runs a graph, and returns its largest differences from predictions, and the number of different boxes."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    rows = []
    for picture, prediction in zip(pictures, expected, strict=True):
        found = dict(zip(names, session.run(None, {"image": picture}), strict=True))
        (view,) = prediction.views
        logit = np.log(view.probability) - np.log1p(-view.probability)
        row = [abs(found["probability"] - view.single_view_probability), abs(np.diff(found["logits"])[0] - logit)]
        if "heatmap" in found and view.heatmap is not None:
            row += [
                np.abs(found["heatmap"] - view.heatmap).max(),
                localize(found["heatmap"]) != localize(view.heatmap),
            ]
        rows.append(row)
    probabilities, logits, *heatmaps = np.asarray(rows, np.float64).T
    heatmap, boxes = heatmaps or [np.zeros(1), np.zeros(1)]
    return {
        "probability": float(probabilities.max()),
        "logit": float(logits.max()),
        "heatmap": float(heatmap.max()),
        "boxes": float(boxes.sum()),
    }


def _read_examples() -> list[np.ndarray]:
    files = sorted(file for file in _EXAMPLES.iterdir() if file.suffix in (".png", ".jpg"))  # phantoms, and real films
    films = [np.asarray(Image.open(file).convert("L")) for file in files]
    odd = [
        np.asarray(Image.fromarray(film).resize((width, height)))
        for film, (height, width) in zip(films, _ODD_SIZES, strict=False)
    ]
    return films + odd
