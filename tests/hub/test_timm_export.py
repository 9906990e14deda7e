import json
import shutil

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, TimmWrapperForImageClassification

from mura_hf import CheckpointError, MuraForImageClassification, MuraImageProcessor, StudyPredictor
from mura_hf.common import BUNDLED
from mura_hf.hub import export_timm, timm_export
from mura_hf.hub.export import export_checkpoint, timm_files
from mura_hf.hub.push_checks import check_checkpoint
from tests.checkpoints import SIDE, make_model
from tests.hub.conftest import assert_refused, changed, hub_environment

ALONE = """
import json, re, sys
sys.modules["mura_hf"] = None  # any import of the package raises from here on
import timm, torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

folder, file = sys.argv[1:]
image = Image.open(file).convert("RGB")
model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=False).eval()
processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
plain = timm.create_model("hf_hub:tester/plain", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(plain))
with torch.inference_mode():
    logits = [model(**processor(image, return_tensors="pt")).logits, plain(transform(image)[None])]
found = {"class": type(model).__name__, "labels": model.config.id2label, "logits": [one.tolist() for one in logits]}
print(json.dumps(found))
card = open(folder + "/README.md").read()
code = re.findall("```python\\n(.*?)```", card, re.DOTALL)
exec("\\n".join(code).replace("path/to/this/folder", folder).replace("frontal.png", file).replace("lateral.png", file))
"""
"""Loads an export from its folder and from the Hub, and runs the examples of its card on two copies of a view."""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return export_timm(BUNDLED["mura-phantom"], tmp_path_factory.mktemp("timm") / "plain").folder


def test_an_export_loads_where_the_package_cannot_be_imported(forks, hub, api, exported, phantom_files, tmp_path):
    api.create_repo("tester/plain")
    api.upload_folder(repo_id="tester/plain", folder_path=exported)
    environment = hub_environment(hub.url, tmp_path / "home", OMP_NUM_THREADS="1")
    done = forks.run("-c", ALONE, exported, phantom_files[0], env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    record, probability = done.stdout.splitlines()[-2:]
    found = json.loads(record)
    assert found["class"] == "TimmWrapperForImageClassification"
    assert found["labels"] == {"0": "normal", "1": "abnormal"}
    # The mean gray level instead of black around the view.
    processor = AutoImageProcessor.from_pretrained(exported)
    pixel_values = processor(Image.open(phantom_files[0]).convert("RGB"))["pixel_values"]
    with torch.inference_mode():
        expected = MuraForImageClassification.from_pretrained(BUNDLED["mura-phantom"]).eval()(pixel_values).logits
    for logits in found["logits"]:
        np.testing.assert_allclose(logits, expected, atol=1e-4)
    study = StudyPredictor.from_pretrained("mura-phantom")([phantom_files[0]] * 2, heatmaps=False)
    assert float(probability.rpartition(" ")[2]) == pytest.approx(study.probability, abs=1e-5)


CONVNEXT = {"backbone": "convnext_atto", "backbone_kwargs": {"depths": [1] * 4, "dims": [8, 16, 24, 32]}}
VIT = {"backbone": "vit_tiny_patch16_224", "backbone_kwargs": {"depth": 1, "embed_dim": 24, "num_heads": 3}}


@pytest.mark.parametrize(
    ("fields", "settings"),
    [
        ({"temperature": 2.0, "num_channels": 1, "study_pooling": "max"}, {"image_mean": [0.4], "image_std": [0.2]}),
        ({"id2label": {0: "intact", 1: "<b>fracture"}, **CONVNEXT}, {"resize_mode": "squash", "do_rescale": False}),
        ({"body_part_head": True, **VIT}, {"resample": Image.Resampling.BICUBIC, "do_normalize": False}),
        ({}, {"resize_mode": "squash", "size": {"height": 80, "width": 72},
              "do_center_crop": True, "crop_size": {"height": 70, "width": 63}}),
    ],
)  # fmt: skip
def test_logits_of_the_views_are_those_of_the_checkpoint(tmp_path, fields, settings):
    model, processor = (
        make_model(**fields),
        MuraImageProcessor(**{"size": {"height": SIDE, "width": SIDE}, **settings}),
    )
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    film = Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 108), dtype=np.uint8))
    if settings.get("resize_mode") != "squash":
        film = film.crop((0, 0, 100, 100))  # a square needs no bars
    done = export_timm(tmp_path)
    assert done.folder == tmp_path / "timm"
    assert done.logit_difference < 1e-4
    plain = AutoModelForImageClassification.from_pretrained(done.folder, trust_remote_code=False).eval()
    network = timm.create_model(f"local-dir:{done.folder}", pretrained=True).eval()
    assert type(plain) is TimmWrapperForImageClassification
    assert plain.config.id2label == model.config.id2label
    assert "<b>" not in (done.folder / "README.md").read_text()
    pixel_values = AutoImageProcessor.from_pretrained(done.folder)(film.convert("RGB"))["pixel_values"]
    with torch.inference_mode():
        expected = model(processor([film], return_tensors="pt")["pixel_values"]).logits
        torch.testing.assert_close(plain(pixel_values).logits, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(network(pixel_values), expected, atol=1e-4, rtol=1e-4)
    study = StudyPredictor.from_pretrained(done.folder, abnormal_label=model.config.id2label[1])(film)
    assert study.probability == pytest.approx(float(expected.softmax(-1)[0, 1]), abs=1e-4)


@pytest.mark.parametrize(
    ("family", "fields", "settings", "message"),
    [
        ("mura_ensemble", {}, {}, "it is of type mura_ensemble"),
        ("mura_metric_learning", {}, {}, "it is of type mura_metric_learning"),
        ("mura_fusenet", {}, {}, "it is of type mura_fusenet"),
        ("mura", {"head_layers": [8]}, {}, "2 layers"),
        ("mura", {"map_pooling": "attention"}, {}, "feature map by attention"),
        ("mura", {"study_pooling": "gated_attention"}, {}, "views by attention"),
        ("mura", {"test_time_flip": True}, {}, "test_time_flip"),
        ("mura", {"regions": ["hand", "leg"], "has_ood_detector": True}, {}, "head for regions"),
        ("mura", {"backbone": "cnn2", "backbone_kwargs": None}, {}, "cnn2 is one of this package"),
        ("mura", {}, {"enhance": [{"name": "clahe"}]}, "enhance"),
        ("mura", {}, {"do_center_crop": True, "crop_size": {"height": 61, "width": 50}}, "center crop"),
        ("mura", {"backbone": "deit_tiny_distilled_patch16_224", "backbone_kwargs": {"depth": 1}}, {}, "linear layer"),
    ],
)
def test_what_timm_cannot_express_is_refused(tmp_path, family, fields, settings, message):
    make_model(family, **fields).save_pretrained(tmp_path)
    MuraImageProcessor(**{"size": {"height": SIDE, "width": SIDE}, **settings}).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=message) as refused:
        export_timm(tmp_path, tmp_path / "out" / "timm")
    assert "Use scripts/export_checkpoint.py" in str(refused.value)
    assert not (tmp_path / "out" / "timm").exists()


def test_studies_are_compared_and_the_card_says_what_was_lost(tmp_path):
    random = np.random.default_rng(0)
    studies = [([random.integers(0, 256, (90, 40 + row), dtype=np.uint8)] * 2, row % 2) for row in range(4)]
    with pytest.raises(ValueError, match="both labels"):
        export_timm("mura-phantom", tmp_path, studies[:1])
    found = export_timm("mura-phantom", tmp_path, studies).comparison
    assert (found.studies, found.auroc_padded) == (4, found.auroc_before)
    assert found.largest_change_padded < 1e-4 < found.largest_change
    card = (tmp_path / "README.md").read_text()
    for words in ("license: apache-2.0\n", "synthetic images only", "gray level", "4 held-out studies", "detector",
                  "sensitivity_95 0.0551", "Not a medical device", "Weights: apache-2.0"):  # fmt: skip
        assert words in card
    (tmp_path / "notes.txt").touch()
    with pytest.raises(CheckpointError, match="choose a new folder"):
        export_timm("mura-phantom", tmp_path)


def test_nothing_is_replaced_if_the_export_fails(exported, tmp_path, monkeypatch):
    folder = shutil.copytree(exported, tmp_path / "plain")
    with monkeypatch.context() as patch:
        patch.setattr(timm_export, "put_file", lambda *given: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            export_timm("mura-phantom", folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
        file.name: file.read_bytes() for file in exported.iterdir()
    }
    assert [file.name for file in tmp_path.iterdir()] == ["plain"]
    export_timm("mura-phantom", folder)


def test_an_export_beside_a_checkpoint_goes_with_it(pushable, exported, tmp_path):
    shutil.copytree(exported, pushable / "timm")
    check_checkpoint(pushable)
    copy = export_checkpoint(pushable, tmp_path / "copy")
    assert [file.name for file in timm_files(copy)] == ["config.json", "model.safetensors", "README.md"]
    with changed(pushable / "timm" / "notes.txt", b"text"):
        assert_refused(pushable, r"notes\.txt does not belong to an export")
    with changed(pushable / "timm" / "README.md", b"patient00001"):
        assert_refused(pushable, "names a patient")
    with changed(pushable / "timm" / "model.safetensors"):
        assert_refused(pushable, "timm is incomplete .* run scripts/export_timm.py again")
    settings = json.loads((pushable / "timm" / "config.json").read_text())
    with changed(pushable / "timm" / "config.json", json.dumps({**settings, "weights_sha256": "0"}).encode()):
        assert_refused(pushable, "belongs to other weights")
