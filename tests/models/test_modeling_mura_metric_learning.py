import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.conftest import check_round_trip, make_model


def _siamese(**fields):
    return make_model("mura_metric_learning", **{"embedding_size": 12, **fields})


def _train(model, steps=3):
    """Some steps of stochastic gradient descent on what is trained, in training mode as a trainer sets it."""
    torch.manual_seed(1)
    chosen = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(chosen, lr=0.5)
    for _ in range(steps):
        optimizer.zero_grad()
        output = model(torch.randn(4, 3, 64, 64), labels=torch.tensor([0, 1, 1, 0]))
        (output.loss + output.embeddings.square().mean()).backward()
        optimizer.step()


def test_round_trip(tmp_path):
    check_round_trip(_siamese(body_part_head=True, study_pooling="gated_attention", temperature=1.4), tmp_path)


def test_is_a_linear_embedding_of_the_code_and_a_classifier_on_it():
    model = _siamese(head_layers=[7], temperature=2.0)
    with torch.no_grad():
        output = model(torch.randn(3, 3, 64, 64))
        embeddings = functional.linear(output.pooler_output, model.embedding.weight, model.embedding.bias)
        hidden = functional.linear(embeddings, model.classifier[0].weight, model.classifier[0].bias).relu()
        logits = functional.linear(hidden, model.classifier[-1].weight, model.classifier[-1].bias) / 2
    assert output.embeddings.shape == (3, 12)
    torch.testing.assert_close(output.embeddings, embeddings)
    torch.testing.assert_close(output.logits, logits)
    assert output.embeddings.norm(dim=1).std() > 1e-4  # not normalised


def test_other_heads_use_the_code_and_one_position_scores_like_the_map():
    model, feature_map = (
        _siamese(body_part_head=True, finding_types=["a", "b"], temperature=1.7),
        torch.rand(2, 32, 1, 1),
    )
    with torch.no_grad():
        logits = model.classify(feature_map).logits
        torch.testing.assert_close(model.score_map(feature_map)[:, 0, 0], logits[:, 1] - logits[:, 0])
        output = model(torch.randn(2, 3, 64, 64))
        torch.testing.assert_close(output.body_part_logits, model.body_part_classifier(output.pooler_output))
        torch.testing.assert_close(output.finding_logits, model.finding_classifier(output.pooler_output))


@pytest.mark.parametrize("stage", ["joint", "embedding", "classifier"])
def test_a_stage_trains_only_its_part(stage):
    model = _siamese(head_layers=[6], head_batch_norm=True)
    model.train()
    model.start_stage(stage)
    before = copy.deepcopy(model.state_dict())
    _train(model)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(before[name], value)}
    classifier = {name for name in before if name.startswith("classifier.")}
    # A bias in front of batch normalisation has no gradient to speak of; rounding may move it or not.
    unsure = {name for name in before if name.endswith("classifier.0.bias")}
    expected = {"joint": set(before), "embedding": set(before) - classifier, "classifier": classifier}[stage]
    assert moved - unsure == expected - unsure


@pytest.mark.parametrize("late", [False, True])
def test_embeddings_are_fixed_while_the_classifier_is_trained(late):
    model, views = _siamese(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before = model(views).embeddings
    if late:  # in whichever order a trainer does it
        model.train()
        model.start_stage("classifier")
    else:
        model.start_stage("classifier")
        model.train()
    _train(model)
    with torch.no_grad():
        assert torch.equal(model(views).embeddings, before)
        assert torch.equal(model.eval()(views).embeddings, before)
    model.train()
    model.start_stage("joint")
    assert all(module.training for module in model.modules() if isinstance(module, nn.BatchNorm2d))
