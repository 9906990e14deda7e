import json

import pytest
import torch

from mura_hf import CheckpointError, MuraEnsembleForImageClassification, MuraImageProcessor
from mura_hf.models import check_processors
from tests.conftest import check_round_trip, make_model

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


def _mean(members, shares, answer):
    return sum(shares[name] * answer(member).softmax(-1) for name, member in members.items())


@pytest.mark.parametrize("shares", [SHARES, None])
def test_is_the_weighted_mean_of_probabilities(members, shares):
    model = MuraEnsembleForImageClassification.from_members(members, weights=shares)
    shares = shares or dict.fromkeys(members, 1 / 3)
    views, mask = torch.randn(2, 3, 3, 64, 64), torch.tensor([[True, True, True], [True, False, True]])
    with torch.no_grad():
        output = model(views[:, 0])
        study = model(views, mask)
        expected = _mean(members, shares, lambda member: member(views[:, 0]).logits)
        studies = {name: member(views, mask) for name, member in members.items()}
        of_views = _mean(members, shares, lambda member: member(views[0]).logits)
        single = _mean(members, shares, lambda member: member(views[0][:, None]).study_logits)
    torch.testing.assert_close(output.logits.softmax(-1), expected)
    whole = sum(shares[name] * one.study_logits.exp() for name, one in studies.items())
    torch.testing.assert_close(study.study_logits.exp(), whole)
    torch.testing.assert_close(study.pooled_logit, torch.logit(whole[:, 1]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(study.view_logits[0].softmax(-1), of_views)
    torch.testing.assert_close(torch.sigmoid(study.single_view_logit[0]), single[:, 1])
    weights = sum(shares[name] * one.view_weights for name, one in studies.items())
    torch.testing.assert_close(study.view_weights, weights)
    torch.testing.assert_close(study.view_weights.sum(1), torch.ones(2))
    assert not study.view_logits[1, 1].any()
    assert study.single_view_logit[1, 1] == 0
    assert (set(output.members), study.feature_map) == (set(members), None)


def test_is_calibrated_as_a_whole(members, ensemble):
    views = torch.randn(2, 2, 3, 64, 64)
    with torch.no_grad():
        plain, plain_view = ensemble(views), ensemble(views[:, 0]).logits
        ensemble.config.update({"study_slope": 2.0, "study_intercept": 0.5, "temperature": 1.5})
        found, view = ensemble(views), ensemble(views[:, 0]).logits
    torch.testing.assert_close(found.study_logits.exp()[:, 1], torch.sigmoid(2 * plain.pooled_logit + 0.5))
    torch.testing.assert_close(found.single_view_logit, 2 * plain.single_view_logit + 0.5)
    torch.testing.assert_close(view, plain_view / 1.5)


def test_weights_are_copied(members, ensemble):
    name, value = next(iter(members["zeta"].state_dict().items()))
    with torch.no_grad():
        ensemble.members["zeta"].state_dict()[name].add_(1)
    assert not torch.equal(ensemble.members["zeta"].state_dict()[name], value)


def test_round_trip(ensemble, tmp_path):
    ensemble.config.update({"study_slope": 1.2})
    check_round_trip(ensemble, tmp_path)


def test_weights_are_matched_by_name(members, ensemble, tmp_path):
    ensemble.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert list(written["members"]) == ["alpha", "beta", "zeta"] != list(members)
    assert written["member_weights"] == SHARES
    written["members"] = {name: written["members"][name] for name in ("beta", "zeta", "alpha")}
    (tmp_path / "config.json").write_text(json.dumps(written))
    again, views = MuraEnsembleForImageClassification.from_pretrained(tmp_path), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(again(views).logits, ensemble(views).logits)
    assert again.config.weights == SHARES


def test_a_member_with_weight_0_has_no_influence(members):
    views = torch.randn(2, 2, 3, 64, 64)
    two = {name: members[name] for name in ("zeta", "beta")}
    model = MuraEnsembleForImageClassification.from_members(two, weights={"zeta": 0.0, "beta": 1.0})
    with torch.no_grad():
        torch.testing.assert_close(model(views).study_logits, members["beta"](views).study_logits)
        torch.testing.assert_close(
            model(views[:, 0]).logits.softmax(-1), members["beta"](views[:, 0]).logits.softmax(-1)
        )


def test_body_parts_are_the_mean_of_members_with_the_head():
    members = {"one": make_model(seed=1, body_part_head=True), "two": make_model(seed=2, body_part_head=True)}
    model = MuraEnsembleForImageClassification.from_members({**members, "blind": make_model(seed=3)})
    views = torch.randn(3, 2, 3, 64, 64)
    with torch.no_grad():
        expected = [member(views).body_part_logits.softmax(-1) for member in members.values()]
        torch.testing.assert_close(model(views).body_part_logits.softmax(-1), sum(expected) / 2)


def test_members_share_one_processor():
    first, second = (MuraImageProcessor(size={"height": side, "width": side}) for side in (64, 96))
    check_processors({"a": first, "b": MuraImageProcessor(size={"height": 64, "width": 64})})
    with pytest.raises(CheckpointError, match=r"members a and b preprocess images differently, in size \(.*64.*96"):
        check_processors({"a": first, "b": second})
    members = {"a": make_model(seed=1), "b": make_model(seed=2)}
    with pytest.raises(CheckpointError, match="differently"):
        MuraEnsembleForImageClassification.from_members(members, processors={"a": first, "b": second})


def test_phantoms_are_recorded_if_all_members_saw_only_phantoms():
    synthetic, real = make_model(seed=1, trained_on_phantoms=True), make_model(seed=2)
    for members, expected in (({"a": synthetic, "b": synthetic}, True), ({"a": synthetic, "b": real}, False)):
        assert MuraEnsembleForImageClassification.from_members(members).config.trained_on_phantoms is expected


def test_an_ensemble_cannot_be_a_member(ensemble, members):
    with pytest.raises(CheckpointError, match="'mura_ensemble' cannot be a member; use one of mura"):
        MuraEnsembleForImageClassification.from_members({**members, "all": ensemble})
