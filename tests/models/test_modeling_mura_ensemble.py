import json

import pytest
import torch

from mura_hf import CheckpointError, MuraEnsembleForImageClassification, MuraImageProcessor
from mura_hf.models import check_processors
from tests.checkpoints import check_round_trip, make_model

SHARES = {"zeta": 0.5, "beta": 0.3, "alpha": 0.2}


@pytest.fixture(scope="module")
def members():
    """Three models that pool and calibrate in different ways."""
    return {
        "zeta": make_model(seed=1, study_pooling="max", temperature=0.7, study_slope=1.4, study_intercept=-0.3),
        "beta": make_model("mura_metric_learning", seed=2, study_pooling="noisy_or", study_intercept=0.4),
        "alpha": make_model("mura_fusenet", seed=3, study_pooling="gated_attention", temperature=1.6),
    }


@pytest.fixture
def ensemble(members):
    return MuraEnsembleForImageClassification.from_members(members, weights=SHARES)


@pytest.mark.parametrize("shares", [SHARES, None])
def test_is_the_weighted_mean_of_probabilities(members, shares):
    model = MuraEnsembleForImageClassification.from_members(members, weights=shares)
    shares = shares or dict.fromkeys(members, 1 / 3)
    views, mask = torch.randn(2, 3, 3, 64, 64), torch.tensor([[True, True, True], [True, False, True]])

    def mean(logits):
        return sum(shares[name] * logits(member).softmax(-1) for name, member in members.items())

    with torch.no_grad():
        output = model(views[:, 0])
        study = model(views, mask)
        expected = mean(lambda member: member(views[:, 0]).logits)
        studies = {name: member(views, mask) for name, member in members.items()}
        of_views = mean(lambda member: member(views[0]).logits)
        single = mean(lambda member: member(views[0][:, None]).study_logits)
    torch.testing.assert_close(output.logits.softmax(-1), expected)
    whole = sum(shares[name] * one.study_logits.exp() for name, one in studies.items())
    torch.testing.assert_close(study.study_logits.exp(), whole)
    torch.testing.assert_close(study.pooled_logit, torch.logit(whole[:, 1]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(study.view_logits[0].softmax(-1), of_views)
    torch.testing.assert_close(torch.sigmoid(study.single_view_logit[0]), single[:, 1])
    torch.testing.assert_close(
        study.view_weights, sum(shares[name] * one.view_weights for name, one in studies.items())
    )
    torch.testing.assert_close(study.view_weights.sum(1), torch.ones(2))
    assert not study.view_logits[1, 1].any()
    assert study.single_view_logit[1, 1] == 0
    assert (set(output.members), study.feature_map) == (set(members), None)


def test_is_calibrated_as_a_whole(ensemble):
    views = torch.randn(2, 2, 3, 64, 64)
    with torch.no_grad():
        plain, plain_view = ensemble(views), ensemble(views[:, 0]).logits
        ensemble.config.update({"study_slope": 2.0, "study_intercept": 0.5, "temperature": 1.5})
        found, view = ensemble(views), ensemble(views[:, 0]).logits
    torch.testing.assert_close(found.study_logits.exp()[:, 1], torch.sigmoid(2 * plain.pooled_logit + 0.5))
    torch.testing.assert_close(found.single_view_logit, 2 * plain.single_view_logit + 0.5)
    torch.testing.assert_close(view, plain_view / 1.5)


def test_round_trip_and_weights_by_name(members, ensemble, tmp_path):
    ensemble.config.update({"study_slope": 1.2})
    check_round_trip(ensemble, tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert list(written["members"]) == ["alpha", "beta", "zeta"] != list(members)
    assert written["member_weights"] == SHARES
    written["members"] = {name: written["members"][name] for name in ("beta", "zeta", "alpha")}
    (tmp_path / "config.json").write_text(json.dumps(written))
    again, views = MuraEnsembleForImageClassification.from_pretrained(tmp_path), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(again(views).logits, ensemble(views).logits)
        first = next(ensemble.members["zeta"].parameters())
        first.add_(1)  # weights are copies
    assert again.config.weights == SHARES
    assert not torch.equal(first, next(members["zeta"].parameters()))


def test_a_member_with_weight_0_has_no_influence(members):
    two, views = {name: members[name] for name in ("zeta", "beta")}, torch.randn(2, 2, 3, 64, 64)
    model = MuraEnsembleForImageClassification.from_members(two, weights={"zeta": 0.0, "beta": 1.0})
    with torch.no_grad():
        torch.testing.assert_close(model(views).study_logits, members["beta"](views).study_logits)
        found, expected = (one(views[:, 0]).logits.softmax(-1) for one in (model, members["beta"]))
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("fields", "name"), [({"body_part_head": True}, "body_part_logits"), ({"regions": ["a", "b"]}, "region_logits")]
)
def test_body_parts_and_regions_are_the_mean_of_members_with_the_head(fields, name):
    members = {"one": make_model(seed=1, **fields), "two": make_model(seed=2, **fields)}
    model = MuraEnsembleForImageClassification.from_members({**members, "blind": make_model(seed=3)})
    views = torch.randn(3, 2, 3, 64, 64)
    with torch.no_grad():
        expected = [member(views)[name].softmax(-1) for member in members.values()]
        torch.testing.assert_close(model(views)[name].softmax(-1), sum(expected) / 2)


def test_members_with_different_regions_predict_none():
    members = {"one": make_model(regions=["a", "b"]), "two": make_model(regions=["b", "c"])}
    model = MuraEnsembleForImageClassification.from_members(members)
    with torch.no_grad():
        assert model(torch.randn(1, 2, 3, 64, 64)).region_logits is None


def test_what_members_must_share(ensemble, members):
    from_members = MuraEnsembleForImageClassification.from_members
    small, again, large = (MuraImageProcessor(size={"height": side, "width": side}) for side in (64, 64, 96))
    check_processors({"a": small, "b": again})
    synthetic, real = make_model(seed=1, trained_on_phantoms=True), make_model(seed=2)
    with pytest.raises(CheckpointError, match=r"members a and b preprocess images differently, in size \(.*64.*96"):
        from_members({"a": synthetic, "b": real}, processors={"a": small, "b": large})
    assert from_members({"a": synthetic, "b": synthetic}).config.trained_on_phantoms
    assert not from_members({"a": synthetic, "b": real}).config.trained_on_phantoms
    with pytest.raises(CheckpointError, match="'mura_ensemble' cannot be a member; use one of mura"):
        from_members({**members, "all": ensemble})
