import pytest
import torch
from torch import nn

from mura_hf import CheckpointError, MuraConfig, MuraForImageClassification
from mura_hf.models.backbone_mura import SMALL_CNNS, create_small_cnn


def _count(tensors):
    return sum(tensor.numel() for tensor in tensors)


@pytest.mark.parametrize(("outputs", "trainable"), [(1, 3_309_441), (2, 3_309_441 + 129)])
def test_wrist_cnn_counts_as_study_e_prints_it(outputs, trainable):
    cnn = create_small_cnn("wrist_cnn")
    whole = nn.Sequential(cnn, nn.Linear(cnn.head_hidden_size, outputs))
    statistics = _count(value for name, value in whole.named_buffers() if "running" in name)
    assert cnn.fc.in_features == 25_088
    assert _count(parameter for parameter in whole.parameters() if parameter.requires_grad) == trainable
    assert (statistics, trainable + statistics) == (480, 3_309_921 + 129 * (outputs - 1))


@pytest.mark.parametrize(("name", "convolutions", "weighted"), [("cnn2", 2, 4), ("cnn4", 4, 6), ("cnn15", 13, 15)])
def test_layers_are_those_of_study_c(name, convolutions, weighted):
    model = MuraForImageClassification(MuraConfig(backbone=name, image_size=32))
    kinds = [type(module) for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert kinds.count(nn.Conv2d) == convolutions
    assert len(kinds) == weighted
    norms = [module for module in model.mura.backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == (13 if name == "cnn15" else 0)


@pytest.mark.parametrize("name", SMALL_CNNS)
def test_shapes_are_those_of_a_timm_backbone(name):
    cnn = create_small_cnn(name, num_channels=1, image_size=70).eval()
    feature_map = cnn.forward_features(torch.randn(2, 1, 70, 70))
    side = 70 >> len(SMALL_CNNS[name].stages)
    assert feature_map.shape == (2, cnn.num_features, side, side)
    assert cnn.forward_head(feature_map, pre_logits=True).shape == (2, cnn.head_hidden_size)
    assert [info["num_chs"] for info in cnn.feature_info][-1] == cnn.num_features
    for info in cnn.feature_info:
        assert isinstance(cnn.get_submodule(info["module"]), nn.Sequential)


@pytest.mark.parametrize("name", SMALL_CNNS)
def test_what_is_saved_is_loaded(name, tmp_path):
    torch.manual_seed(0)
    model = MuraForImageClassification(MuraConfig(backbone=name, image_size=32)).eval()
    model.save_pretrained(tmp_path)
    again = MuraForImageClassification.from_pretrained(tmp_path)
    pixel_values = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        first, second = model(pixel_values).logits, again(pixel_values).logits
    assert torch.equal(first, second)
    assert first.std() > 0


@pytest.mark.parametrize("name", SMALL_CNNS)
def test_signals_keep_their_strength(name):
    torch.manual_seed(0)
    cnn = create_small_cnn(name, image_size=64).train()
    code = cnn(torch.randn(8, 3, 64, 64))
    assert 0.1 < code.std().item() < 10


@pytest.mark.parametrize("name", SMALL_CNNS)
def test_the_head_can_be_differentiated_by_the_map(name):
    torch.manual_seed(0)
    cnn = create_small_cnn(name, image_size=64).eval()
    feature_map = cnn.forward_features(torch.randn(1, 3, 64, 64)).detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(cnn.forward_head(feature_map, pre_logits=True).sum(), feature_map)
    # The head is linear but for its ReLU, so its active units' weights are the gradient.
    active = (cnn.fc(feature_map.flatten(1)) > 0).float()
    torch.testing.assert_close(gradient.flatten(1), active @ cnn.fc.weight)
    assert gradient.abs().max() > 0


def test_it_is_built_on_the_meta_device():
    with torch.device("meta"):
        cnn = create_small_cnn("cnn15", image_size=64)
    assert all(tensor.is_meta for tensor in cnn.state_dict().values())
    assert {name for name, _ in cnn.named_buffers()} <= set(cnn.state_dict())


def test_another_size_is_refused_in_words():
    cnn = create_small_cnn("wrist_cnn", image_size=64)
    with pytest.raises(CheckpointError, match=r"wrist_cnn was built for 64 x 64 px, but the input has 96 x 64"):
        cnn(torch.zeros(1, 3, 96, 64))
    with pytest.raises(CheckpointError, match=r"maps of 4 x 4, not 1 x 1"):
        cnn.forward_head(torch.zeros(1, 128, 1, 1))


@pytest.mark.parametrize(("name", "smallest"), [("cnn2", 4), ("cnn4", 16), ("cnn15", 32), ("wrist_cnn", 16)])
def test_sides_too_small_for_the_poolings_are_refused(name, smallest):
    create_small_cnn(name, image_size=smallest).train()(torch.randn(2, 3, smallest, smallest))
    with pytest.raises(CheckpointError, match=f"image_size is {smallest - 1}: {name} .* at least {smallest} px"):
        create_small_cnn(name, image_size=smallest - 1)


def test_dropout_is_set_where_there_is_some():
    rates = [m.p for m in create_small_cnn("wrist_cnn", options={"dropout": 0}).modules() if isinstance(m, nn.Dropout)]
    assert rates == [0.0] * 4
    assert create_small_cnn("cnn15", options={"dropout": 0.2}).dropout.p == 0.2


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("cnn2", {"dropout": 0.5}, "cnn2 has no option dropout; .* may hold nothing"),
        ("cnn4", {"output_stride": 16}, "cnn4 has no option output_stride; .* may hold dropout"),
        ("cnn4", {"dropout": 1}, r"dropout of cnn4 .* is 1; .* \[0, 1\)"),
        ("cnn4", {"dropout": True}, "is True"),
        ("cnn4", {"dropout": "0.5"}, "is '0.5'"),
    ],
)
def test_odd_options_are_refused(name, options, told):
    with pytest.raises(CheckpointError, match=told):
        create_small_cnn(name, image_size=32, options=options)


@pytest.mark.parametrize(("name", "steps"), [("cnn2", 25), ("cnn4", 40), ("cnn15", 6), ("wrist_cnn", 30)])
def test_it_learns_a_small_batch_by_heart(name, steps):
    torch.manual_seed(0)
    cnn = create_small_cnn(name, image_size=32)
    whole = nn.Sequential(cnn, nn.Linear(cnn.head_hidden_size, 2)).train()
    pixel_values, labels = torch.randn(8, 3, 32, 32), torch.arange(8) % 2
    optimizer = torch.optim.Adam(whole.parameters(), lr=1e-3)
    losses = []
    for _ in range(steps):
        loss = nn.functional.cross_entropy(whole(pixel_values), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-5:]) < 0.2 * losses[0]
