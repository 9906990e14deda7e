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


def test_smaller_graphs_are_kept_only_if_they_rank_as_well(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (80, 70 + number), dtype=np.uint8) for number in range(6)]
    folder = make_checkpoint(tmp_path / "checkpoint", make_model())
    with pytest.raises(CheckpointError, match="write it with"):
        shrink_graph(folder, pictures, [])
    export_onnx(folder, pictures=pictures[:1])
    studies = [([picture], number % 2) for number, picture in enumerate(pictures)]
    with pytest.raises(ValueError, match="both labels"):
        shrink_graph(folder, pictures, studies[:1])
    monkeypatch.setattr(onnx_small, "AUROC_LOSS", 1.0)
    found = shrink_graph(folder, pictures, studies)
    assert all(0 < one.largest_change < 0.01 for one in found.values())
    sizes = {file.name: file.stat().st_size for file in (folder / "onnx").glob("*.onnx")}
    assert max(sizes["model_quantized.onnx"], sizes["model_fp16.onnx"]) < 0.9 * sizes["model.onnx"]
    recorded = json.loads((folder / "onnx" / "study.json").read_text())["smaller_files"]
    assert recorded["model_fp16.onnx"] == vars(found["model_fp16.onnx"])
    monkeypatch.setattr(onnx_small, "AUROC_LOSS", -2.0)
    found = shrink_graph(folder, pictures, studies)
    assert not any(one.kept for one in found.values())
    assert len(found["model_quantized.onnx"].float_layers) == 1  # the last attempt leaves the stem in float32
    assert [file.name for file in (folder / "onnx").glob("*.onnx")] == ["model.onnx"]
