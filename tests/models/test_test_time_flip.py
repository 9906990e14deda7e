"""The mean of the answers for a view and for its mirror image."""

import pytest
import torch
from captum.attr import LayerAttribution, LayerGradCam
from huggingface_hub.errors import StrictDataclassError
from transformers import pipeline

from mura_hf import MuraConfig, StudyPredictor
from mura_hf.explain import grad_cam
from mura_hf.models import MuraEnsembleConfig, MuraFuseNetConfig, MuraSpecializedConfig
from tests.conftest import SIDE, check_round_trip, make_checkpoint, make_model

FIELDS = {"body_part_head": True, "finding_types": ["fracture", "other"], "temperature": 1.7}


def _pair(family="mura", **fields):
    """The same model with and without."""
    plain, flipping = (make_model(family, test_time_flip=flip, **fields) for flip in (False, True))
    flipping.load_state_dict(plain.state_dict())
    return plain, flipping


@pytest.fixture(scope="module")
def views():
    return torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("family", ["mura", "mura_metric_learning"])
def test_is_the_mean_by_hand(family, views):
    plain, flipping = _pair(family, **FIELDS)
    with torch.no_grad():
        one, other, found = plain(views), plain(views.flip(-1)), flipping(views)
    names = [*one.keys()]
    assert {"logits", "body_part_logits", "finding_logits", "pooler_output"} <= set(names)
    for name in set(names) - {"feature_map"}:
        torch.testing.assert_close(found[name], (one[name] + other[name]) / 2)
    assert (one.logits - other.logits).abs().max() > 1e-3
    assert torch.equal(found.feature_map, one.feature_map)
    assert torch.equal(found.mirrored_feature_map, other.feature_map.flip(-1))


def test_training_is_left_alone(views):
    plain, flipping = (model.train() for model in _pair())
    assert torch.equal(plain(views).logits, flipping(views).logits)


@pytest.mark.parametrize("pooling", ["mean", "max", "noisy_or", "gated_attention"])
def test_studies_are_pooled_from_such_views_and_do_not_know_left_from_right(pooling, views):
    _, flipping = _pair(study_pooling=pooling, **FIELDS)
    study = views.view(1, 3, 3, SIDE, SIDE)
    with torch.no_grad():
        of_views, found, mirrored = flipping(views), flipping(study), flipping(study.flip(-1))
    torch.testing.assert_close(found.view_logits[0], of_views.logits)
    for name in ("study_logits", "view_logits", "view_weights", "body_part_logits", "finding_logits"):
        assert torch.equal(found[name], mirrored[name]), name


def test_a_study_of_one_view_is_that_view(views):
    _, flipping = _pair(study_pooling="gated_attention")
    with torch.no_grad():
        study, view = flipping(views[:1, None]), flipping(views[:1])
    torch.testing.assert_close(study.study_logits, view.logits.log_softmax(-1))


@pytest.mark.parametrize("backbone", ["resnet10t", "swin_tiny_patch4_window7_224", "cnn2"])
def test_heatmaps_are_the_mean_with_the_mirrored_back_one(backbone, views):
    fields = {"backbone": backbone}
    if backbone != "resnet10t":
        slim = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 1]} if "swin" in backbone else None
        fields |= {"backbone_kwargs": slim}
    plain, flipping = _pair(**fields)
    with torch.no_grad():
        one, other = plain(views).feature_map, plain(views.flip(-1)).feature_map

    def evidence(feature_map):
        probe = torch.nn.Identity()
        values = feature_map.clone()
        return LayerGradCam(lambda given: plain.score(probe(given)), probe).attribute(values).detach()

    raw = ((evidence(one) + evidence(other).flip(-1)) / 2).relu()
    expected = LayerAttribution.interpolate(raw, (SIDE, SIDE), interpolate_mode="bicubic")[:, 0].clamp_min(0)
    expected = expected / expected.amax((1, 2), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    found = grad_cam(flipping, views)
    assert expected.amax() == 1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grad_cam(flipping, views.flip(-1)).flip(-1), found, rtol=1e-4, atol=1e-5)


def test_tokens_are_averaged_and_have_no_heatmap(views):
    slim = {"depth": 1, "embed_dim": 24, "num_heads": 3}
    _, flipping = _pair(backbone="vit_tiny_patch16_224", backbone_kwargs=slim)
    with torch.no_grad():
        found = flipping(views)
        assert torch.equal(found.logits, flipping(views.flip(-1)).logits)
    assert found.mirrored_feature_map is None


def test_travels_with_the_checkpoint_into_pipeline_and_predictor(tmp_path, phantom_files):
    plain, flipping = _pair()
    for name, model in (("plain", plain), ("flipping", flipping)):
        make_checkpoint(tmp_path / name, model)
    study, usual = (StudyPredictor.from_pretrained(tmp_path / name, device="cpu") for name in ("flipping", "plain"))
    found, without = study(phantom_files), usual(phantom_files)
    assert study.model.config.test_time_flip
    pixels = usual.processor(images=[read(file) for file in phantom_files], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        logits = (plain(pixels).logits + plain(pixels.flip(-1)).logits) / 2
    chances = logits.softmax(-1)[:, 1].tolist()
    assert [view.probability for view in found.views] == pytest.approx(chances, abs=1e-5)
    assert found.probability == pytest.approx(sum(chances) / len(chances), abs=1e-5)
    assert found.probability != pytest.approx(without.probability, abs=1e-5)
    scores = pipeline("image-classification", model=str(tmp_path / "flipping"), device="cpu")(phantom_files[0])
    assert {row["label"]: row["score"] for row in scores}["abnormal"] == pytest.approx(chances[0], abs=1e-5)


def read(file):
    from mura_hf import read_radiograph

    return read_radiograph(file).pixels


def test_members_do_it_themselves(tmp_path, views):
    from mura_hf import MuraEnsembleForImageClassification as Ensemble

    plain, flipping = _pair()
    model = Ensemble.from_members({"one": flipping, "two": make_model(seed=5)})
    check_round_trip(model, tmp_path / "ensemble")
    with torch.no_grad():
        found = model(views).members["one"].logits
        torch.testing.assert_close(found, (plain(views).logits + plain(views.flip(-1)).logits) / 2)
    assert grad_cam(model, views).shape == (3, SIDE, SIDE)
    described = {"a": {"model_type": "mura"}, "b": {"model_type": "mura"}}
    with pytest.raises((ValueError, StrictDataclassError), match="in the configurations of the members"):
        MuraEnsembleConfig(members=described, test_time_flip=True)
    with pytest.raises((ValueError, StrictDataclassError), match="in the configurations of the members"):
        MuraSpecializedConfig(members={"wrist": {"model_type": "mura"}}, test_time_flip=True)


def test_is_refused_where_it_cannot_be():
    with pytest.raises((ValueError, StrictDataclassError), match="not for FuseNet"):
        MuraFuseNetConfig(test_time_flip=True)
    with pytest.raises((ValueError, StrictDataclassError), match="leave out head_layers"):
        MuraConfig(test_time_flip=True, study_pooling="gated_attention", head_layers=[8])
