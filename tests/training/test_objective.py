import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from timm.data import Mixup
from torch.nn import functional

from mura_hf import ConfigError
from mura_hf.training import TrainingConfig, load_config
from mura_hf.training.objective import SHARE, UNKNOWN_FINDING, Targets, batch_loss, draw_share, mix_batch, read_targets

PLAIN = TrainingConfig().replace(pretrained=False, body_part_head=True, body_part_weight=0.5)
SIZE = (24, 32)


def _batch(n=6):
    generator = torch.Generator().manual_seed(0)
    return {
        "pixel_values": torch.randn(n, 3, *SIZE, generator=generator),
        "labels": torch.tensor([0, 1, 1, 0, 1, 0])[:n],
        "body_parts": torch.tensor([0, 3, -1, 6, 2, 2])[:n],
        "index": torch.arange(n),
    }


def test_mixes_as_timm_does(monkeypatch):
    config, batch = PLAIN.replace(mixup=0.8), _batch()
    drawn = draw_share(config, (1, 2, 0))
    found = mix_batch(batch, config, (1, 2, 0))
    reference = Mixup(mixup_alpha=0.8, label_smoothing=0.0, num_classes=2)
    monkeypatch.setattr(reference, "_params_per_batch", lambda: (drawn, False))
    views, targets = reference(batch["pixel_values"].clone(), batch["labels"])
    assert 0 < drawn < 1
    torch.testing.assert_close(found["pixel_values"], views)
    share, labels = float(found[SHARE]), found["labels"]
    soft = share * functional.one_hot(labels, 2) + (1 - share) * functional.one_hot(labels.flip(0), 2)
    torch.testing.assert_close(soft, targets)
    assert torch.equal(batch["pixel_values"], _batch()["pixel_values"])  # the loader's own is left alone


def test_draws_depend_on_seed_and_position_alone():
    config = PLAIN.replace(mixup=0.4, seed=3)
    first = draw_share(config, (4, 5, 1))
    for seed in (0, 1):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        assert draw_share(config, (4, 5, 1)) == first
    before = torch.get_rng_state()
    mix_batch(_batch(), config, (4, 5, 1))
    assert torch.equal(torch.get_rng_state(), before)
    others = [(config, 4, 5, 0), (config, 4, 6, 1), (config, 5, 5, 1), (PLAIN.replace(mixup=0.4, seed=4), 4, 5, 1)]
    assert all(draw_share(one, position) != first for one, *position in others)


def test_nothing_is_done_where_nothing_is_asked():
    batch = _batch()
    assert mix_batch(batch, PLAIN, (0, 0, 0)) is batch


def _loss(batch, config, weights=None, findings=None):
    generator = torch.Generator().manual_seed(1)
    n = len(batch["labels"])
    output = SimpleNamespace(
        logits=torch.randn(n, 2, generator=generator),
        body_part_logits=torch.randn(n, 7, generator=generator),
        finding_logits=torch.randn(n, 3, generator=generator),
    )
    loss = batch_loss(
        output, batch, config, Targets(weights, findings), trains="all", metric_loss=None,
        accelerator=Accelerator(cpu=True), model=torch.nn.Identity(),
    )  # fmt: skip
    return output, float(loss)


def test_the_loss_is_that_of_soft_labels():
    share, batch = 0.3, {**_batch(), SHARE: torch.tensor(0.3)}
    weights = torch.tensor([0.4, 0.6])
    output, found = _loss(batch, PLAIN, weights)
    labels = functional.one_hot(batch["labels"], 2).double()
    soft = share * labels + (1 - share) * labels.flip(0)
    expected = -(soft * weights * output.logits.double().log_softmax(-1)).sum(1).mean()
    parts, known = batch["body_parts"], 0.0
    logs = output.body_part_logits.double().log_softmax(-1)
    for row in range(6):
        for part, weight in ((int(parts[row]), share), (int(parts[5 - row]), 1 - share)):
            if part >= 0:
                known -= weight * float(logs[row, part])
    assert found == pytest.approx(float(expected) + 0.5 * known / 5, rel=1e-6)


def test_the_targets_of_studies_are_in_the_order_of_their_first_views():
    rows = Dataset.from_dict(
        {"study_id": ["A", "B", "A"], "label": [1, 0, 1], "finding": ["fracture", None, "fracture"]}
    )
    config = PLAIN.replace(level="study", finding_weight=1.0, model_kwargs={"finding_types": ["lesion", "fracture"]})
    targets = read_targets(config, rows, torch.device("cpu"))
    assert targets.findings.tolist() == [1, UNKNOWN_FINDING]
    assert targets.weights.tolist() == [0.5, 0.5]  # of studies, not of views


def test_smoothed_labels_and_findings_are_mixed_too():
    batch, findings = _batch(), torch.tensor([-1, 2, 0, -1, 1, -1])
    changes = {"label_smoothing": 0.1, "finding_weight": 0.7, "model_kwargs": {"finding_types": ["a", "b", "c"]}}
    config, shares = PLAIN.replace(**changes), (0.0, 0.3, 1.0)
    whole = {share: _loss({**batch, SHARE: torch.tensor(share)}, config, None, findings)[1] for share in shares}
    turned = {**batch, **{name: batch[name].flip(0) for name in ("labels", "body_parts", "index")}}
    assert whole[1.0] == pytest.approx(_loss(batch, config, None, findings)[1])
    assert whole[0.0] == pytest.approx(_loss(turned, config, None, findings)[1])
    assert whole[0.3] == pytest.approx(0.3 * whole[1.0] + 0.7 * whole[0.0], rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"level": "study"}, "level study"),
        ({"region_weight": 1.0}, "region_weight"),
        ({"stages": [{"epochs": 1, "patch_size": 64}, {"epochs": 1}]}, "patches"),
        ({"family": "metric_learning", "metric_loss": "triplet_margin"}, "metric_loss"),
        ({"family": "fusenet"}, "family fusenet"),
    ],
)
def test_what_has_no_label_when_mixed_is_refused(changes, what):
    with pytest.raises(ConfigError, match=f"does not go with {what}.*; set mixup to 0"):
        load_config("mura_paper", **changes, mixup=0.2)
