import json
import runpy
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from mura_hf import CheckpointError, MuraImageProcessor, StudyPredictor
from mura_hf.hub import OnnxExport, export_checkpoint, export_onnx, onnx_export, study_probability
from mura_hf.hub.onnx_graph import Preprocessing
from mura_hf.hub.push_checks import check_checkpoint
from mura_hf.inference.inputs import read_view
from mura_hf.models import CLASSIFIERS
from mura_hf.models.golden_mura import digest_weights
from tests.checkpoints import SIDE, make_checkpoint, make_model

needs_onnx = pytest.mark.skipif(
    not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))), reason="the extra onnx is not installed"
)
SIZES = [(40, 40), (SIDE, SIDE), (1, 7), (61, 300), (501, 333), (333, 501), (1000, 900)]


def make_picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"resize_mode": "squash", "image_mean": 0.25, "image_std": 0.5},
        {"size": {"height": 96, "width": 70}},
        {"size": {"height": 96, "width": 96}, "do_center_crop": True, "crop_size": {"height": 60, "width": 80}},
    ],
)
def test_preprocessing_is_bit_equal(settings):
    processor = MuraImageProcessor(**{"size": {"height": SIDE, "width": SIDE}, **settings})
    graph = Preprocessing(processor)
    for height, width in SIZES:
        picture = make_picture(height, width)
        found, *placements = graph(torch.from_numpy(picture))
        assert torch.equal(found, processor(images=[picture], return_tensors="pt")["pixel_values"]), picture.shape
        heatmap = np.random.default_rng(1).random(processor.output_size, dtype=np.float32)
        restored = graph.restore(torch.from_numpy(heatmap), torch.from_numpy(picture), *placements)
        np.testing.assert_allclose(restored, processor.restore_map(heatmap, height, width), atol=1e-5)


@pytest.mark.parametrize("setting", [{"enhance": "clahe_gray"}, {"resample": 3}])
def test_preprocessing_that_a_graph_cannot_do_is_refused(setting):
    with pytest.raises(CheckpointError, match=next(iter(setting))):
        Preprocessing(MuraImageProcessor(**setting))


FAMILIES = {
    "every head": {
        "body_part_head": True, "finding_types": ["a", "b"], "regions": ["hand", "leg"], "test_time_flip": True,
        "study_pooling": "gated_attention", "backbone_kwargs": {"channels": [8, 16, 24, 32], "global_pool": "max"},
    },
    "nonlinear head": {"head_layers": [8], "study_pooling": "noisy_or"},
    "mura_fusenet": {"local_size": 48, "study_pooling": "gated_attention"},
    "mura_specialized": {"study_slope": 0.7, "study_intercept": -0.4, "temperature": 1.3},
    "mura_ensemble": {"study_slope": 0.7, "study_intercept": -0.4, "temperature": 1.3},
}  # fmt: skip


def make_family(name):
    if name != "mura_specialized":
        return make_model(name if name.startswith("mura") else "mura", **FAMILIES[name])
    router = make_model(seed=3, body_part_head=True)
    members = {"wrist": make_model(seed=1, study_pooling="max")}
    return CLASSIFIERS[name].from_members(members, router=router, **FAMILIES[name])


@needs_onnx
@pytest.mark.parametrize("name", FAMILIES)
def test_graph_equals_the_predictor(name, tmp_path):
    import onnxruntime

    folder = make_checkpoint(tmp_path / "checkpoint", make_family(name))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    pictures = [make_picture(*size) for size in ((40, 40), (61, 300), (333, 201))]
    export = export_onnx(folder, pictures=pictures)
    assert export.probability_difference <= 1e-5
    assert (export.no_heatmap is None) == (name != "nonlinear head")
    assert sorted(export.files) == sorted((folder / "onnx").glob("*.onnx"))
    predictor = StudyPredictor.from_pretrained(folder)
    text = json.loads((folder / "onnx" / "study.json").read_text())
    assert text["weights_sha256"] == predictor.weights_sha256
    assert text["license"] == "apache-2.0"
    studies = text.get("graphs", {"model": text})
    assert studies.keys() == {file.stem for file in export.files}
    if name == "mura_specialized":
        assert studies.keys() == {"wrist", "router"}

    for file in export.files:
        session = onnxruntime.InferenceSession(file)
        names = [output.name for output in session.get_outputs()]
        found = [dict(zip(names, session.run(None, {"image": picture}), strict=True)) for picture in pictures]
        if file.stem == "router":
            with torch.no_grad():
                pixel_values = predictor.pixel_values([read_view(one, "", predictor.processor) for one in pictures])
                expected = predictor.model.router.classify_views(pixel_values).body_part_logits
            np.testing.assert_allclose(np.stack([one["body_part_logits"] for one in found]), expected, atol=1e-4)
            continue
        study = studies[file.stem]
        prediction = predictor(pictures, body_part=file.stem if name == "mura_specialized" else None)
        logits, scores = ([one.get(key) for one in found] for key in ("member_logits", "attention_scores"))
        probability = study_probability(study, np.stack(logits), None if scores[0] is None else np.stack(scores))
        assert probability == pytest.approx(prediction.probability, abs=1e-5)
        if name != "mura_specialized":
            np.testing.assert_allclose(np.stack([one["code"] for one in found]), prediction.codes, atol=1e-4)
        for one, view in zip(found, prediction.views, strict=True):
            if export.no_heatmap is None:
                np.testing.assert_allclose(one["heatmap"], view.heatmap, atol=1e-3)
        for head, given in (
            ("body_part_logits", "body_part_probabilities"),
            ("region_logits", "region_probabilities"),
        ):
            expected = list(getattr(prediction, given).values())
            assert (head in found[0]) == bool(expected) or name == "mura_specialized"
            if expected and head in found[0]:
                values = np.exp(np.stack([one[head] for one in found]).astype(float))
                np.testing.assert_allclose((values / values.sum(1, keepdims=True)).mean(0), expected, atol=1e-5)
        assert study["labels"] == ["normal", "abnormal"]
        metadata = session.get_modelmeta().custom_metadata_map
        assert json.loads(metadata["operating_points"]) == study["operating_points"] == {"paper": 0.5}


@needs_onnx
def test_a_graph_that_differs_is_not_written(tmp_path, monkeypatch):
    from onnx import TensorProto, helper

    values = {"probability": np.float32(0.5), "logits": np.zeros(2, np.float32)}
    tensors = [helper.make_tensor(name, TensorProto.FLOAT, one.shape, one.ravel()) for name, one in values.items()]
    nodes = [helper.make_node("Constant", [], [one.name], value=one) for one in tensors]
    outputs = [helper.make_tensor_value_info(one.name, TensorProto.FLOAT, list(one.dims)) for one in tensors]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["height", "width"])
    opset = helper.make_opsetid("", 18)
    graph = helper.make_model(
        helper.make_graph(nodes, "constant", [image], outputs), opset_imports=[opset], ir_version=10
    )
    monkeypatch.setattr(onnx_export, "to_onnx", lambda *given: graph)
    checkpoint = make_checkpoint(tmp_path / "checkpoint", make_model(head_layers=[8]))
    old = tmp_path / "exported" / "onnx" / "model.onnx"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"old")
    with pytest.raises(CheckpointError, match="differs from PyTorch"):
        export_onnx(checkpoint, tmp_path / "exported", [make_picture(50, 60)])
    assert old.read_bytes() == b"old"
    assert [path.name for path in (tmp_path / "exported").iterdir()] == ["onnx"]


@needs_onnx
@pytest.mark.parametrize(
    ("family", "fields", "reason"),
    [
        ("mura_fusenet", {"head_layers": [8]}, "FuseNet with a nonlinear head"),
        ("mura", {"head_layers": [8], "study_pooling": "gated_attention"}, "nonlinear head"),
    ],
)
def test_models_that_cannot_be_exported_are_refused(family, fields, reason, tmp_path):
    folder = make_checkpoint(tmp_path / "checkpoint", make_model(family, **fields))
    with pytest.raises(CheckpointError, match=reason):
        export_onnx(folder, pictures=[make_picture(50, 60)])
    assert not (folder / "onnx").exists()


def test_the_command_says_what_it_wrote_and_cannot_shrink_graphs_of_body_parts(tmp_path, monkeypatch, capsys):
    main = runpy.run_path("scripts/export_onnx.py")["main"]
    (tmp_path / "wrist.onnx").write_bytes(b"graph")
    export = OnnxExport([tmp_path / "wrist.onnx"], 3, 1e-6, 2e-5, None, 0, "its head is not linear")
    monkeypatch.setitem(main.__globals__, "export_onnx", lambda *given: export)
    with pytest.raises(CheckpointError, match="leave out --data_dir"):
        main(["checkpoint", "--data_dir", "data"])
    shown = capsys.readouterr().out
    assert "Largest differences from PyTorch on 3 pictures: probability 1e-06, logit 2e-05\n" in shown
    assert "The graph has no heatmap: its head is not linear." in shown


def test_only_the_graph_of_the_same_weights_is_exported_and_pushed(pushable, tmp_path):
    place = pushable / "onnx"
    place.mkdir()
    with pytest.raises(CheckpointError, match="onnx is incomplete"):
        check_checkpoint(pushable)
    (place / "model.onnx").write_bytes(b"graph")
    (place / "study.json").write_text(json.dumps({"weights_sha256": digest_weights(pushable)}))
    check_checkpoint(pushable)
    copied = export_checkpoint(pushable, tmp_path / "copy") / "onnx"
    assert sorted(file.name for file in copied.iterdir()) == ["model.onnx", "study.json"]
    (place / "film.png").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"film\.png does not belong"):
        check_checkpoint(pushable)
    (place / "study.json").write_text(json.dumps({"weights_sha256": "0" * 64}))
    with pytest.raises(CheckpointError, match="other weights"):
        export_checkpoint(pushable, tmp_path / "other")
