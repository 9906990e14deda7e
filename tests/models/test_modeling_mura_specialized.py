import pytest
import torch
from torch.nn import functional

from mura_hf import CheckpointError, MuraImageProcessor, MuraSpecializedForImageClassification
from mura_hf.models import BODY_PARTS
from tests.checkpoints import check_round_trip, make_model

ELBOW, HAND, WRIST = (BODY_PARTS.index(part) for part in ("elbow", "hand", "wrist"))


@pytest.fixture(scope="module")
def members():
    return {
        "wrist": make_model(seed=1, study_pooling="noisy_or", temperature=0.7, study_intercept=0.4),
        "elbow": make_model("mura_fusenet", seed=2, study_pooling="gated_attention"),
        "hand": make_model("mura_metric_learning", seed=3, study_pooling="max"),
    }


@pytest.fixture(scope="module")
def router():
    """Calls bright images a wrist, dark ones an elbow."""
    model, bright, dark = make_model(body_part_head=True), torch.full((1, 3, 64, 64), 2.0), torch.zeros(1, 3, 64, 64)
    with torch.no_grad():
        middle, away = (model.mura(dark).pooler_output, model.mura(bright).pooler_output)
        model.body_part_classifier.weight.zero_()
        model.body_part_classifier.bias.fill_(-50.0)
        direction = (away - middle)[0] / (away - middle).norm() ** 2 * 8
        model.body_part_classifier.weight[WRIST] = direction
        model.body_part_classifier.bias[WRIST] = -direction @ (away + middle)[0] / 2
        model.body_part_classifier.bias[ELBOW] = 0
    return model


@pytest.fixture(scope="module")
def routed(members, router):
    return MuraSpecializedForImageClassification.from_members(members, router=router)


@pytest.fixture(scope="module")
def plain(members):
    return MuraSpecializedForImageClassification.from_members(members)


def _views(levels):
    torch.manual_seed(4)
    return torch.tensor(levels).view(-1, 1, 1, 1) + 0.3 * torch.randn(len(levels), 3, 64, 64)


def test_each_study_goes_to_the_model_of_its_given_part(plain, members):
    parts, views = torch.tensor([WRIST, ELBOW, HAND, WRIST]), torch.randn(4, 3, 3, 64, 64)
    mask = torch.tensor([[True, True, False], [True, True, True], [False, True, True], [True, False, False]])
    with torch.no_grad():
        study = plain(views, mask, body_parts=parts)
        for row, part in enumerate(parts.tolist()):
            member = members[BODY_PARTS[part]]
            one = member(views[row : row + 1], mask[row : row + 1])
            one.pooled_logit = member.adjust(one.pooled_logit)  # before calibration of the whole
            for name in ("study_logits", "pooled_logit", "view_logits", "single_view_logit", "view_weights"):
                torch.testing.assert_close(study[name][row], one[name][0], atol=1e-5, rtol=1e-5)
        output = plain(views[:, 0], body_parts=parts)
    assert {part: rows.tolist() for part, rows in output.rows.items()} == {"elbow": [1], "hand": [2], "wrist": [0, 3]}
    assert output.body_part_logits is study.body_part_logits is None
    true = torch.nonzero(mask)
    for part, rows in study.views.rows.items():
        assert {BODY_PARTS[parts[place]] for place in true[rows, 0]} == {part}
    torch.testing.assert_close(study.views.logits, study.view_logits[mask])


def test_the_router_is_averaged_over_all_views_of_a_study(routed, members, router):
    views = torch.stack([_views([2.0, 2.0, 0.0]), _views([0.0, 0.0, 2.0])])
    views[1, 1] = 1e4  # padding
    mask = torch.tensor([[True, True, True], [True, False, True]])
    with torch.no_grad():
        study = routed(views, mask)
        chances = [router(views[row][mask[row]]).body_part_logits.softmax(-1).mean(0) for row in (0, 1)]
        torch.testing.assert_close(study.body_part_logits.exp(), torch.stack(chances))
        parts = [BODY_PARTS[int(chance.argmax())] for chance in chances]
        assert parts[0] == "wrist"
        for row, part in enumerate(parts):
            expected = members[part](views[row : row + 1], mask[row : row + 1]).study_logits
            torch.testing.assert_close(study.study_logits[row : row + 1], expected)


def test_a_given_part_overrides_the_router(routed, members, router):
    views, parts = _views([2.0, 2.0, 0.0]), torch.tensor([-1, HAND, -1])
    with torch.no_grad():
        output = routed(views, body_parts=parts)
        torch.testing.assert_close(output.body_part_logits, router(views).body_part_logits)
        for row, part in enumerate(("wrist", "hand", "elbow")):
            torch.testing.assert_close(output.logits[row : row + 1], members[part](views[row : row + 1]).logits)
        study = routed(views[:, None], body_parts=parts)
        torch.testing.assert_close(study.view_logits[:, 0], output.logits)


def test_losses_reach_the_members_that_answered(members, router):
    model = MuraSpecializedForImageClassification.from_members(members, router=router)
    views, labels, parts = _views([2.0, 0.0]), torch.tensor([0, 1]), torch.tensor([WRIST, ELBOW])
    output = model(views, labels=labels, body_parts=parts)
    torch.testing.assert_close(output.loss, functional.cross_entropy(output.logits, labels))
    output.loss.backward()
    learnt = {name.split(".")[1] for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learnt == {"wrist", "elbow"}


def test_a_part_that_is_not_given_needs_a_router(plain):
    views = torch.zeros(2, 3, 64, 64)
    for given in ({}, {"body_parts": torch.tensor([WRIST, -1])}):
        for images in (views, views[:, None]):
            with pytest.raises(ValueError, match="no router that predicts the body part: give body_part"):
                plain(images, **given)
    parts = torch.full((2,), BODY_PARTS.index("shoulder"))
    with pytest.raises(ValueError, match=r"no model for body part shoulder; it has .*wrist"):
        plain(views, body_parts=parts)


def test_is_calibrated_as_a_whole(members):
    model = MuraSpecializedForImageClassification.from_members(members, study_slope=2.0, study_intercept=-0.5)
    views, parts = torch.randn(2, 2, 3, 64, 64), torch.tensor([WRIST, HAND])
    with torch.no_grad():
        study = model(views, body_parts=parts)
        for row, part in enumerate(("wrist", "hand")):
            one = members[part](views[row : row + 1]).study_logits[0]
            expected = torch.sigmoid(2 * (one[1] - one[0]) - 0.5)
            torch.testing.assert_close(study.study_logits[row, 1].exp(), expected)


def test_round_trip(routed, tmp_path):
    check_round_trip(routed, tmp_path, body_parts=torch.tensor([WRIST, -1, HAND]))


def test_processors_must_match_and_phantoms_are_recorded(members):
    processors = {"wrist": MuraImageProcessor(), "router": MuraImageProcessor(resize_mode="squash")}
    with pytest.raises(CheckpointError, match="wrist and router preprocess images differently, in resize_mode"):
        MuraSpecializedForImageClassification.from_members(members, processors=processors)
    synthetic, real = make_model(seed=1, trained_on_phantoms=True), make_model(seed=2)
    for chosen, expected in (({"hand": synthetic}, True), ({"hand": synthetic, "wrist": real}, False)):
        assert MuraSpecializedForImageClassification.from_members(chosen).config.trained_on_phantoms is expected
