import argparse
import copy
import functools
import re

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from mura_hf import CheckpointError, MuraForImageClassification, MuraImageProcessor
from mura_hf.hub import convert_checkpoint
from tests.checkpoints import LeavesFile, randomize_norms

SIDE = 64
CHOSEN = {"architecture": "resnet18", "abnormal_index": 1, "image_size": SIDE}


@functools.lru_cache(2)
def network_of(name="resnet18", outputs=2):
    """A network of torchvision with random weights and statistics. It is shared: copy it to change it."""
    torch.manual_seed(0)
    return randomize_norms(getattr(torchvision.models, name)(weights=None, num_classes=outputs).eval())


def check(network, folder, side=SIDE, channels=3, swapped=False):
    """The checkpoint's logits equal those of the network for the same pixel values."""
    pixels = torch.randn(3, channels, side, side, generator=torch.Generator().manual_seed(1))
    model = MuraForImageClassification.from_pretrained(folder)
    with torch.no_grad():
        expected, found = network(pixels), model(pixels).logits
    expected = expected.flip(1) if swapped else expected
    assert expected.std(0).min() > 1e-6
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * max(1.0, float(expected.abs().max())))
    return model


@pytest.fixture
def convert(tmp_path):
    """Saves weights and converts them."""

    def convert(weights, out="out", **options):
        torch.save(weights, tmp_path / "weights.pth")
        return convert_checkpoint(tmp_path / "weights.pth", tmp_path / out, **{**CHOSEN, **options})

    return convert


@pytest.fixture(scope="module")
def weights():
    return network_of().state_dict()


@pytest.mark.parametrize(
    ("theirs", "timms"),
    [
        ("densenet121", "densenet121"),
        ("resnet18", "resnet18"),
        ("convnext_tiny", "convnext_tiny"),
        ("regnet_y_400mf", "regnety_004"),
    ],
)
def test_networks_of_torchvision_keep_their_predictions(convert, tmp_path, theirs, timms):
    network = network_of(theirs)
    assert convert(network.state_dict(), architecture=timms, image_size=SIDE) == (tmp_path / "out", [])
    check(network, tmp_path / "out", SIDE)


def test_networks_of_timm_too(tmp_path):
    torch.manual_seed(0)
    options = {**CHOSEN, "architecture": "efficientnet_lite0"}
    network = timm.create_model(options["architecture"], num_classes=2).eval()
    network.classifier.weight.data.normal_()
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    convert_checkpoint(tmp_path / "weights.safetensors", tmp_path / "out", **options)
    check(network, tmp_path / "out")


def renamed(pattern, replacement):
    return lambda weights: {re.sub(pattern, replacement, name): value for name, value in weights.items()}


@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        ("resnet18", lambda weights: {"state_dict": weights, "epoch": 3, "best": 0.8}),
        ("resnet18", lambda weights: {"model": {"state_dict": weights}, "optimizer": {"state": {}}}),
        ("resnet18", lambda weights: {"model_state_dict": renamed("^", "module.")(weights)}),
        ("resnet18", lambda weights: {"net": weights, "model": "resnet18", "args": argparse.Namespace(lr=0.1)}),
        ("resnet18", renamed("^", "module.resnet18.")),
        ("resnet18", renamed("^(?!fc)", "backbone.")),
        ("resnet18", renamed(r"^fc\.", "fc.1.")),
        ("resnet18", lambda weights: {name: value.half() for name, value in weights.items()}),
        ("densenet121", renamed(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2")),  # torchvision before 2018
    ],
)
def test_wrapped_prefixed_and_half(convert, tmp_path, name, wrap):
    network = network_of(name)
    wrapped = wrap(network.state_dict())
    if any(value.dtype == torch.float16 for value in wrapped.values() if isinstance(value, torch.Tensor)):
        network = copy.deepcopy(network).half().float()
    assert convert(wrapped, architecture=name).left_out == []
    assert check(network, tmp_path / "out").dtype == torch.float32


def test_one_logit_becomes_two_and_the_abnormal_class_may_come_first(convert, weights, tmp_path):
    network = network_of(outputs=1)
    convert(network.state_dict(), single_logit=True, abnormal_index=None)
    model = MuraForImageClassification.from_pretrained(tmp_path / "out")
    pixels = torch.randn(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = torch.sigmoid(network(pixels))[:, 0], model(pixels).logits.softmax(-1)[:, 1]
    assert expected.std() > 1e-5
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)

    convert(weights, "swapped", abnormal_index=0)
    check(network_of(), tmp_path / "swapped", swapped=True)


def test_gray_networks_and_settings_of_the_processor(convert, tmp_path):
    network = copy.deepcopy(network_of())
    network.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    convert(network.state_dict(), resize_mode="letterbox", image_mean=[0.2], image_std=[0.3])
    check(network, tmp_path / "out", channels=1)
    processor = MuraImageProcessor.from_pretrained(tmp_path / "out")
    assert (processor.resize_mode, processor.image_mean, processor.image_std) == ("letterbox", (0.2,), (0.3,))
    assert processor.output_size == (SIDE, SIDE)
    with pytest.raises(CheckpointError, match=r"image_mean has 3 values.*1 channels"):
        convert(network.state_dict(), "other", image_mean=[0.5] * 3)


def test_counters_of_training_steps_may_be_missing(convert, weights, tmp_path):
    convert({name: value for name, value in weights.items() if "tracked" not in name})
    check(network_of(), tmp_path / "out")


def test_a_new_head(convert, tmp_path):
    network = network_of(outputs=1000)
    with pytest.raises(CheckpointError, match=r"1000 outputs.*new_head"):
        convert(network.state_dict())
    assert not (tmp_path / "out").exists()
    heads = []
    for out in ("out", "again"):
        done = convert(network.state_dict(), out, abnormal_index=None, new_head=True)
        model = MuraForImageClassification.from_pretrained(tmp_path / out)
        heads.append(model.classifier.weight)
    assert done.left_out == ["fc.weight", "fc.bias"]
    torch.testing.assert_close(model.mura.backbone.conv1.weight, network.conv1.weight)
    assert torch.equal(*heads)


@pytest.mark.parametrize(
    ("prefix", "leave_out"), [("", "criterion."), ("module.", "criterion."), ("module.resnet18.", "module.")]
)
def test_weights_of_other_modules_are_left_out_on_request(convert, weights, prefix, leave_out):
    network = weights if leave_out == "module." else renamed("^", prefix)(weights)
    more = {**network, f"{prefix}criterion.weight": torch.ones(2), f"{prefix}AuxLogits.fc.bias": torch.ones(2)}
    with pytest.raises(CheckpointError, match=rf"unknown to the architecture: {prefix}criterion\.weight;.*leave_out"):
        convert(more)
    done = convert(more, leave_out=[leave_out])
    assert done.left_out == [f"{prefix}criterion.weight", f"{prefix}AuxLogits.fc.bias"]


def test_what_is_left_out_is_named_as_in_the_file(convert):
    weights = renamed("^", "net.")(network_of("convnext_tiny").state_dict())
    done = convert(weights, architecture="convnext_tiny", abnormal_index=None, new_head=True)
    assert done.left_out == ["net.classifier.2.weight", "net.classifier.2.bias"]


def test_weights_that_timm_drops_are_left_out_and_those_that_it_resizes_are_not(convert):
    network = timm.create_model("vit_tiny_patch16_224", num_classes=2).state_dict()
    weights = renamed("^", "module.")({**network, "pre_logits.fc.bias": torch.zeros(192)})
    assert convert(weights, architecture="vit_tiny_patch16_224").left_out == ["module.pre_logits.fc.bias"]


def test_pickled_objects_are_refused_and_not_run(convert, weights, tmp_path):
    ran = tmp_path / "ran"
    with pytest.raises(CheckpointError, match=r"weights\.pth holds pickled objects.*nothing was run.*state_dict\(\)"):
        convert({"state_dict": weights, "extra": LeavesFile(ran)})
    assert not ran.exists()
    torch.load(tmp_path / "weights.pth", weights_only=False)["extra"].close()
    assert ran.exists()  # it would have run
    with pytest.raises(CheckpointError, match=r"pickled objects \(torchvision\.models\.resnet\.ResNet\)"):
        convert(network_of())


@pytest.mark.parametrize(
    ("outputs", "options", "question"),
    [
        (1, {"abnormal_index": None}, "is P(abnormal) its sigmoid?"),
        (1, {"abnormal_index": 1}, "the head has one output"),
        (2, {"abnormal_index": None}, "which of them means abnormal?"),
        (2, {"abnormal_index": None, "single_logit": True}, "the head has two outputs"),
    ],
)
def test_the_meaning_of_an_output_must_be_given(convert, outputs, options, question):
    with pytest.raises(CheckpointError, match=re.escape(question)):
        convert(network_of(outputs=outputs).state_dict(), **options)


def with_two_layers(weights):
    body = {name: value for name, value in weights.items() if not name.startswith("fc")}
    return body | {f"fc.{layer}.{part}": torch.ones(2) for layer in (0, 2) for part in ("weight", "bias")}


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (renamed("^", "net."), {"architecture": "densenet121"},
         r"lacks features\.conv0\.weight.*and has net\.conv1\.weight.*instead"),
        (dict, {"architecture": "resnet34"}, r"lacks layer1\.2\.conv1\.weight"),
        (dict, {"architecture": "no_such_network"}, "no_such_network"),
        (dict, {"abnormal_index": 2}, "abnormal_index is 2"),
        (dict, {"single_logit": True}, "only one of"),
        (
            lambda weights: renamed("^", "net.")({**weights, "layer1.0.conv1.weight": torch.ones(128, 64, 1, 1)}), {},
            r"net\.layer1\.0\.conv1\.weight \[128, 64, 1, 1\] instead of",
        ),
        (  # timm's VGG predicts something else at this size
            lambda weights: {f"{name}.0.weight": torch.ones(2, 2) for name in ("features", "classifier")},
            {"architecture": "vgg11"}, "pools to 7 x 7",
        ),
        (lambda weights: {name: weights[name] for name in weights.keys() - {"layer3.0.conv2.weight"}}, {},
         r"lacks layer3\.0\.conv2\.weight of resnet18"),
        (with_two_layers, {}, r"several layers \(fc\.0, fc\.2\)"),
        (lambda weights: weights | renamed("^", "module.")(weights), {},
         r"several networks.* called bn1\.bias \(bn1\.bias, module\.bn1\.bias\)"),
        (lambda weights: {}, {}, r"weights\.pth holds no state dict"),
        (lambda weights: [torch.ones(3)], {}, r"weights\.pth holds no state dict"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(convert, weights, tmp_path, change, options, message):
    with pytest.raises(CheckpointError, match=message):
        convert(change(weights), **options)
    assert not (tmp_path / "out").exists()


def test_files_and_folders_that_cannot_be_used(convert, weights, tmp_path):
    for name in ("text.pth", "text.safetensors", "nothing.pth"):
        if name.startswith("text"):
            (tmp_path / name).write_text("Dear colleague, please find the weights enclosed")
        with pytest.raises(CheckpointError, match=name):
            convert_checkpoint(tmp_path / name, tmp_path / "out", **CHOSEN)
    with pytest.raises(CheckpointError, match="is not empty"):
        convert(weights, ".")
