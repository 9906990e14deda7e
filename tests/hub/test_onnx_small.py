import json
from importlib.util import find_spec

import numpy as np
import pytest

from mura_hf import CheckpointError
from mura_hf.hub import export_onnx, onnx_small, shrink_graph
from tests.checkpoints import make_checkpoint, make_model

pytestmark = pytest.mark.skipif(
    not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))), reason="the extra onnx is not installed"
)


def test_smaller_graphs_are_kept_only_if_they_say_the_same(tmp_path, monkeypatch):
    import onnx

    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (80, 70 + number), dtype=np.uint8) for number in range(6)]
    folder = make_checkpoint(tmp_path / "checkpoint", make_model(head_layers=[8]))
    with pytest.raises(CheckpointError, match="write it with"):
        shrink_graph(folder, pictures, [])
    export_onnx(folder, pictures=pictures[:1])
    studies = [([picture], number % 2) for number, picture in enumerate(pictures)]
    with pytest.raises(ValueError, match="both labels"):
        shrink_graph(folder, pictures, studies[:1])
    monkeypatch.setattr(onnx_small, "AUROC_LOSS", 1.0)
    monkeypatch.setattr(onnx_small, "CHANGED_SHARE", 1.0)
    found = shrink_graph(folder, pictures, studies)
    assert all(0 < one.largest_change < 0.01 for one in found.values())
    sizes = {file.name: file.stat().st_size for file in (folder / "onnx").glob("*.onnx")}
    assert max(sizes["model_quantized.onnx"], sizes["model_fp16.onnx"]) < 0.9 * sizes["model.onnx"]
    recorded = json.loads((folder / "onnx" / "study.json").read_text())["smaller_files"]
    assert recorded["model_fp16.onnx"] == vars(found["model_fp16.onnx"])
    monkeypatch.setattr(onnx_small, "LARGEST_CHANGE", -1.0)
    found = shrink_graph(folder, pictures, studies)
    assert not any(one.kept for one in found.values())
    graph = onnx.load(folder / "onnx" / "model.onnx").graph
    names = {node.name for node in graph.node if node.op_type == "Conv"}
    assert set(found["model_quantized.onnx"].float_layers) < names  # the last attempt leaves half of them in float32
    assert len(found["model_quantized.onnx"].float_layers) == round(len(names) / 2)
    assert [file.name for file in (folder / "onnx").glob("*.onnx")] == ["model.onnx"]
    assert json.loads((folder / "onnx" / "study.json").read_text())["smaller_files"] == {}


@pytest.mark.parametrize(
    ("shifts", "ood_changes", "kept"),
    [
        ({}, 2, True),
        ({}, 3, False),
        ({0: 0.09, 49: 0.02, 50: -0.02}, 0, True),  # two decisions change
        ({49: 0.02, 50: -0.02, 51: -0.03}, 0, False),
        ({0: 0.11}, 0, False),
        (dict.fromkeys(range(0, 40, 2), 0.09) | dict.fromkeys(range(61, 100, 2), -0.09), 0, False),  # AUROC
    ],
)
def test_a_smaller_graph_must_say_the_same(shifts, ood_changes, kept, monkeypatch):
    expected, known = np.linspace(0.005, 0.995, 100), np.ones(100, dtype=bool)
    probabilities, found = expected.copy(), known.copy()
    probabilities[list(shifts)] += list(shifts.values())
    found[:ood_changes] = False
    monkeypatch.setattr(onnx_small, "_predict", lambda *given: (probabilities, found))
    study = {"operating_points": {"paper": 0.5}, "default_operating_point": "paper"}
    held_out = [([], number % 2) for number in range(100)]
    one = onnx_small._compare(b"", study, held_out, (expected, known), [])
    assert (one.kept, one.ood_changes) == (kept, ood_changes)
    assert f"{ood_changes} between in and out of distribution" in str(one)
