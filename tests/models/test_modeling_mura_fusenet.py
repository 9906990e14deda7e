import copy

import numpy as np
import pytest
import torch
from torch.nn import functional

from mura_hf import CheckpointError, MuraFuseNetForImageClassification
from mura_hf.models import MuraFuseNetConfig
from mura_hf.models.class_activation_mura import crop_and_resize, expand_boxes, gradient_map, largest_region, resize
from tests.checkpoints import check_round_trip, make_model


def _fusenet(**fields):
    return make_model("mura_fusenet", **fields)


def _train(model):
    torch.manual_seed(1)
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.5)
    for _ in range(2):
        model.train()  # as a trainer does at the start of every epoch
        optimizer.zero_grad()
        model(torch.randn(2, 2, 3, 64, 64), labels=torch.tensor([0, 1])).loss.backward()
        optimizer.step()


def test_round_trip(tmp_path):
    fields = {"crop_map": "channel_max", "local_size": 48, "full_resolution": True, "body_part_head": True}
    check_round_trip(_fusenet(study_pooling="gated_attention", temperature=1.3, **fields), tmp_path)


class TestStages:
    @pytest.mark.parametrize(
        ("stage", "starts"),
        [("global", "global_branch."), ("local", "local_branch."), ("fusion", ("classifier.", "attention."))],
    )
    def test_each_trains_its_part_and_the_rest_is_bit_equal(self, stage, starts):
        model = _fusenet(study_pooling="gated_attention")
        model.train()
        model.start_stage(stage)
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert trained == {name for name, _ in model.named_parameters() if name.startswith(starts)}
        before = copy.deepcopy(model.state_dict())
        _train(model)
        # Statistics of batch norms included; the bias of the score cancels out in the softmax.
        moved = {name for name, value in model.state_dict().items() if not torch.equal(before[name], value)}
        assert all(name.startswith(starts) for name in moved)
        assert {name for name in before if name.startswith(starts)} - moved <= {"attention.score.bias"}

    def test_the_local_branch_starts_from_the_global_one(self):
        model = _fusenet()
        model.start_stage("global")
        _train(model)
        model.start_stage("local")
        whole, local = model.global_branch.state_dict(), model.local_branch.state_dict()
        assert all(torch.equal(local[name], value) for name, value in whole.items())
        _train(model)
        started = copy.deepcopy(model.local_branch.state_dict())
        model.start_stage("local")  # a second time, it goes on
        assert all(torch.equal(model.local_branch.state_dict()[name], value) for name, value in started.items())

    def test_logits_are_those_of_the_stage(self):
        model, views = _fusenet(temperature=2.0, study_pooling="gated_attention"), torch.randn(3, 2, 3, 64, 64)
        with torch.no_grad():
            fused = model(views[:, 0])
            torch.testing.assert_close(fused.logits, model.classifier(fused.pooler_output) / 2)
            for stage in ("local", "global"):
                model.start_stage(stage)
                output, study = model(views[:, 0]), model(views)
                assert torch.equal(output.logits, output[f"{stage}_logits"] / 2)
                assert torch.equal(output[f"{stage}_logits"], fused[f"{stage}_logits"])
                torch.testing.assert_close(study.study_logits.exp(), study.view_logits.softmax(-1).mean(1))
        assert output.local_logits is output.boxes is output.pooler_output is None


@pytest.mark.parametrize(("crop_map", "square"), [("gradcam", False), ("gradcam", True), ("channel_max", False)])
def test_equals_its_parts(crop_map, square):
    model, views = _fusenet(crop_map=crop_map, crop_square=square, crop_threshold=0.6, local_size=48), _spots(4)
    with torch.no_grad():
        output = model(views)
        whole = model.global_branch(views)
    if crop_map == "channel_max":
        maps = whole.feature_map.max(dim=1).values
    else:
        maps = gradient_map(model.global_branch.score, whole.feature_map)
    maps = functional.interpolate(maps[:, None], (56, 56), mode="bilinear")[:, 0]
    boxes = expand_boxes(largest_region(maps, 0.6), 0.25, square=square)
    assert torch.equal(output.boxes, boxes)
    assert len({tuple(box) for box in boxes.tolist()}) > 1
    with torch.no_grad():
        part = model.local_branch(crop_and_resize(views, boxes, 48))
        both = torch.cat([whole.pooler_output, part.pooler_output], dim=1)
        logits = functional.linear(both, model.classifier.weight, model.classifier.bias)
    torch.testing.assert_close(output.logits, logits)
    torch.testing.assert_close(output.global_logits, whole.logits)
    torch.testing.assert_close(output.local_logits, part.logits)


def _spots(n, side=64):
    """Noise with a bright spot, somewhere else in each."""
    torch.manual_seed(2)
    images, step = torch.randn(n, 3, side, side), side // 4
    for number, image in enumerate(images):
        row, column = divmod(number * 37 % 16, 4)
        image[:, row * step : (row + 1) * step, column * step : (column + 1) * step] += 4
    return images


def _unseen(side, small):
    """A pattern that resizing to the small side turns to nothing: outer products from the null space of one axis."""
    matrix = resize(torch.eye(side)[:, None, None].expand(-1, 1, side, -1).contiguous(), small)[:, 0, 0].T.numpy()
    null = np.linalg.svd(matrix.astype(np.float64))[2][small:]
    weights = np.random.default_rng(0).normal(size=(3, len(null), len(null)))
    return torch.tensor(null.T @ weights @ null, dtype=torch.float32)


@pytest.mark.parametrize("full_resolution", [False, True])
def test_only_full_resolution_sees_the_lost_detail(full_resolution):
    model, plain = _fusenet(full_resolution=full_resolution), _spots(2, side=128)
    detailed = plain + 2 * _unseen(128, 64)
    assert (plain - detailed).std() > 0.5
    torch.testing.assert_close(resize(plain, 64), resize(detailed, 64), atol=1e-4, rtol=0)
    with torch.no_grad():
        first, second, small = model(plain), model(detailed), model(resize(plain, 64))
    torch.testing.assert_close(first.global_logits, second.global_logits, atol=1e-3, rtol=0)
    torch.testing.assert_close(small.global_logits, first.global_logits)
    torch.testing.assert_close(first.boxes, second.boxes)
    assert first.boxes[:, 2:].sub(first.boxes[:, :2]).amin() < 1
    difference = (first.logits - second.logits).abs().max()
    assert difference > 0.02 if full_resolution else difference < 1e-3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"backbone": "vit_tiny_patch16_224"}, r"vit_tiny_patch16_224 has no feature map .*which FuseNet needs"),
        ({"backbone": "cnn4", "local_size": 32}, "takes one input size, so local_size"),
        ({"backbone": "crossvit_tiny_240"}, r"no feature map .*64 px.* such as resnet50"),
    ],
)
def test_unsuitable_sizes_and_backbones_are_rejected(fields, message):
    with torch.device("meta"), pytest.raises(CheckpointError, match=message):
        MuraFuseNetForImageClassification(MuraFuseNetConfig(image_size=64, **fields))
