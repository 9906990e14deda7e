import signal

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from timm.utils import ModelEmaV3

from mura_hf import (
    DatasetError,
    MuraForImageClassification,
    MuraForMetricLearning,
    MuraFuseNetForImageClassification,
    MuraImageProcessor,
)
from mura_hf.data import ViewDataset
from mura_hf.errors import TrainingStopped
from mura_hf.training import MetricLoss, PatchStage, TrainingStage, predict_views, running

from .conftest import read_record, train_tiny

STILL = {"flip": 0.0, "rotation": 0.0, "scale": 0.0}


def _auroc_of(model, datasets, folder):
    dev = ViewDataset(datasets["dev"], MuraImageProcessor.from_pretrained(folder))
    return predict_views(model, dev, Accelerator(cpu=True)).study_metrics()["auroc"]


def test_fusenet_goes_through_its_stages(phantom_splits, tmp_path, monkeypatch):
    seen = {}
    start = MuraFuseNetForImageClassification.start_stage

    def spy(model, name):
        seen[name] = {key: value.clone() for key, value in model.state_dict().items()}
        start(model, name)

    monkeypatch.setattr(MuraFuseNetForImageClassification, "start_stage", spy)
    written = []
    save = running.save_state

    def keep(run, going, fresh=None):
        save(run, going, fresh)
        if fresh and run.progress.stage == 0:
            written.append(load_file(run.state / "best.safetensors"))

    monkeypatch.setattr(running, "save_state", keep)
    stages = [TrainingStage("global", 2, 1e-2), TrainingStage("local", 1), TrainingStage("fusion", 1)]
    folder, lines = train_tiny(phantom_splits, tmp_path / "run", family="fusenet", stages=stages)
    assert [(line["stage"], line["epoch"]) for line in lines] == [
        ("global", 1), ("global", 2), ("local", 1), ("fusion", 1),
    ]  # fmt: skip
    assert all(line["dev"] for line in lines)
    # The next stage starts from the best epoch of the one before.
    best = 1 + (lines[1]["dev"]["auroc"] > lines[0]["dev"]["auroc"])
    assert len(written) == best
    assert all(torch.equal(seen["local"][key], value) for key, value in written[best - 1].items())
    model = MuraFuseNetForImageClassification.from_pretrained(folder)
    kept = model.state_dict()
    for key, value in kept.items():
        moved = not torch.equal(seen["fusion"][key], value)
        assert moved == key.startswith("classifier."), key
    assert not torch.equal(kept["local_branch.classifier.weight"], kept["global_branch.classifier.weight"])
    record = read_record(folder)
    assert (record["stage"], record["epoch"], record["dev"]) == ("fusion", 1, lines[-1]["dev"])
    assert _auroc_of(model, phantom_splits, folder) == pytest.approx(lines[-1]["dev"]["auroc"], abs=1e-6)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "checkpoint", "curves.png", "finished.json", "metrics.jsonl", "run.json", "split_manifest.json",
    ]  # fmt: skip


def test_the_embedding_is_trained_first_and_not_judged(phantom_splits, tmp_path):
    folder, lines = train_tiny(
        phantom_splits, tmp_path / "run", family="metric_learning", sampling="classes", classes_per_batch=4,
        samples_per_class=4, classes_over="label_and_part", metric_loss=MetricLoss("batch_hard_triplet"),
        model={"embedding_size": 8}, stages=[TrainingStage("embedding", 2), TrainingStage("classifier", 2)],
    )  # fmt: skip
    assert [(line["stage"], line["dev"] is None) for line in lines] == [
        ("embedding", True), ("embedding", True), ("classifier", False), ("classifier", False),
    ]  # fmt: skip
    model = MuraForMetricLearning.from_pretrained(folder)
    assert model.config.embedding_size == 8


def test_joint_training_adds_the_weighted_loss_on_embeddings(phantom_splits, tmp_path):
    losses = {}
    for weight in (0.0, 1.0, 3.0):
        _, lines = train_tiny(
            phantom_splits, tmp_path / str(weight), family="metric_learning", batch_size=len(phantom_splits["train"]),
            metric_loss=MetricLoss("triplet_margin", {"margin": 0.5}), metric_weight=weight, epochs=1,
        )  # fmt: skip
        losses[weight] = lines[0]["train_loss"]  # of one step, before anything has moved
    assert losses[3.0] - losses[0.0] == pytest.approx(3 * (losses[1.0] - losses[0.0]), rel=1e-4)
    assert losses[1.0] > losses[0.0]


@pytest.mark.parametrize("pooling", ["gated_attention", "max", "noisy_or"])
def test_studies_are_trained_and_judged_whole(pooling, phantom_splits, tmp_path):
    folder, lines = train_tiny(
        phantom_splits, tmp_path / "run", level="study", batch_size=6, epochs=1, sampling="balanced",
        model={"study_pooling": pooling},
    )  # fmt: skip
    model = MuraForImageClassification.from_pretrained(folder).eval()
    assert _auroc_of(model, phantom_splits, folder) == pytest.approx(lines[0]["dev"]["auroc"], abs=1e-6)
    views = ViewDataset(phantom_splits["dev"], MuraImageProcessor.from_pretrained(folder))
    found = predict_views(model, views, Accelerator(cpu=True), batch_size=9)
    for study, (probability, *_) in list(found.by_study().items())[:4]:
        rows = [row for row, one in enumerate(found.study_ids) if one == study]
        pixels = torch.stack([views[row]["pixel_values"] for row in rows])
        with torch.inference_mode():
            alone = model(pixels[None])
        assert probability == pytest.approx(float(alone.study_logits[0, 1].exp()), abs=1e-5)
        np.testing.assert_allclose(found.probabilities[rows], alone.view_logits[0].softmax(-1)[:, 1], atol=1e-5)
    with pytest.raises(ValueError, match="predict once more"):
        found.with_probabilities(found.probabilities)


def test_hard_rows_are_drawn_by_what_they_cost(phantom_splits, tmp_path, monkeypatch):
    told = []
    from mura_hf.data import HardSampler

    take = HardSampler.set_losses
    monkeypatch.setattr(
        HardSampler, "set_losses", lambda self, rows, losses: (told.append((rows, losses)), take(self, rows, losses))
    )
    folder, _ = train_tiny(phantom_splits, tmp_path / "run", sampling="hard", epochs=2)
    n, batch = len(phantom_splits["train"]), 16
    assert len(told) == 2
    rows, losses = told[0]
    second = HardSampler(n, 0.5, 0)
    take(second, rows, losses)
    second.set_epoch(1)
    assert told[1][0].tolist() == list(second)[: len(rows)]
    assert len(rows) == len(losses) == n // batch * batch  # what is over is left out of the first epoch
    assert len(set(rows.tolist())) == len(rows)
    assert (losses > 0).all()
    again, _ = train_tiny(phantom_splits, tmp_path / "again", sampling="hard", epochs=2)
    weights = [load_file(one / "model.safetensors") for one in (folder, again)]
    assert all(torch.equal(weights[1][key], value) for key, value in weights[0].items())


def test_the_moving_average_is_judged_and_kept(phantom_splits, tmp_path, monkeypatch):
    averages = []
    made = running.set_up_stage

    def spy(*given):
        going = made(*given)
        averages.append(going.averaged)
        return going

    monkeypatch.setattr(running, "set_up_stage", spy)
    folder, lines = train_tiny(phantom_splits, tmp_path / "run", ema_decay=0.9, epochs=1)
    assert isinstance(averages[0], ModelEmaV3)
    kept = load_file(folder / "model.safetensors")
    assert all(torch.equal(value, kept[key]) for key, value in averages[0].module.state_dict().items())
    plain = load_file(train_tiny(phantom_splits, tmp_path / "plain", epochs=1)[0] / "model.safetensors")
    assert any(not torch.equal(value, plain[key]) for key, value in kept.items())
    model = MuraForImageClassification.from_pretrained(folder)
    assert _auroc_of(model, phantom_splits, folder) == pytest.approx(lines[0]["dev"]["auroc"], abs=1e-6)


def test_the_average_of_the_best_epochs_is_kept_with_both_figures(phantom_splits, tmp_path, monkeypatch):
    offered = {}
    judge = running._judge

    def spy(run, model, *further):
        found = judge(run, model, *further)
        weights = {key: value.clone() for key, value in model.state_dict().items()}
        offered.setdefault(run.progress.epoch + 1, (found.study_metrics()["auroc"], weights))
        return found

    monkeypatch.setattr(running, "_judge", spy)
    folder, lines = train_tiny(phantom_splits, tmp_path / "run", average_top_k=2, epochs=3)
    record = read_record(folder)
    offered = {epoch: offered[epoch] for epoch in (1, 2, 3)}
    best = sorted(offered, key=lambda epoch: (-offered[epoch][0], epoch))[:2]
    assert record["averaged"]["epochs"] == sorted(best)
    kept = load_file(folder / "model.safetensors")
    for key, value in kept.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, sum(offered[epoch][1][key] for epoch in best) / 2)
    assert record["dev"] == record["averaged"]["dev"]
    assert record["averaged"]["dev_of_best_epoch"] == lines[best[0] - 1]["dev"]
    model = MuraForImageClassification.from_pretrained(folder)
    assert _auroc_of(model, phantom_splits, folder) == pytest.approx(record["dev"]["auroc"], abs=1e-6)
    assert not (tmp_path / "run" / "states").exists()


def test_a_signal_while_the_average_is_judged_stops_too(phantom_splits, tmp_path, monkeypatch):
    average = running.average_weights

    def send(*given):
        signal.raise_signal(signal.SIGTERM)
        return average(*given)

    monkeypatch.setattr(running, "average_weights", send)
    with pytest.raises(TrainingStopped, match="SIGTERM at the average of the best epochs"):
        train_tiny(phantom_splits, tmp_path / "run", average_top_k=2, epochs=2)
    monkeypatch.setattr(running, "average_weights", average)
    folder, _ = train_tiny(phantom_splits, tmp_path / "run", average_top_k=2, epochs=2)
    assert read_record(folder)["averaged"]["epochs"] == [1, 2]
    assert read_record(folder)["resumed"] == 1


def test_a_stage_lets_go_of_what_it_prepared(phantom_splits, tmp_path, monkeypatch):
    known = []
    made = running.set_up_stage

    def spy(run, stage):
        going = made(run, stage)
        known.append((len(run.accelerator._optimizers), len(run.accelerator._models)))
        return going

    monkeypatch.setattr(running, "set_up_stage", spy)
    train_tiny(phantom_splits, tmp_path / "run", epochs=1, patches=PatchStage(epochs=1, size=32, batch_size=16))
    assert known == [(1, 1), (1, 1)]


def test_stops_where_dev_gets_no_better(phantom_splits, tmp_path):
    # With a rate of next to nothing every epoch is like the first, and of two alike the earlier is kept.
    folder, lines = train_tiny(
        phantom_splits, tmp_path / "run", patience=2, epochs=9, learning_rate=1e-30, optimizer="sgd", train_last=0,
    )  # fmt: skip
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert read_record(folder)["epoch"] == 1


def test_a_frozen_backbone_stays_as_it_was(phantom_splits, tmp_path):
    one, _ = train_tiny(phantom_splits, tmp_path / "one", train_last=0, epochs=1)
    two, _ = train_tiny(phantom_splits, tmp_path / "two", train_last=0, epochs=2, learning_rate=1e-2, optimizer="adam")
    before, after = (load_file(folder / "model.safetensors") for folder in (one, two))
    assert {key for key, value in after.items() if not torch.equal(value, before[key])} == {
        "classifier.weight",
        "classifier.bias",
    }


def test_the_type_of_finding_is_learned_from_rows_that_have_one(phantom_splits, tmp_path):
    types = sorted({kind for kind in phantom_splits["train"]["finding"] if kind})
    options = {"finding_weight": 1.0, "model": {"finding_types": types}, "epochs": 1}
    _, lines = train_tiny(phantom_splits, tmp_path / "run", **options)
    _, without = train_tiny(phantom_splits, tmp_path / "plain", epochs=1)
    assert lines[0]["train_loss"] - without[0]["train_loss"] == pytest.approx(np.log(len(types)), rel=0.2)
    with pytest.raises(
        DatasetError, match=r"the types bone, stone, and the data know degeneration, .*displaced_fracture"
    ):
        train_tiny(phantom_splits, tmp_path / "no", **{**options, "model": {"finding_types": ["bone", "stone"]}})
