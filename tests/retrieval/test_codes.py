import pytest
import torch

from mura_hf import CheckpointError
from mura_hf.models import BODY_PARTS, CLASSIFIERS, MuraImageClassifierOutput
from mura_hf.retrieval import feature_means, view_codes
from tests.checkpoints import make_model

VIEWS = torch.randn(5, 3, 64, 64, generator=torch.Generator().manual_seed(5))


def _codes(model, views=VIEWS, **options):
    with torch.no_grad():
        return view_codes(model, model.classify_views(views, **options))


def _squares(codes):
    return torch.cdist(codes, codes) ** 2


@pytest.mark.parametrize("family", list(CLASSIFIERS))
def test_views_of_a_study_have_the_codes_of_single_views(family):
    model = make_model(family)
    options = {"body_parts": torch.full((5,), BODY_PARTS.index("wrist"))} if model.NEEDS_PART else {}
    codes = _codes(model, **options)
    assert (codes.dtype, len(codes), codes.requires_grad) == (torch.float32, 5, False)
    assert codes.std(0).max() > 1e-3
    output = model.classify_studies(VIEWS[None], **{name: values[:1] for name, values in options.items()})
    torch.testing.assert_close(view_codes(model, output.views), codes, rtol=1e-5, atol=1e-5)


def test_pooled_features_and_embeddings():
    model = make_model()
    torch.testing.assert_close(_codes(model), model.mura(VIEWS).pooler_output.detach())
    model = make_model("mura_metric_learning", embedding_size=6)
    torch.testing.assert_close(_codes(model), model.embedding(model.mura(VIEWS).pooler_output).detach())


def test_squared_distance_of_an_ensemble_is_the_weighted_mean_of_its_members():
    model = make_model("mura_ensemble")
    expected = sum(model.config.weights[name] * _squares(_codes(member)) for name, member in model.members.items())
    torch.testing.assert_close(_squares(_codes(model)), expected, rtol=1e-4, atol=1e-5)


def test_codes_of_two_body_parts_are_orthogonal():
    model = make_model("mura_specialized")
    wrist, elbow = BODY_PARTS.index("wrist"), BODY_PARTS.index("elbow")
    codes = _codes(model, body_parts=torch.tensor([wrist, elbow, elbow, wrist, wrist]))
    squares, wrists = _squares(codes), VIEWS[[0, 3, 4]]
    expected = _squares(_codes(model.members["wrist"], wrists))
    torch.testing.assert_close(squares[[0, 3, 4]][:, [0, 3, 4]], expected, rtol=1e-4, atol=1e-5)
    lengths = (codes**2).sum(1)
    torch.testing.assert_close(squares[0, 1], lengths[0] + lengths[1], rtol=1e-4, atol=1e-5)
    single = _codes(model, wrists, body_parts=torch.full((3,), wrist))
    torch.testing.assert_close(single, codes[[0, 3, 4]], rtol=1e-5, atol=1e-5)


def test_a_network_without_a_feature_map_has_no_codes():
    output = MuraImageClassifierOutput(logits=torch.zeros(1, 2))
    with pytest.raises(CheckpointError, match="no pooled code"):
        view_codes(make_model(), output)
    with pytest.raises(CheckpointError, match="no feature map"):
        feature_means(output)


@torch.no_grad()
def test_feature_means_ignore_the_pooling_of_the_prediction():
    output = make_model(backbone_kwargs={"global_pool": "max"}).classify_views(VIEWS)
    torch.testing.assert_close(feature_means(output), output.feature_map.flatten(2).mean(2))
    assert not torch.allclose(feature_means(output), output.pooler_output)


@torch.no_grad()
def test_feature_means_of_mirror_images_are_equal():
    model = make_model(test_time_flip=True)
    one, other = (feature_means(model.classify_views(seen)) for seen in (VIEWS, VIEWS.flip(-1)))
    torch.testing.assert_close(one, other)


@torch.no_grad()
def test_feature_means_of_members_and_branches_are_concatenated():
    ensemble = make_model("mura_ensemble")
    members = [feature_means(one.classify_views(VIEWS)) for _, one in sorted(ensemble.members.items())]
    torch.testing.assert_close(feature_means(ensemble.classify_views(VIEWS)), torch.cat(members, dim=1))
    output = make_model("mura_fusenet").classify_views(VIEWS)
    assert feature_means(output).shape == (5, 2 * output.feature_map.shape[1])


def test_feature_means_of_tokens():
    tokens = torch.randn(2, 9, 5)
    torch.testing.assert_close(feature_means(MuraImageClassifierOutput(feature_map=tokens)), tokens.mean(1))
