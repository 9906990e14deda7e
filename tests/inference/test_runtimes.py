import copy
import pickle
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from mura_hf import CheckpointError, StudyPredictor
from mura_hf.inference import runtimes
from mura_hf.inference.runtimes import CompiledBackbone, check_runtime, compile_backbones, record_examples
from mura_hf.models import MuraModel
from tests.checkpoints import SIDE, make_checkpoint, make_model
from tests.inference.threads import check_threads

INSTALLED = [name for name in ("openvino", "onnxruntime") if find_spec(name) and find_spec("onnxscript")]
needs_runtime = pytest.mark.skipif(not INSTALLED, reason="the extra fast is not installed")


def run_torch(backbone):
    """A runtime that is PyTorch itself."""
    return lambda values: backbone.forward_features(torch.from_numpy(values)).numpy()


def compile_with_torch(model):
    with record_examples(model) as examples, torch.no_grad():
        model(torch.randn(1, 1, 3, SIDE, SIDE))
    for network, example in examples.items():
        network.compiled = CompiledBackbone(network.backbone, example, run_torch(network.backbone))
    return examples


def count_calls(network, monkeypatch):
    calls = []
    run = network.compiled._run
    monkeypatch.setattr(network.compiled, "_run", lambda values: calls.append(values.shape) or run(values))
    return calls


def test_unknown_runtimes_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="one of auto, torch, onnxruntime, openvino"):
        check_runtime("tensorrt")
    monkeypatch.setenv("MURA_RUNTIME", "fastest")
    with pytest.raises(ValueError, match="fastest"):
        check_runtime("auto")
    assert check_runtime("torch") == "torch"
    monkeypatch.setattr(runtimes, "require_extra", lambda extra, *modules: pytest.fail(extra))
    with pytest.raises(pytest.fail.Exception, match="fast"):
        check_runtime("openvino")


def test_every_backbone_is_recorded_at_its_size():
    model = make_model("mura_fusenet", local_size=48)
    with record_examples(model) as examples, torch.no_grad():
        model(torch.randn(1, 2, 3, SIDE, SIDE))
    assert sorted(one.shape[-1] for one in examples.values()) == [48, SIDE]
    assert all(len(one) == 1 for one in examples.values())
    assert all(module.compiled is None for module in model.modules() if isinstance(module, MuraModel))


def test_backbone_is_replaced_only_where_it_is_equal(monkeypatch):
    model = make_model()
    (network,) = compile_with_torch(model)
    calls = count_calls(network, monkeypatch)
    views = torch.randn(1, 2, 3, SIDE, SIDE)
    with torch.no_grad():
        fast = model(views)
        assert calls == [(2, 3, SIDE, SIDE)]
        model(torch.randn(1, 1, 3, SIDE + 32, SIDE), output_hidden_states=False)  # another size
        model(views, output_hidden_states=True)
    model(views)  # with a gradient
    assert len(calls) == 1
    assert copy.deepcopy(model).mura.compiled is None
    assert pickle.loads(pickle.dumps(network.compiled)) is None
    with torch.no_grad():
        next(model.mura.backbone.parameters()).mul_(1.5)
        changed = model(views)
    assert len(calls) == 1
    assert not torch.allclose(changed.study_logits, fast.study_logits)


def test_a_backbone_that_differs_is_refused():
    model = make_model()
    example = torch.randn(1, 3, SIDE, SIDE)
    run = run_torch(model.mura.backbone)
    with pytest.raises(CheckpointError, match=r"differs from that of PyTorch by 0\.1"):
        CompiledBackbone(model.mura.backbone, example, lambda values: run(values) * np.float32(1.1))


def test_auto_falls_back_to_pytorch(monkeypatch):
    model = make_model()
    examples = {model.mura: torch.randn(1, 3, SIDE, SIDE)}
    monkeypatch.setattr(runtimes, "find_spec", lambda name: True)

    def fail(examples):
        raise RuntimeError("unknown operator")

    monkeypatch.setattr(runtimes, "_find_graphs", fail)
    assert compile_backbones(examples, "auto") == "torch"
    with pytest.raises(CheckpointError, match=r"cannot run in openvino \(unknown operator\)"):
        compile_backbones(examples, "openvino")
    with pytest.raises(ValueError, match="float32 on the CPU"):
        compile_backbones({model.mura: examples[model.mura].half()}, "onnxruntime")
    assert compile_backbones({model.mura: examples[model.mura].half()}, "auto") == "torch"
    assert compile_backbones({}, "auto") == "torch"


@needs_runtime
def test_predictions_are_equal_in_every_runtime(tmp_path, phantom_files, monkeypatch):
    monkeypatch.setenv("MURA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MURA_RUNTIME")
    folder = make_checkpoint(tmp_path / "checkpoint", make_model("mura_ensemble"))
    expected = StudyPredictor.from_pretrained(folder, device="cpu", runtime="torch")(phantom_files)
    assert StudyPredictor.from_pretrained(folder, device="cpu", runtime="auto").runtime == INSTALLED[0]
    for runtime in INSTALLED:
        predictor = StudyPredictor.from_pretrained(folder, device="cpu", runtime=runtime)
        assert predictor.runtime == runtime
        assert f"runtime {predictor.runtime}" in repr(predictor)
        found = predictor(phantom_files)
        assert found.probability == pytest.approx(expected.probability, abs=1e-5)
        np.testing.assert_allclose(found.codes, expected.codes, rtol=1e-3, atol=1e-4)
        for one, other in zip(found.views, expected.views, strict=True):
            np.testing.assert_allclose(one.heatmap, other.heatmap, atol=1e-3)
        check_threads(predictor, phantom_files)
    graphs = sorted((tmp_path / "home" / "graphs").iterdir())
    assert [file.suffix for file in graphs] == [".onnx", ".onnx"]  # one for each member, none unfinished


@needs_runtime
def test_cached_graphs_are_used_again_and_old_ones_deleted(tmp_path, monkeypatch):
    monkeypatch.setenv("MURA_HOME", str(tmp_path))
    monkeypatch.setattr(runtimes, "_MAX_GRAPHS", 1)
    monkeypatch.setattr(runtimes, "_run_build", runtimes.build_graphs)  # in this process, which has imported all
    folder = tmp_path / "graphs"
    folder.mkdir()
    (folder / "old.onnx").write_bytes(b"")
    model = make_model()
    examples = {model.mura: torch.randn(1, 3, SIDE, SIDE)}
    assert compile_backbones(examples, INSTALLED[0]) == INSTALLED[0]
    (graph,) = folder.iterdir()
    assert graph.stem == runtimes._digest(model.mura, examples[model.mura])
    monkeypatch.setattr(runtimes, "_run_build", lambda place: pytest.fail("built twice"))
    assert compile_backbones(examples, INSTALLED[0]) == INSTALLED[0]
    graph.write_bytes(b"damaged")
    assert compile_backbones(examples, "auto") == "torch"
