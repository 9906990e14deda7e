import pytest
import torch
from transformers import AutoConfig

from mura_hf import CheckpointError
from mura_hf.inference.external_model import load_external
from mura_hf.models import BODY_PARTS, CLASSIFIERS
from mura_hf.retrieval import view_codes
from tests.conftest import make_model
from tests.inference.strangers import save_stranger


def _views(n=4):
    torch.manual_seed(5)
    return torch.randn(n, 3, 64, 64)


def _codes(model, views, **given):
    with torch.no_grad():
        return view_codes(model, model.classify_views(views, **given))


def _squares(codes):
    return torch.cdist(codes, codes) ** 2


@pytest.mark.parametrize("family", list(CLASSIFIERS))
def test_views_of_a_study_have_the_codes_of_views_alone(family):
    model, views = make_model(family), _views()
    given = {"body_parts": torch.full((4,), BODY_PARTS.index("wrist"))} if model.NEEDS_PART else {}
    codes = _codes(model, views, **given)
    assert (codes.dtype, len(codes), codes.requires_grad) == (torch.float32, 4, False)
    assert codes.std(0).max() > 1e-3
    of_study = {name: values[:1] for name, values in given.items()}
    output = model.classify_studies(views[None], **of_study)
    torch.testing.assert_close(view_codes(model, output.views), codes, rtol=1e-5, atol=1e-5)


def test_one_backbone_gives_its_pooled_code_and_metric_learning_its_embedding():
    model, views = make_model(), _views()
    torch.testing.assert_close(_codes(model, views), model.mura(views).pooler_output.detach())
    model = make_model("mura_metric_learning", embedding_size=6)
    expected = model.embedding(model.mura(views).pooler_output).detach()
    torch.testing.assert_close(_codes(model, views), expected)


def test_an_ensembles_squared_distance_is_the_weighted_mean_of_its_members():
    model, views = make_model("mura_ensemble"), _views()
    expected = sum(
        model.config.weights[name] * _squares(_codes(member, views)) for name, member in model.members.items()
    )
    torch.testing.assert_close(_squares(_codes(model, views)), expected, rtol=1e-4, atol=1e-5)


def test_codes_of_two_parts_are_as_far_apart_as_they_are_long():
    model, views = make_model("mura_specialized"), _views(5)
    wrist, elbow = BODY_PARTS.index("wrist"), BODY_PARTS.index("elbow")
    codes = _codes(model, views, body_parts=torch.tensor([wrist, elbow, elbow, wrist, wrist]))
    squares = _squares(codes)
    wrists = views[[0, 3, 4]]
    torch.testing.assert_close(
        squares[[0, 3, 4]][:, [0, 3, 4]], _squares(_codes(model.members["wrist"], wrists)), rtol=1e-4, atol=1e-5
    )
    lengths = (codes**2).sum(1)
    torch.testing.assert_close(squares[0, 1], lengths[0] + lengths[1], rtol=1e-4, atol=1e-5)
    alone = _codes(model, wrists, body_parts=torch.full((3,), wrist))
    torch.testing.assert_close(alone, codes[[0, 3, 4]], rtol=1e-5, atol=1e-5)


def test_a_strangers_map_is_pooled_and_one_without_is_refused(tmp_path):
    for kind, has in (("resnet", True), ("hiera", False)):
        folder = save_stranger(tmp_path / kind, kind)
        model, _ = load_external(str(folder), AutoConfig.from_pretrained(folder), torch.float32, {}, None)
        views = _views(2)
        output = model.classify_views(views)
        if has:
            assert _codes(model, views).shape == (2, 32)
        else:
            with pytest.raises(CheckpointError, match="no pooled code"):
                view_codes(model, output)
