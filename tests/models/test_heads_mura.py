import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional

from mura_hf import MuraConfig
from mura_hf.models.heads_mura import GatedAttention, MuraHead, MuraHeadNorm, make_head
from tests.conftest import make_model

LAYERS = ["MuraHead", "MuraHeadNorm", "ReLU", "Dropout"]


def _names(head):
    return [type(layer).__name__ for layer in head]


def test_a_head_of_one_layer_is_one_layer():
    head = make_head(32, 2, MuraConfig())
    assert isinstance(head, MuraHead)
    assert head.weight.shape == (2, 32)


def test_the_head_of_study_c_has_its_layers_and_dropouts():
    model = make_model(head_layers=[256, 128, 32], head_dropout=[0.5, 0.5, 0.0, 0.0], head_activation="none")
    assert model.dropout.p == 0.5
    linear = [layer for layer in model.classifier if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(32, 256), (256, 128), (128, 32), (32, 2)]
    assert _names(model.classifier) == ["MuraHead", "Dropout"] * 3 + ["MuraHead"]
    assert [layer.p for layer in model.classifier if isinstance(layer, nn.Dropout)] == [0.5, 0.0, 0.0]

    code = torch.randn(5, 32)
    matrix, shift = np.eye(32), np.zeros(32)
    with torch.no_grad():
        for layer in linear:
            layer.bias.normal_()
            matrix, shift = layer.weight.double().numpy() @ matrix, layer.weight.double().numpy() @ shift
            shift = shift + layer.bias.double().numpy()
        found = model.code_logits(code)
    np.testing.assert_allclose(found, code.double().numpy() @ matrix.T + shift, rtol=1e-4, atol=1e-4)


def test_layers_stand_in_their_order():
    config = MuraConfig(head_layers=[8, 6], head_dropout=[0.1, 0.2, 0.3], head_batch_norm=True)
    head = make_head(4, 2, config)
    assert _names(head) == [*LAYERS, *LAYERS, "MuraHead"]
    assert [layer.p for layer in head if isinstance(layer, nn.Dropout)] == [0.2, 0.3]


@pytest.mark.parametrize("activation", ["relu", "none"])
def test_equals_the_formula_with_batch_norm(activation):
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
def test_each_dropout_drops_its_share_in_training_alone(place):
    model = make_model(head_layers=[2000], head_dropout=[0.4, 0.0] if place == 0 else [0.0, 0.4])
    seen = []
    watched = model.classifier[0 if place == 0 else -1]
    watched.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    with torch.no_grad():  # so that nothing is 0 but what is dropped
        model.classifier[0].weight.abs_()
        for mode in (True, False):
            model.train(mode).code_logits(torch.ones(100, 32))
    dropped = (seen[0] == 0).float().mean()
    assert dropped == pytest.approx(0.4, abs=0.04)
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
def test_layers_start_as_the_config_says(init, distribution):
    torch.manual_seed(1)
    layer = MuraHead(400, 300, init)
    layer.initialize()
    weights = layer.weight.detach().double().numpy().ravel()
    assert stats.kstest(weights, distribution.cdf).pvalue > 1e-3
    assert weights.std() == pytest.approx(distribution.std(), rel=0.01)
    assert not layer.bias.any()


def test_every_head_of_a_model_starts_so():
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


def test_norms_start_anew():
    norm = MuraHeadNorm(3)
    norm(torch.randn(9, 3) + 5)
    norm.initialize()
    assert torch.equal(norm.running_mean, torch.zeros(3))
    assert torch.equal(norm.running_var, torch.ones(3))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"head_layers": [8, 0]}, "widths"),
        ({"attention_size": 0}, "widths"),
        ({"head_dropout": 1.0}, r"\[0, 1\)"),
        ({"head_dropout": -0.1}, r"\[0, 1\)"),
        ({"head_dropout": [0.5], "head_layers": [8]}, r"layer of the head \(2\)"),
        ({"head_dropout": [0.5, 0.5]}, r"layer of the head \(1\)"),
        ({"head_activation": "gelu"}, "relu, none"),
        ({"head_init": "ones"}, "small, he, xavier, random"),
        ({"finding_types": ["fracture"]}, "at least two different types"),
        ({"finding_types": ["fracture", "fracture"]}, "at least two different types"),
    ],
)
def test_refuses_heads_that_cannot_be(fields, message):
    with pytest.raises(ValueError, match=message):
        MuraConfig(**fields)


class TestFindings:
    def test_what_is_not_known_does_not_count(self):
        model, views = make_model(finding_types=["a", "b", "c"]), torch.randn(4, 3, 64, 64)
        findings, labels = torch.tensor([-1, 2, -1, 0]), torch.tensor([0, 1, 0, 1])
        output = model(views, labels=labels, findings=findings)
        known = functional.cross_entropy(output.finding_logits[[1, 3]], torch.tensor([2, 0]))
        torch.testing.assert_close(output.loss, functional.cross_entropy(output.logits, labels) + known)
        output.loss.backward()
        assert model.finding_classifier.weight.grad.any()

    def test_a_batch_without_any_adds_nothing(self):
        model, views = make_model(finding_types=["a", "b"]), torch.randn(2, 3, 64, 64)
        labels = torch.tensor([0, 1])
        output = model(views, labels=labels, findings=torch.tensor([-1, -1]))
        torch.testing.assert_close(output.loss, functional.cross_entropy(output.logits, labels))
        output.loss.backward()
        assert torch.isfinite(model.finding_classifier.weight.grad).all()

    def test_findings_need_a_head(self):
        with pytest.raises(ValueError, match="no head for them; set finding_types"):
            make_model()(torch.zeros(1, 3, 64, 64), findings=torch.tensor([0]))

    @pytest.mark.parametrize("pooling", ["mean", "max", "noisy_or", "gated_attention"])
    def test_a_study_weighs_types_as_it_weighs_views(self, pooling):
        model = make_model(finding_types=["a", "b"], study_pooling=pooling)
        views, mask = torch.randn(2, 3, 3, 64, 64), torch.tensor([[True] * 3, [True, False, True]])
        with torch.no_grad():
            study = model(views, mask)
            alone = torch.stack([model(pictures).finding_logits for pictures in views]).softmax(-1)
        expected = (study.view_weights[..., None] * alone).sum(1)
        torch.testing.assert_close(study.finding_logits.exp(), expected)


def test_gated_attention_is_the_papers_formula():
    attention, codes = GatedAttention(6, 5).double(), torch.randn(2, 3, 6).double()
    value, gate, score = (
        {name: parameter.detach().numpy() for name, parameter in layer.named_parameters()}
        for layer in (attention.value, attention.gate, attention.score)
    )
    for study in range(2):
        for view in range(3):
            code = codes[study, view].numpy()
            gated = 1 / (1 + np.exp(-(gate["weight"] @ code + gate["bias"])))
            expected = score["weight"] @ (np.tanh(value["weight"] @ code + value["bias"]) * gated) + score["bias"]
            assert float(attention(codes).detach()[study, view]) == pytest.approx(float(expected[0]), abs=1e-12)
