import math
from itertools import product

import mpmath
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from mura_hf import MuraConfig
from mura_hf.models.heads_mura import (
    GatedAttention,
    MuraHead,
    MuraHeadNorm,
    check_view_mask,
    make_head,
    pool_views,
    scatter_views,
)
from tests.checkpoints import make_model

PLAIN = ("mean", "max", "noisy_or")
ALL = (*PLAIN, "gated_attention")
FAMILIES = ("mura_metric_learning", "mura_fusenet")


class TestHead:
    @pytest.mark.parametrize("norm", [False, True])
    @pytest.mark.parametrize("activation", ["relu", "none"])
    def test_equals_the_formula(self, activation, norm):
        torch.manual_seed(0)
        config = MuraConfig(
            head_layers=[8, 6], head_dropout=[0.5, 0.0, 0.0], head_batch_norm=norm, head_activation=activation
        )
        head, code = make_head(4, 2, config), torch.randn(16, 4)
        hidden = ["MuraHead", *["MuraHeadNorm"] * norm, *["ReLU"] * (activation == "relu"), "Dropout"]
        assert [type(layer).__name__ for layer in head] == [*hidden, *hidden, "MuraHead"]
        assert [layer.out_features for layer in head if isinstance(layer, MuraHead)] == [8, 6, 2]
        expected = code
        for layer in head:
            if isinstance(layer, MuraHead):
                expected = expected @ layer.weight.T + layer.bias
            if isinstance(layer, MuraHeadNorm):
                with torch.no_grad():
                    layer.weight.uniform_(0.5, 2)
                    layer.bias.normal_()
                expected = (expected - expected.mean(0)) / torch.sqrt(expected.var(0, unbiased=False) + layer.eps)
                expected = expected * layer.weight + layer.bias
            if isinstance(layer, nn.Dropout) and activation == "relu":
                expected = expected.clamp_min(0)
        torch.testing.assert_close(head(code), expected)
        assert isinstance(make_head(32, 2, MuraConfig()), MuraHead)

    @pytest.mark.parametrize("place", [0, 1])
    def test_dropout_is_active_in_training_only(self, place):
        rates = [0.4, 0.0] if place == 0 else [0.0, 0.4]
        model = make_model(head_layers=[2000], head_dropout=rates)
        assert [model.dropout.p, model.classifier[-2].p] == rates
        seen = []
        watched = model.classifier[0 if place == 0 else -1]
        watched.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
        with torch.no_grad():  # so that only dropped values are 0
            model.classifier[0].weight.abs_()
            for mode in (True, False):
                model.train(mode).code_logits(torch.ones(100, 32))
        assert (seen[0] == 0).float().mean() == pytest.approx(0.4, abs=0.04)
        assert not (seen[1] == 0).any()
        torch.testing.assert_close(seen[0][seen[0] != 0] * 0.6, seen[1][seen[0] != 0])

    def test_all_heads_are_initialized(self):
        model = make_model(
            head_init="random", head_layers=[400], body_part_head=True, finding_types=["a", "b"], regions=["c", "d"],
            head_batch_norm=True,
        )  # fmt: skip
        others = (model.body_part_classifier, model.finding_classifier, model.region_classifier)
        for head in (model.classifier[0], *others):
            assert float(head.weight.detach().std()) == pytest.approx(0.05, rel=0.25)
            assert not head.bias.any()
        assert torch.equal(model.classifier[1].weight, torch.ones(400))
        embedding = make_model("mura_metric_learning", head_init="he", embedding_size=400).embedding
        assert float(embedding.weight.detach().std()) == pytest.approx(math.sqrt(2 / 32), rel=0.05)


class TestFindings:
    @pytest.mark.parametrize("findings", [[-1, 2, -1, 0], [-1, -1, -1, -1]])
    def test_unknown_findings_are_ignored(self, findings):
        model, views = make_model(finding_types=["a", "b", "c"]), torch.randn(4, 3, 64, 64)
        findings, labels = torch.tensor(findings), torch.tensor([0, 1, 0, 1])
        output = model(views, labels=labels, findings=findings)
        expected, known = functional.cross_entropy(output.logits, labels), findings >= 0
        if known.any():
            expected = expected + functional.cross_entropy(output.finding_logits[known], findings[known])
        torch.testing.assert_close(output.loss, expected)
        output.loss.backward()
        gradient = model.finding_classifier.weight.grad
        assert torch.isfinite(gradient).all()
        assert bool(gradient.any()) == bool(known.any())
        with pytest.raises(ValueError, match="no head for them; set finding_types"):
            make_model()(views, findings=findings)

    @pytest.mark.parametrize("pooling", ["noisy_or", "gated_attention"])
    def test_types_of_a_study_are_weighted_like_its_views(self, pooling):
        model = make_model(finding_types=["a", "b"], study_pooling=pooling)
        views, mask = torch.randn(2, 3, 3, 64, 64), torch.tensor([[True] * 3, [True, False, True]])
        with torch.no_grad():
            study = model(views, mask)
            of_views = torch.stack([model(images).finding_logits for images in views]).softmax(-1)
        torch.testing.assert_close(study.finding_logits.exp(), (study.view_weights[..., None] * of_views).sum(1))


def _studies(spread, seed=0, studies=24, views=4):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, spread, (studies, views, 2))
    mask = rng.random((studies, views)) < 0.6
    mask[np.arange(studies), rng.integers(views, size=studies)] = True
    return logits, mask


def _reference(margins, how):
    """Log-odds and weights from the probabilities of the views of one study, to 1000 digits."""
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


class TestPooling:
    @pytest.mark.parametrize("spread", [1.0, 200.0])
    @pytest.mark.parametrize("how", PLAIN)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_equals_the_formula_on_probabilities(self, how, spread, dtype):
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
    def test_certain_views_have_finite_values_and_gradients(self, how):
        for margins in [(200, 200), (-200, -200), (200, -200), (-200, -18), (0, 0), (-30, -30)]:
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
    def test_gradients_padding_and_order(self, how):
        logits, mask = _studies(2.0, studies=5)
        views = torch.tensor(logits, requires_grad=True)
        assert torch.autograd.gradcheck(lambda values: pool_views(values, torch.tensor(mask), how)[0], (views,))
        views, mask = views.detach(), torch.ones(views.shape[:2], dtype=torch.bool)
        pooled, weights = pool_views(views, mask, how)
        padded = torch.cat([views, torch.full_like(views, 1e6)], dim=1)
        again, longer = pool_views(padded, torch.cat([mask, ~mask], dim=1), how)
        torch.testing.assert_close(again, pooled)
        torch.testing.assert_close(longer[:, :4], weights)
        reversed_pooled, reversed_weights = pool_views(views.flip(1), mask, how)
        torch.testing.assert_close(reversed_pooled, pooled)
        torch.testing.assert_close(reversed_weights.flip(1), weights)
        if how == "max":  # of equal views, one has all the weight
            shares = pool_views(torch.zeros(1, 3, 2), torch.tensor([[False, True, True]]), "max")[1]
            assert shares.tolist() == [[0, 1, 0]]

    def test_unknown_poolings_are_rejected(self):
        with pytest.raises(ValueError, match="'sum'; choose mean, max or noisy_or"):
            pool_views(torch.zeros(1, 1, 2), torch.ones(1, 1, dtype=torch.bool), "sum")

    def test_gated_attention_is_the_formula_of_the_paper(self):
        attention, codes = GatedAttention(6, 5).double(), torch.randn(2, 3, 6).double()
        layers = (attention.value, attention.gate, attention.score)
        (v, b), (u, c), (w, d) = ([one.detach() for one in layer.parameters()] for layer in layers)
        gated = torch.tanh(codes @ v.T + b) / (1 + torch.exp(-(codes @ u.T + c)))
        torch.testing.assert_close(attention(codes), (gated @ w.T + d)[..., 0])

    @pytest.mark.parametrize(
        ("shape", "mask", "message"),
        [
            ((1, 3, 8, 8), None, "studies, views"),
            ((2, 2, 3, 8, 8), torch.tensor([[1, 1], [0, 0]]), "at least one view"),
            ((2, 2, 3, 8, 8), torch.ones(2, 3), "studies, views"),
        ],
    )
    def test_masks(self, shape, mask, message):
        with pytest.raises(ValueError, match=message):
            check_view_mask(torch.zeros(shape), mask)
        values = torch.arange(6.0).view(3, 2)
        placed = scatter_views(values, torch.tensor([[True, False], [True, True]]))
        assert placed.tolist() == [[[0, 1], [0, 0]], [[2, 3], [4, 5]]]

    @pytest.mark.parametrize(("family", "how"), [*product(["mura"], ALL), *product(FAMILIES, ["gated_attention"])])
    def test_a_study_of_one_view_equals_the_view(self, family, how):
        model, view = make_model(family, study_pooling=how), torch.randn(2, 3, 64, 64)
        with torch.no_grad():
            logits = model(view).logits
            study = model(view[:, None])
        torch.testing.assert_close(study.pooled_logit, logits[:, 1] - logits[:, 0])
        torch.testing.assert_close(study.study_logits.exp(), logits.softmax(-1))
        torch.testing.assert_close(study.single_view_logit[:, 0], study.pooled_logit)
        torch.testing.assert_close(study.view_weights, torch.ones(2, 1))

    @pytest.mark.parametrize("how", ALL)
    def test_padded_views_hold_zeros_and_change_nothing(self, how):
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

    def test_the_attended_code_is_classified_and_all_of_the_attention_learns(self):
        model, views = make_model(study_pooling="gated_attention", head_layers=[8]), torch.randn(2, 3, 3, 64, 64)
        study = model(views, labels=torch.tensor([0, 1]))
        codes, attention = study.pooler_output, model.attention
        weights = attention(codes).softmax(1)
        logits = model.classifier((weights[..., None] * codes).sum(1))
        torch.testing.assert_close(study.view_weights, weights)
        torch.testing.assert_close(study.study_logits, logits.log_softmax(-1))
        study.loss.backward()
        for layer in (attention.value, attention.gate, attention.score):
            assert layer.weight.grad.abs().max() > 0
