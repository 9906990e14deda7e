import copy
import functools
import json
import re

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from mura_hf import CheckpointError, MuraForImageClassification, MuraImageProcessor, StudyPredictor, read_radiograph
from mura_hf.hub import convert_checkpoint

SIDE = 64


@functools.lru_cache(2)
def _network(name="resnet18", outputs=2):
    """A network of torchvision with random weights, whose norms do something. It is shared: copy it to change it."""
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(weights=None, num_classes=outputs).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.num_batches_tracked.fill_(7)
    return model


def _check(network, folder, side=SIDE, channels=3, turn=False):
    """The checkpoint's logits are those of the network, on the same pixel values."""
    pixels = torch.randn(3, channels, side, side, generator=torch.Generator().manual_seed(1))
    model = MuraForImageClassification.from_pretrained(folder)
    with torch.no_grad():
        expected = network(pixels)
        found = model(pixels).logits
    expected = expected.flip(1) if turn else expected
    assert expected.std(0).min() > 1e-6
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * max(1.0, scale))
    return model


@pytest.fixture(scope="module")
def resnet():
    return _network()


@pytest.fixture
def file(resnet, tmp_path):
    torch.save(resnet.state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


CHOSEN = {"architecture": "resnet18", "abnormal_index": 1, "image_size": SIDE}


@pytest.mark.parametrize(
    ("theirs", "timms", "side"),
    [
        ("densenet121", "densenet121", SIDE),
        ("resnet18", "resnet18", SIDE),
        ("vgg11_bn", "vgg11_bn", 224),
        ("convnext_tiny", "convnext_tiny", SIDE),
        ("regnet_y_400mf", "regnety_004", SIDE),
    ],
)
def test_torchvisions_networks_answer_as_they_did(tmp_path, theirs, timms, side):
    network = _network(theirs)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    done = convert_checkpoint(
        tmp_path / "weights.pth", tmp_path / "out", architecture=timms, abnormal_index=1, image_size=side
    )
    _check(network, tmp_path / "out", side)
    assert [key.source for key in done.keys] == list(network.state_dict())
    assert done.left_out == []
    counters = [key for key in done.keys if key.source.endswith("num_batches_tracked")]
    assert all(key.target.endswith("num_batches_tracked") for key in counters)
    heads = {key.target: key.note for key in done.keys if key.target.startswith("classifier.")}
    assert heads == {"classifier.weight": "the head", "classifier.bias": "the head"}


def test_timms_own_networks_too(tmp_path):
    torch.manual_seed(0)
    network = timm.create_model("efficientnet_lite0", num_classes=2).eval()
    network.classifier.weight.data.normal_()
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    convert_checkpoint(
        tmp_path / "weights.safetensors", tmp_path / "out",
        architecture="efficientnet_lite0", abnormal_index=1, image_size=SIDE,
    )  # fmt: skip
    _check(network, tmp_path / "out")


def _old_names(weights):
    """As torchvision wrote DenseNets before 2018: features.denseblock1.denselayer1.norm.1.weight."""
    return {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", name): value for name, value in weights.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: {"state_dict": weights, "epoch": 3, "best": 0.8},
        lambda weights: {"model": {"state_dict": weights}, "optimizer": {"state": {}}},
        lambda weights: {"model_state_dict": weights},
        lambda weights: {"net": {f"module.{name}": value for name, value in weights.items()}},
        lambda weights: {f"module.model.{name}": value for name, value in weights.items()},
        lambda weights: {f"module.densenet121.{name}": value for name, value in weights.items()},
        lambda weights: {f"features_extractor.{name}": value for name, value in weights.items()},
        lambda weights: {
            name if name.startswith("classifier") else f"backbone.{name}": value for name, value in weights.items()
        },
        lambda weights: {name.replace("classifier.", "classifier.0."): value for name, value in weights.items()},
        lambda weights: {name.replace("classifier.", "fc.1."): value for name, value in weights.items()},
        _old_names,
        lambda weights: {name: value.half() for name, value in weights.items()},
    ],
    ids=[
        "state_dict", "nested", "model_state_dict", "net, module", "module.model", "module.densenet121",
        "features_extractor", "backbone, head beside", "classifier.0", "fc.1", "old names", "half",
    ],
)  # fmt: skip
def test_wrapped_and_prefixed(tmp_path, wrap, request):
    network = _network("densenet121")
    if "half" in request.node.name:
        network = copy.deepcopy(network).half().float()
    wrapped = wrap(network.state_dict())
    torch.save(wrapped, tmp_path / "weights.pth")
    done = convert_checkpoint(
        tmp_path / "weights.pth", tmp_path / "out", architecture="densenet121", abnormal_index=1, image_size=SIDE
    )
    assert _check(network, tmp_path / "out").dtype == torch.float32
    assert {key.source for key in done.left_out} == {
        name for name in wrapped if name in ("epoch", "best", "optimizer")
    }
    assert sum(key.target is not None for key in done.keys) == len(network.state_dict())


def test_one_logit_gives_the_probability_that_its_sigmoid_was(tmp_path, phantom_files):
    network = _network("densenet121", outputs=1)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    convert_checkpoint(
        tmp_path / "weights.pth", tmp_path / "out", architecture="densenet121", single_logit=True, image_size=SIDE
    )
    predictor = StudyPredictor.from_pretrained(tmp_path / "out", device="cpu")
    study = predictor(phantom_files)
    inputs = MuraImageProcessor.from_pretrained(tmp_path / "out")(
        [read_radiograph(file).to_image() for file in phantom_files], return_tensors="pt"
    )
    with torch.no_grad():
        expected = torch.sigmoid(network(inputs["pixel_values"]))[:, 0].numpy()
    assert np.ptp(expected) > 1e-5
    np.testing.assert_allclose([view.probability for view in study.views], expected, atol=1e-6)


def test_the_index_of_the_abnormal_class(resnet, file, tmp_path):
    done = convert_checkpoint(file, tmp_path / "out", **{**CHOSEN, "abnormal_index": 0})
    _check(resnet, tmp_path / "out", turn=True)
    assert all("rows swapped" in key.note for key in done.keys if key.target.startswith("classifier."))


def test_gray_networks_and_settings_of_the_pictures(tmp_path):
    network = copy.deepcopy(_network())
    network.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    convert_checkpoint(
        tmp_path / "weights.pth", tmp_path / "out", **CHOSEN,
        resize_mode="letterbox", image_mean=[0.2], image_std=[0.3],
    )  # fmt: skip
    _check(network, tmp_path / "out", channels=1)
    processor = MuraImageProcessor.from_pretrained(tmp_path / "out")
    assert (processor.resize_mode, processor.image_mean, processor.image_std) == ("letterbox", (0.2,), (0.3,))
    assert processor.output_size == (SIDE, SIDE)
    with pytest.raises(CheckpointError, match=r"image_mean has 3 values.*1 channels"):
        convert_checkpoint(tmp_path / "weights.pth", tmp_path / "other", **CHOSEN, image_mean=[0.5] * 3)


def test_counters_that_old_files_lack_are_said(resnet, tmp_path):
    weights = {name: value for name, value in resnet.state_dict().items() if "tracked" not in name}
    torch.save(weights, tmp_path / "weights.pth")
    done = convert_checkpoint(tmp_path / "weights.pth", tmp_path / "out", **CHOSEN)
    _check(resnet, tmp_path / "out")
    added = [key for key in done.keys if key.source is None]
    assert len(added) == 20
    assert all("counts training steps only" in key.note for key in added)
    assert "20  (num_batches_tracked, not in the file) -> 0" in done.describe()


def test_a_new_head(tmp_path):
    network = _network(outputs=1000)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"1000 outputs.*new_head"):
        convert_checkpoint(tmp_path / "weights.pth", tmp_path / "out", **CHOSEN)
    assert not (tmp_path / "out").exists()
    options = {"architecture": "resnet18", "image_size": SIDE, "new_head": True}
    done = convert_checkpoint(tmp_path / "weights.pth", tmp_path / "out", **options)
    assert [key.source for key in done.left_out] == ["fc.weight", "fc.bias"]
    model = MuraForImageClassification.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(model.mura.backbone.conv1.weight, network.conv1.weight)
    convert_checkpoint(tmp_path / "weights.pth", tmp_path / "again", **options)
    again = MuraForImageClassification.from_pretrained(tmp_path / "again")
    assert torch.equal(model.classifier.weight, again.classifier.weight)


def test_what_is_no_part_of_the_network_is_left_out_when_asked(resnet, tmp_path):
    weights = {**resnet.state_dict(), "criterion.weight": torch.ones(2), "AuxLogits.fc.bias": torch.ones(2)}
    torch.save(weights, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"unknown to the architecture: criterion\.weight;.*leave_out"):
        convert_checkpoint(tmp_path / "weights.pth", tmp_path / "out", **CHOSEN)
    done = convert_checkpoint(tmp_path / "weights.pth", tmp_path / "out", **CHOSEN, leave_out=["criterion."])
    assert {key.source: key.note for key in done.left_out} == {
        "criterion.weight": "left out as you asked",
        "AuxLogits.fc.bias": "an auxiliary head, which is used in training only",
    }
    assert "criterion.weight -> left out: left out as you asked" in done.describe()


def test_the_report_is_complete(file, tmp_path):
    done = convert_checkpoint(file, tmp_path / "out", **CHOSEN)
    keys = json.loads(json.dumps(done.to_dict()))["keys"]
    assert {"source": "layer1.0.bn1.weight", "target": "mura.backbone.layer1.0.bn1.weight", "note": ""} in keys
    counted = sum(int(line.split()[0]) for line in done.describe().splitlines())
    assert counted == len(done.keys) == 122


class TestRefusals:
    @pytest.mark.parametrize("outputs", [1, 2])
    def test_what_an_output_means_is_asked(self, tmp_path, outputs):
        torch.save(_network(outputs=outputs).state_dict(), tmp_path / "weights.pth")
        question = "is P(abnormal) its sigmoid?" if outputs == 1 else "which of them means abnormal?"
        with pytest.raises(CheckpointError, match=re.escape(question)):
            convert_checkpoint(tmp_path / "weights.pth", tmp_path / "out", architecture="resnet18")
        wrong = {"single_logit": True} if outputs == 2 else {"abnormal_index": 1}
        with pytest.raises(CheckpointError, match="the head has"):
            convert_checkpoint(tmp_path / "weights.pth", tmp_path / "out", architecture="resnet18", **wrong)

    def test_pickled_objects_are_refused_and_not_run(self, resnet, tmp_path):
        ran = tmp_path / "ran"
        torch.save({"state_dict": resnet.state_dict(), "extra": _Runs(ran)}, tmp_path / "weights.pth")
        with pytest.raises(
            CheckpointError, match=r"weights\.pth holds pickled objects.*nothing was run.*state_dict\(\)"
        ):
            convert_checkpoint(tmp_path / "weights.pth", tmp_path / "out", **CHOSEN)
        assert not ran.exists()
        torch.load(tmp_path / "weights.pth", weights_only=False)["extra"].close()
        assert ran.exists()  # it would have run

    def test_a_whole_model(self, resnet, tmp_path):
        torch.save(resnet, tmp_path / "weights.pth")
        with pytest.raises(CheckpointError, match=r"pickled objects \(torchvision\.models\.resnet\.ResNet\)"):
            convert_checkpoint(tmp_path / "weights.pth", tmp_path / "out", **CHOSEN)

    def test_a_missing_weight_is_named(self, resnet, tmp_path):
        weights = resnet.state_dict()
        del weights["layer3.0.conv2.weight"]
        torch.save(weights, tmp_path / "weights.pth")
        with pytest.raises(CheckpointError, match=r"lacks layer3\.0\.conv2\.weight of resnet18"):
            convert_checkpoint(tmp_path / "weights.pth", tmp_path / "out", **CHOSEN)

    @pytest.mark.parametrize(
        ("changed", "words"),
        [
            ({"architecture": "densenet121"}, r"lacks features\.conv0\.weight.*and has conv1\.weight.*instead"),
            ({"architecture": "resnet34"}, r"lacks layer1\.2\.conv1\.weight"),
            ({"architecture": "no_such_network"}, "has no architecture 'no_such_network'"),
            ({"abnormal_index": 2}, "abnormal_index is 2"),
            ({"single_logit": True}, "only one of"),
        ],
    )
    def test_settings_that_do_not_fit(self, file, tmp_path, changed, words):
        with pytest.raises(CheckpointError, match=words):
            convert_checkpoint(file, tmp_path / "out", **{**CHOSEN, **changed})
        assert not (tmp_path / "out").exists()

    def test_a_wider_network(self, tmp_path):
        torch.save(_network("wide_resnet50_2").state_dict(), tmp_path / "weights.pth")
        with pytest.raises(CheckpointError, match=r"layer1\.0\.conv1\.weight \[128, 64, 1, 1\] instead of"):
            convert_checkpoint(tmp_path / "weights.pth", tmp_path / "out", **{**CHOSEN, "architecture": "resnet50"})

    def test_a_head_of_several_layers(self, resnet, tmp_path):
        weights = {name: value for name, value in resnet.state_dict().items() if not name.startswith("fc")}
        layers = nn.Sequential(nn.Linear(512, 8), nn.ReLU(), nn.Linear(8, 2))
        weights |= {f"fc.{name}": value for name, value in layers.state_dict().items()}
        torch.save(weights, tmp_path / "weights.pth")
        with pytest.raises(CheckpointError, match=r"several layers \(fc\.0, fc\.2\)"):
            convert_checkpoint(tmp_path / "weights.pth", tmp_path / "out", **CHOSEN)

    def test_two_networks_in_one_file(self, resnet, tmp_path):
        weights = resnet.state_dict()
        torch.save({**weights, **{f"module.{name}": value for name, value in weights.items()}}, tmp_path / "w.pth")
        with pytest.raises(CheckpointError, match="several networks"):
            convert_checkpoint(tmp_path / "w.pth", tmp_path / "out", **CHOSEN)

    def test_a_vgg_of_a_size_at_which_timm_answers_otherwise(self, tmp_path):
        torch.save(_network("vgg11").state_dict(), tmp_path / "weights.pth")
        with pytest.raises(CheckpointError, match="pools to 7 x 7"):
            convert_checkpoint(tmp_path / "weights.pth", tmp_path / "out", **{**CHOSEN, "architecture": "vgg11"})

    @pytest.mark.parametrize("name", ["text.pth", "text.safetensors", "empty.pth", "list.pth", "nothing.pth"])
    def test_files_without_weights(self, tmp_path, name):
        if name.startswith("text"):
            (tmp_path / name).write_text("Dear colleague, please find the weights enclosed")
        elif name != "nothing.pth":
            torch.save({} if name == "empty.pth" else [torch.ones(3)], tmp_path / name)
        with pytest.raises(CheckpointError, match=name):
            convert_checkpoint(tmp_path / name, tmp_path / "out", **CHOSEN)

    def test_a_folder_that_is_not_empty(self, file, tmp_path):
        with pytest.raises(CheckpointError, match="is not empty"):
            convert_checkpoint(file, tmp_path, **CHOSEN)


class _Runs:
    """Pickled, it leaves a file behind when it is read with its code."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return open, (str(self.file), "w")
