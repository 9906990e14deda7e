import mpmath
import numpy as np
import pytest
import torch

from mura_hf.models.heads_mura import check_view_mask, pool_codes, pool_views, scatter_views
from tests.conftest import make_model

PLAIN = ("mean", "max", "noisy_or")
ALL = (*PLAIN, "gated_attention")


def _studies(spread, seed=0, studies=24, views=4):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, spread, (studies, views, 2))
    mask = rng.random((studies, views)) < 0.6
    mask[np.arange(studies), rng.integers(views, size=studies)] = True
    return logits, mask


def _reference(margins, how):
    """Log-odds and weights from the probabilities of one study's views, to 1000 digits."""
    with mpmath.workdps(1000):
        p = [1 / (1 + mpmath.exp(-mpmath.mpf(float(margin)))) for margin in margins]
        if how == "mean":
            pooled, weights = sum(p) / len(p), [mpmath.mpf(1) / len(p)] * len(p)
        elif how == "max":
            pooled = max(p)
            weights = [float(place == p.index(pooled)) for place in range(len(p))]
        else:
            pooled = 1 - mpmath.fprod(1 - value for value in p)
            weights = [mpmath.log(1 - value) / mpmath.log(1 - pooled) for value in p]
        return float(mpmath.log(pooled / (1 - pooled))), [float(weight) for weight in weights]


@pytest.mark.parametrize("spread", [1.0, 20.0, 200.0])
@pytest.mark.parametrize("how", PLAIN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_formula_on_probabilities(how, spread, dtype):
    logits, mask = _studies(spread)
    views = torch.tensor(logits, dtype=dtype)
    pooled, weights = pool_views(views, torch.tensor(mask), how)
    assert pooled.dtype == weights.dtype == dtype
    for study, (row, true) in enumerate(zip(views.double().numpy(), mask, strict=True)):
        expected, shares = _reference((row[:, 1] - row[:, 0])[true], how)
        assert float(pooled[study]) == pytest.approx(expected, rel=2e-5, abs=2e-6)
        np.testing.assert_allclose(weights[study].numpy()[true], shares, rtol=1e-4, atol=1e-6)
        assert not weights[study].numpy()[~true].any()


@pytest.mark.parametrize("how", PLAIN)
@pytest.mark.parametrize("margins", [(200, 200), (-200, -200), (200, -200), (-200, -18), (0, 0), (-30, -30)])
def test_certain_views_have_finite_answers_and_gradients(how, margins):
    views = torch.tensor([[[-margin / 2, margin / 2] for margin in margins]], requires_grad=True)
    pooled, weights = pool_views(views, torch.ones(1, 2, dtype=torch.bool), how)
    pooled.sum().backward()
    assert torch.isfinite(pooled).all()
    assert torch.isfinite(views.grad).all()
    assert float(weights.detach().sum()) == pytest.approx(1)
    np.testing.assert_allclose(views.grad[0, :, 0], -views.grad[0, :, 1])
    ahead, behind = (_reference([margin + step for margin in margins], how)[0] for step in (1e-3, -1e-3))
    assert float(views.grad[..., 1].sum()) == pytest.approx((ahead - behind) / 2e-3, abs=1e-4)


@pytest.mark.parametrize("how", PLAIN)
def test_gradients_are_those_of_finite_differences(how):
    logits, mask = _studies(2.0, studies=5)
    views = torch.tensor(logits, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: pool_views(values, torch.tensor(mask), how)[0], (views,))


@pytest.mark.parametrize("how", PLAIN)
def test_padding_and_order_do_not_matter(how):
    logits, _ = _studies(3.0)
    views = torch.tensor(logits)
    mask = torch.ones(views.shape[:2], dtype=torch.bool)
    pooled, weights = pool_views(views, mask, how)
    padded = torch.cat([views, torch.full_like(views, 1e6)], dim=1)
    again, longer = pool_views(padded, torch.cat([mask, ~mask], dim=1), how)
    torch.testing.assert_close(again, pooled)
    torch.testing.assert_close(longer[:, :4], weights)
    turned, backwards = pool_views(views.flip(1), mask, how)
    torch.testing.assert_close(turned, pooled)
    torch.testing.assert_close(backwards.flip(1), weights)


def test_an_unknown_pooling_is_named():
    with pytest.raises(ValueError, match="'sum'; choose mean, max or noisy_or"):
        pool_views(torch.zeros(1, 1, 2), torch.ones(1, 1, dtype=torch.bool), "sum")


def test_of_equal_views_the_first_answers_for_the_maximum():
    _, weights = pool_views(torch.zeros(1, 3, 2), torch.tensor([[False, True, True]]), "max")
    assert weights.tolist() == [[0, 1, 0]]


def test_attention_is_a_softmax_over_true_views():
    scores, codes = torch.randn(2, 3).double(), torch.randn(2, 3, 5).double()
    mask = torch.tensor([[True, True, True], [True, False, True]])
    code, weights = pool_codes(scores, codes, mask)
    for study in range(2):
        true = mask[study].numpy()
        shares = np.exp(scores[study].numpy()[true])
        shares /= shares.sum()
        np.testing.assert_allclose(weights[study].numpy()[true], shares)
        np.testing.assert_allclose(code[study], shares @ codes[study].numpy()[true])
    assert weights[1, 1] == 0


def test_views_return_to_their_places():
    mask = torch.tensor([[True, False], [True, True]])
    values = torch.arange(6.0).view(3, 2)
    assert scatter_views(values, mask).tolist() == [[[0, 1], [0, 0]], [[2, 3], [4, 5]]]


@pytest.mark.parametrize(
    ("shape", "mask", "message"),
    [
        ((1, 3, 8, 8), None, "studies, views"),
        ((2, 2, 3, 8, 8), torch.tensor([[1, 1], [0, 0]]), "at least one view"),
        ((2, 2, 3, 8, 8), torch.ones(2, 3), "studies, views"),
    ],
)
def test_refuses_studies_without_views(shape, mask, message):
    with pytest.raises(ValueError, match=message):
        check_view_mask(torch.zeros(shape), mask)


@pytest.mark.parametrize("how", ALL)
@pytest.mark.parametrize("family", ["mura", "mura_metric_learning", "mura_fusenet"])
def test_a_study_of_one_view_is_that_view(family, how):
    model, view = make_model(family, study_pooling=how), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        logits = model(view).logits
        study = model(view[:, None])
    torch.testing.assert_close(study.pooled_logit, logits[:, 1] - logits[:, 0])
    torch.testing.assert_close(study.study_logits.exp(), logits.softmax(-1))
    torch.testing.assert_close(study.single_view_logit[:, 0], study.pooled_logit)
    torch.testing.assert_close(study.view_weights, torch.ones(2, 1))


@pytest.mark.parametrize("how", ALL)
def test_padded_views_hold_zeros_and_change_nothing(how):
    model = make_model(study_pooling=how, study_intercept=0.7, study_slope=1.3, finding_types=["a", "b"])
    views = torch.randn(1, 2, 3, 64, 64)
    padded = torch.cat([views, torch.full_like(views, 1e5)], dim=1)
    with torch.no_grad():
        short, long = model(views), model(padded, torch.tensor([[True, True, False, False]]))
    torch.testing.assert_close(long.study_logits, short.study_logits)
    torch.testing.assert_close(long.finding_logits, short.finding_logits)
    for name in ("view_logits", "single_view_logit", "view_weights", "feature_map", "pooler_output"):
        assert not getattr(long, name)[:, 2:].any(), name
        torch.testing.assert_close(getattr(long, name)[:, :2], getattr(short, name))


def test_the_classifier_answers_for_the_attended_code_and_all_of_the_attention_learns():
    model, views = make_model(study_pooling="gated_attention", head_layers=[8]), torch.randn(2, 3, 3, 64, 64)
    study = model(views, labels=torch.tensor([0, 1]))
    codes = study.pooler_output
    attention = model.attention
    scores = torch.tanh(codes @ attention.value.weight.T) * torch.sigmoid(codes @ attention.gate.weight.T)
    weights = (scores @ attention.score.weight.T)[..., 0].softmax(1)
    logits = model.classifier((weights[..., None] * codes).sum(1))
    torch.testing.assert_close(study.view_weights, weights)
    torch.testing.assert_close(study.study_logits, logits.log_softmax(-1))
    study.loss.backward()
    for layer in (attention.value, attention.gate, attention.score):
        assert layer.weight.grad.abs().max() > 0
