import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.checkpoints import check_round_trip, make_model


def _siamese(**fields):
    return make_model("mura_metric_learning", **{"embedding_size": 12, **fields})


def _train(model):
    torch.manual_seed(1)
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        output = model(torch.randn(4, 3, 64, 64), labels=torch.tensor([0, 1, 1, 0]))
        (output.loss + output.embeddings.square().mean()).backward()
        optimizer.step()


def test_round_trip(tmp_path):
    check_round_trip(_siamese(body_part_head=True, study_pooling="gated_attention", temperature=1.4), tmp_path)


def test_is_a_linear_embedding_of_the_code_and_a_classifier_on_it():
    model = _siamese(
        head_layers=[7], temperature=2.0, body_part_head=True, regions=["c", "d"], finding_types=["a", "b"]
    )
    with torch.no_grad():
        output = model(torch.randn(3, 3, 64, 64))
        code = output.pooler_output
        embeddings = functional.linear(code, model.embedding.weight, model.embedding.bias)
        hidden = functional.linear(embeddings, model.classifier[0].weight, model.classifier[0].bias).relu()
        logits = functional.linear(hidden, model.classifier[-1].weight, model.classifier[-1].bias) / 2
        torch.testing.assert_close(output.embeddings, embeddings)
        torch.testing.assert_close(output.logits, logits)
        torch.testing.assert_close(output.body_part_logits, model.body_part_classifier(code))
        torch.testing.assert_close(output.finding_logits, model.finding_classifier(code))
        torch.testing.assert_close(output.region_logits, model.region_classifier(code))
        assert output.embeddings.norm(dim=1).std() > 1e-4  # not normalized
        feature_map = torch.rand(2, 32, 1, 1)
        logits = model.classify(feature_map).logits
        torch.testing.assert_close(model.score_map(feature_map)[:, 0, 0], logits[:, 1] - logits[:, 0])


@pytest.mark.parametrize("stage", ["joint", "embedding", "classifier"])
@pytest.mark.parametrize("late", [False, True])  # the order in which a trainer sets mode and stage
def test_a_stage_trains_only_its_part(stage, late):
    model, views = _siamese(head_layers=[6], head_batch_norm=True), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        embeddings = model(views).embeddings
    for step in (model.train, lambda: model.start_stage(stage))[:: 1 if late else -1]:
        step()
    before = copy.deepcopy(model.state_dict())
    _train(model)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(before[name], value)}
    classifier = {name for name in before if name.startswith("classifier.")}
    # A bias in front of batch normalization has no gradient to speak of; rounding may move it or not.
    unsure = {name for name in before if name.endswith("classifier.0.bias")}
    expected = {"joint": set(before), "embedding": set(before) - classifier, "classifier": classifier}[stage]
    assert moved - unsure == expected - unsure
    with torch.no_grad():
        assert torch.equal(model(views).embeddings, embeddings) == (stage == "classifier")
    model.train()
    model.start_stage("joint")
    assert all(module.training for module in model.modules() if isinstance(module, nn.BatchNorm2d))
