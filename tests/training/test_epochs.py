import json

import pytest
import torch
from safetensors.torch import load_file

from mura_hf.errors import ConfigError, TrainingError
from mura_hf.training import epochs
from mura_hf.training.loop import make_accelerator

from .conftest import TINY, train_tiny


@pytest.fixture
def lose(monkeypatch):
    """Makes the loss of chosen calls no number."""

    def choose(calls):
        made = epochs.batch_loss
        count = [0]

        def spy(*given, **named):
            count[0] += 1
            loss = made(*given, **named)
            return loss * float("nan") if count[0] in calls else loss

        monkeypatch.setattr(epochs, "batch_loss", spy)

    return choose


def test_a_step_without_a_finite_loss_changes_nothing_but_the_count(lose, phantom_splits, tmp_path, monkeypatch):
    lose({2, 6})
    noted = []
    step = epochs.train_step

    def spy(run, going, iterator, number):
        before = {name: value.clone() for name, value in run.model.state_dict().items()}
        average = {name: value.clone() for name, value in going.averaged.module.state_dict().items()}
        made = step(run, going, iterator, number)
        after = run.model.state_dict()
        moved = [name for name in before if not torch.equal(before[name], after[name])]
        counts = [name for name in moved if name.endswith("num_batches_tracked")]
        noted.append((made.lost, len(moved) - len(counts)))
        if made.lost:
            kept = going.averaged.module.state_dict()
            assert all(torch.equal(value, kept[name]) for name, value in average.items())
        return made

    monkeypatch.setattr(epochs, "train_step", spy)
    folder, lines = train_tiny(phantom_splits, tmp_path / "run", ema_decay=0.9, epochs=2)
    assert [number for number, (lost, _) in enumerate(noted, 1) if lost] == [2, 6]
    assert all(moved == 0 if lost else moved > 10 for lost, moved in noted)
    assert [line["skipped_steps"] for line in lines] == [1, 1]
    assert all(torch.isfinite(value).all() for value in load_file(folder / "model.safetensors").values())


def test_too_many_of_them_end_the_run_and_leave_what_was_kept(lose, phantom_splits, tmp_path):
    lose(range(6, 99))
    with pytest.raises(TrainingError, match="not finite in 2 steps of the epoch, more than max_skipped_steps"):
        train_tiny(phantom_splits, tmp_path / "run", epochs=3, max_skipped_steps=1)
    kept = load_file(tmp_path / "run" / "checkpoint" / "model.safetensors")  # of the first epoch
    assert all(torch.isfinite(value).all() for value in kept.values())
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1


def test_gradients_add_up_over_a_step(phantom_splits, tmp_path):
    """Without batch norm and dropout, four batches of four are one of sixteen."""
    options = {
        "backbone": "convnext_atto",
        "backbone_kwargs": {"dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]},
        "epochs": 1,
    }
    losses = {}
    for size, batches in ((16, 1), (4, 4)):
        _, lines = train_tiny(
            phantom_splits, tmp_path / str(size), batch_size=size, accumulation=batches, **options,
            class_weighting=False, max_gradient_norm=0,
        )  # fmt: skip
        losses[size] = (lines[0]["train_loss"], lines[0]["dev_loss"])
    rest = len(phantom_splits["train"]) % 16
    assert losses[4] == pytest.approx(losses[16], rel=1e-3 if rest < 4 else 0.1)


def test_it_compiles_where_asked(phantom_splits, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, *given, **named: compiled.append(type(self).__name__))
    train_tiny(phantom_splits, tmp_path / "run", epochs=1, compile=True)
    assert compiled == ["MuraForImageClassification"]


def test_what_a_cpu_cannot_do_and_trackers_that_are_not_there_are_refused(phantom_splits, tmp_path):
    with pytest.raises(ConfigError, match="fp16"):
        train_tiny(phantom_splits, tmp_path / "run", precision="fp16")
    with pytest.raises(ConfigError, match="nonsense"):
        make_accelerator(TINY, cpu=True, tracker="nonsense")
    assert not (tmp_path / "run").exists()


def test_a_tracker_is_told(phantom_splits, tmp_path, monkeypatch):
    from accelerate import Accelerator

    told = []
    monkeypatch.setattr(Accelerator, "log", lambda self, values, step=None: told.append((step, values)))
    _, lines = train_tiny(phantom_splits, tmp_path / "run", epochs=2)
    assert [step for step, _ in told] == [4, 8]
    assert [values["dev_auroc"] for _, values in told] == [line["dev"]["auroc"] for line in lines]
    assert json.dumps(told[0][1])
