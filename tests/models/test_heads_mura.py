import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional

from mura_hf import MuraConfig
from mura_hf.models.heads_mura import (
    GatedAttention,
    MuraHead,
    MuraHeadNorm,
    check_view_mask,
    make_head,
    pool_codes,
    pool_views,
    scatter_views,
)
from tests.conftest import make_model

PLAIN = ("mean", "max", "noisy_or")
ALL = (*PLAIN, "gated_attention")


class TestHead:
    def test_order_of_layers(self):
        single = make_head(32, 2, MuraConfig())
        assert isinstance(single, MuraHead)
        assert single.weight.shape == (2, 32)
        config = MuraConfig(head_layers=[8, 6], head_dropout=[0.1, 0.2, 0.3], head_batch_norm=True)
        head = make_head(4, 2, config)
        hidden = ["MuraHead", "MuraHeadNorm", "ReLU", "Dropout"]
        assert [type(layer).__name__ for layer in head] == [*hidden, *hidden, "MuraHead"]
        assert [layer.p for layer in head if isinstance(layer, nn.Dropout)] == [0.2, 0.3]

    def test_head_of_study_c(self):
        model = make_model(head_layers=[256, 128, 32], head_dropout=[0.5, 0.5, 0.0, 0.0], head_activation="none")
        assert model.dropout.p == 0.5
        linear = [layer for layer in model.classifier if isinstance(layer, nn.Linear)]
        assert [(layer.in_features, layer.out_features) for layer in linear] == [
            (32, 256), (256, 128), (128, 32), (32, 2),
        ]  # fmt: skip
        assert [type(layer).__name__ for layer in model.classifier] == ["MuraHead", "Dropout"] * 3 + ["MuraHead"]
        assert [layer.p for layer in model.classifier if isinstance(layer, nn.Dropout)] == [0.5, 0.0, 0.0]
        code = torch.randn(5, 32)
        matrix, shift = np.eye(32), np.zeros(32)
        with torch.no_grad():
            for layer in linear:
                layer.bias.normal_()
                weight = layer.weight.double().numpy()
                matrix, shift = weight @ matrix, weight @ shift + layer.bias.double().numpy()
            found = model.code_logits(code)
        np.testing.assert_allclose(found, code.double().numpy() @ matrix.T + shift, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("activation", ["relu", "none"])
    def test_equals_the_formula_with_batch_norm(self, activation):
        torch.manual_seed(0)
        head = make_head(4, 2, MuraConfig(head_layers=[8], head_batch_norm=True, head_activation=activation))
        code, first, norm = torch.randn(16, 4), head[0], head[1]
        with torch.no_grad():
            norm.weight.uniform_(0.5, 2)
            norm.bias.normal_()
        hidden = code @ first.weight.T + first.bias
        hidden = (hidden - hidden.mean(0)) / torch.sqrt(hidden.var(0, unbiased=False) + norm.eps)
        hidden = hidden * norm.weight + norm.bias
        hidden = hidden.clamp_min(0) if activation == "relu" else hidden
        torch.testing.assert_close(head(code), hidden @ head[-1].weight.T + head[-1].bias)

    @pytest.mark.parametrize("place", [0, 1])
    def test_dropout_is_active_in_training_only(self, place):
        model = make_model(head_layers=[2000], head_dropout=[0.4, 0.0] if place == 0 else [0.0, 0.4])
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

    @pytest.mark.parametrize(
        ("init", "distribution"),
        [
            ("he", stats.norm(0, math.sqrt(2 / 400))),
            ("xavier", stats.uniform(-math.sqrt(6 / 700), 2 * math.sqrt(6 / 700))),
            ("random", stats.norm(0, 0.05)),
            ("small", stats.norm(0, 0.02)),
        ],
    )
    def test_initialization_has_the_distribution(self, init, distribution):
        torch.manual_seed(1)
        layer = MuraHead(400, 300, init)
        layer.initialize()
        weights = layer.weight.detach().double().numpy().ravel()
        assert stats.kstest(weights, distribution.cdf).pvalue > 1e-3
        assert weights.std() == pytest.approx(distribution.std(), rel=0.01)
        assert not layer.bias.any()

    def test_all_heads_are_initialized(self):
        model = make_model(
            head_init="random", head_layers=[400], body_part_head=True, finding_types=["a", "b"], head_batch_norm=True
        )
        for head in (model.classifier[0], model.body_part_classifier, model.finding_classifier):
            assert float(head.weight.detach().std()) == pytest.approx(0.05, rel=0.25)
            assert not head.bias.any()
        assert torch.equal(model.classifier[1].weight, torch.ones(400))
        embedding = make_model("mura_metric_learning", head_init="he", embedding_size=400).embedding
        assert float(embedding.weight.detach().std()) == pytest.approx(math.sqrt(2 / 32), rel=0.05)
        fused = make_model("mura_fusenet", head_init="he").classifier
        assert float(fused.weight.detach().std()) == pytest.approx(math.sqrt(2 / 64), rel=0.25)
        norm = MuraHeadNorm(3)
        norm(torch.randn(9, 3) + 5)
        norm.initialize()
        assert torch.equal(norm.running_mean, torch.zeros(3))
        assert torch.equal(norm.running_var, torch.ones(3))


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

    def test_findings_need_a_head(self):
        with pytest.raises(ValueError, match="no head for them; set finding_types"):
            make_model()(torch.zeros(1, 3, 64, 64), findings=torch.tensor([0]))

    @pytest.mark.parametrize("pooling", ALL)
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
    @pytest.mark.parametrize("spread", [1.0, 20.0, 200.0])
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

    def test_ties_and_unknown_poolings(self):
        _, weights = pool_views(torch.zeros(1, 3, 2), torch.tensor([[False, True, True]]), "max")
        assert weights.tolist() == [[0, 1, 0]]
        with pytest.raises(ValueError, match="'sum'; choose mean, max or noisy_or"):
            pool_views(torch.zeros(1, 1, 2), torch.ones(1, 1, dtype=torch.bool), "sum")

    def test_attention_is_a_softmax_over_true_views(self):
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

    def test_gated_attention_is_the_formula_of_the_paper(self):
        attention, codes = GatedAttention(6, 5).double(), torch.randn(2, 3, 6).double()
        value, gate, score = (
            {name: parameter.detach().numpy() for name, parameter in layer.named_parameters()}
            for layer in (attention.value, attention.gate, attention.score)
        )
        for found, code in zip(attention(codes).flatten().tolist(), codes.flatten(0, 1).numpy(), strict=True):
            gated = 1 / (1 + np.exp(-(gate["weight"] @ code + gate["bias"])))
            expected = score["weight"] @ (np.tanh(value["weight"] @ code + value["bias"]) * gated) + score["bias"]
            assert found == pytest.approx(float(expected[0]), abs=1e-12)

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

    @pytest.mark.parametrize("how", ALL)
    @pytest.mark.parametrize("family", ["mura", "mura_metric_learning", "mura_fusenet"])
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
        scores = torch.tanh(codes @ attention.value.weight.T) * torch.sigmoid(codes @ attention.gate.weight.T)
        weights = (scores @ attention.score.weight.T)[..., 0].softmax(1)
        logits = model.classifier((weights[..., None] * codes).sum(1))
        torch.testing.assert_close(study.view_weights, weights)
        torch.testing.assert_close(study.study_logits, logits.log_softmax(-1))
        study.loss.backward()
        for layer in (attention.value, attention.gate, attention.score):
            assert layer.weight.grad.abs().max() > 0
