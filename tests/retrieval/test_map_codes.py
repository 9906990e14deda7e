import pytest
import torch

from mura_hf import MuraConfig, MuraEnsembleForImageClassification, MuraForImageClassification
from mura_hf.errors import CheckpointError
from mura_hf.models import MuraFuseNetConfig, MuraFuseNetForImageClassification, MuraImageClassifierOutput
from mura_hf.retrieval import feature_means

SMALL = {"backbone": "resnet10t", "image_size": 64}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def _model(**config):
    return MuraForImageClassification(MuraConfig(**SMALL, **config)).eval()


@torch.no_grad()
def test_they_are_means_over_the_map_whatever_the_pooling():
    model, views = _model(backbone_kwargs={"global_pool": "max"}), torch.randn(3, 3, 64, 64)
    output = model.classify_views(views)
    expected = output.feature_map.flatten(2).mean(2)
    torch.testing.assert_close(feature_means(output), expected)
    assert not torch.allclose(feature_means(output), output.pooler_output)


@torch.no_grad()
def test_mirror_images_have_the_same_code():
    model, views = _model(test_time_flip=True), torch.randn(2, 3, 64, 64)
    one, other = (feature_means(model.classify_views(seen)) for seen in (views, views.flip(-1)))
    torch.testing.assert_close(one, other)


@torch.no_grad()
def test_members_and_branches_stand_behind_each_other():
    views = torch.randn(2, 3, 64, 64)
    members = {"a": _model(), "b": _model()}
    ensemble = MuraEnsembleForImageClassification.from_members(members)
    expected = torch.cat([feature_means(one.classify_views(views)) for one in members.values()], dim=1)
    torch.testing.assert_close(feature_means(ensemble.classify_views(views)), expected)
    fused = MuraFuseNetForImageClassification(MuraFuseNetConfig(**SMALL)).eval()
    output = fused.classify_views(views)
    assert feature_means(output).shape == (2, 2 * output.feature_map.shape[1])


def test_tokens_are_averaged_and_no_map_is_told():
    tokens = torch.randn(2, 9, 5)
    torch.testing.assert_close(feature_means(MuraImageClassifierOutput(feature_map=tokens)), tokens.mean(1))
    with pytest.raises(CheckpointError, match="no feature map"):
        feature_means(MuraImageClassifierOutput(logits=torch.zeros(1, 2)))
