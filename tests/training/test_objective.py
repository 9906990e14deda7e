import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from timm.data import Mixup
from timm.data import mixup as timm_mixup
from torch.nn import functional

from mura_hf import ConfigError
from mura_hf.training import TrainingConfig, load_config
from mura_hf.training.objective import SHARE, Targets, batch_loss, draw_mix, mix_batch

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


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixes_as_timm_does(kind, monkeypatch):
    config, batch = PLAIN.replace(**{kind: 0.8}), _batch()
    mix = draw_mix(config, SIZE, (1, 2, 0))
    found = mix_batch(batch, config, (1, 2, 0))
    reference = Mixup(mixup_alpha=0.8, cutmix_alpha=0.8, label_smoothing=0.0, num_classes=2)
    monkeypatch.setattr(reference, "_params_per_batch", lambda: (mix.share, kind == "cutmix"))
    monkeypatch.setattr(timm_mixup, "rand_bbox", lambda *given, **options: mix.box)
    views, targets = reference(batch["pixel_values"].clone(), batch["labels"])
    assert 0 < mix.share < 1
    torch.testing.assert_close(found["pixel_values"], views)
    share, labels = float(found[SHARE]), found["labels"]
    soft = share * functional.one_hot(labels, 2) + (1 - share) * functional.one_hot(labels.flip(0), 2)
    torch.testing.assert_close(soft, targets)
    assert torch.equal(batch["pixel_values"], _batch()["pixel_values"])  # the loader's own is left alone


def test_the_share_is_what_is_seen():
    config = PLAIN.replace(cutmix=1.0)
    cut_off = 0
    for step in range(100):
        mix = draw_mix(config, SIZE, (0, step, 0))
        top, bottom, left, right = mix.box
        assert 0 <= top <= bottom <= SIZE[0]
        assert 0 <= left <= right <= SIZE[1]
        assert mix.share == pytest.approx(1 - (bottom - top) * (right - left) / (SIZE[0] * SIZE[1]))
        cut_off += top == 0 or bottom == SIZE[0]
    assert 10 < cut_off < 90


@pytest.mark.parametrize("alpha", [0.2, 4.0])
def test_shares_are_drawn_from_beta(alpha):
    config = PLAIN.replace(mixup=alpha)
    shares = [draw_mix(config, SIZE, (0, step, 0)).share for step in range(400)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.05)
    assert np.var(shares) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.2)


def test_a_toss_decides_between_both():
    config = PLAIN.replace(mixup=0.2, cutmix=1.0)
    kinds = [draw_mix(config, SIZE, (0, step, 0)).box is None for step in range(200)]
    assert 75 < sum(kinds) < 125


def test_draws_depend_on_seed_and_place_alone():
    config = PLAIN.replace(mixup=0.4, seed=3)
    first = draw_mix(config, SIZE, (4, 5, 1))
    for seed in (0, 1):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        assert draw_mix(config, SIZE, (4, 5, 1)) == first
    before = torch.get_rng_state()
    mix_batch(_batch(), config, (4, 5, 1))
    assert torch.equal(torch.get_rng_state(), before)
    others = [(config, 4, 5, 0), (config, 4, 6, 1), (config, 5, 5, 1), (PLAIN.replace(mixup=0.4, seed=4), 4, 5, 1)]
    assert all(draw_mix(one, SIZE, place) != first for one, *place in others)


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
        ({"sampling": "hard"}, "sampling hard"),
    ],
)
def test_what_has_no_label_when_mixed_is_refused(changes, what):
    for kind in ("mixup", "cutmix"):
        with pytest.raises(ConfigError, match=f"do not go with {what}.*; set mixup and cutmix to 0"):
            load_config("mura_paper", **changes, **{kind: 0.2})
