"""Whole trainings of tiny models, and what they leave."""

import json
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file
from transformers import Trainer as TransformersTrainer
from transformers import TrainingArguments, default_data_collator

from mura_hf import (
    ConfigError,
    DatasetError,
    MuraForImageClassification,
    MuraForMetricLearning,
    MuraFuseNetForImageClassification,
    MuraImageProcessor,
    StudyPredictor,
)
from mura_hf.data import ViewDataset
from mura_hf.errors import TrainingError, TrainingStopped
from mura_hf.metrics import aggregate_studies
from mura_hf.training import Trainer, TrainingConfig, load_config, predict_views, train, trainer
from mura_hf.training.records import plot_curves
from tests.checkpoints import SIDE, make_model

from .conftest import CONVNEXT, TINY, read_record, train_tiny


def auroc_on_dev(model, datasets, folder):
    dev = ViewDataset(datasets["dev"], MuraImageProcessor.from_pretrained(folder))
    return predict_views(model, dev, Accelerator(cpu=True)).study_metrics()["auroc"]


def same_weights(one, other):
    one, other = (load_file(folder / "model.safetensors") for folder in (one, other))
    return all(torch.equal(one[key], value) for key, value in other.items())


def spy_on(monkeypatch, name, note):
    """Calls `note(trainer, result)` after each call of a method of the trainer."""
    method = getattr(Trainer, name)

    def spy(self, *given, **named):
        result = method(self, *given, **named)
        note(self, result)
        return result

    monkeypatch.setattr(Trainer, name, spy)


def watch(datasets, folder, broken=(), **changes):
    """Trains with a moving average and notes what happens; the loss of the steps in `broken` is NaN."""
    seen = SimpleNamespace(start=None, steps=[], judged={}, places=[], compiled=[], logged=[])
    make_step, evaluate, mix, compute = Trainer.train_step, Trainer.evaluate, trainer.mix_batch, trainer.batch_loss

    def changed(model, before):
        after = model.state_dict()
        return [name for name in before if not torch.equal(before[name], after[name])]

    def copy(model):
        return {name: value.clone() for name, value in model.state_dict().items()}

    def spy_on_step(self, iterator, number):
        weights, average = copy(self.model), copy(self.ema.module)
        seen.start = seen.start or weights
        result = make_step(self, iterator, number)
        moved = [name for name in changed(self.model, weights) if not name.endswith("num_batches_tracked")]
        seen.steps.append((result.skipped, len(moved), len(changed(self.ema.module, average))))
        return result

    def spy_on_evaluate(self, model, **options):
        found = evaluate(self, model, **options)
        seen.judged[self.progress.epoch + 1] = SimpleNamespace(
            auroc=found.study_metrics()["auroc"], weights=copy(model), differs=bool(changed(self.model, copy(model)))
        )
        return found

    def spy_on_mix(batch, config, place):
        seen.places.append(tuple(place))
        mixed = mix(batch, config, place)
        assert ("share" in mixed) == bool(config.training.mixup)
        return mixed

    def spy_on_loss(*given, **named):
        return compute(*given, **named) * (float("nan") if len(seen.places) in broken else 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_step", spy_on_step)
        patch.setattr(Trainer, "evaluate", spy_on_evaluate)
        patch.setattr(trainer, "mix_batch", spy_on_mix)
        patch.setattr(trainer, "batch_loss", spy_on_loss)
        patch.setattr(torch.nn.Module, "compile", lambda self, *_, **__: seen.compiled.append(type(self).__name__))
        patch.setattr(Accelerator, "log", lambda self, values, step=None: seen.logged.append((step, values)))
        seen.checkpoint, seen.lines = train_tiny(datasets, folder, ema_decay=0.9, **changes)
    return seen


PLAIN = {"region_weight": 0.5, "ema_decay": 0.9}


@pytest.fixture(scope="module")
def plain(phantom_splits, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "plot_curves", plot_curves)
        return watch(phantom_splits, tmp_path_factory.mktemp("plain") / "run", region_weight=0.5)


@pytest.fixture(scope="module")
def run(plain):
    """Folder of a finished run."""
    return plain.checkpoint.parent


@pytest.fixture(scope="module")
def mixed(phantom_splits, tmp_path_factory):
    """A run with mixed views, two steps without a finite loss, and an average of the best epochs."""
    return watch(
        phantom_splits, tmp_path_factory.mktemp("mixed") / "run", broken={2, 6}, mixup=0.4, epochs=3,
        average_top_k=2, start_share=0.25, compile=True,
    )  # fmt: skip


def test_leaves_a_checkpoint_with_its_record(run, phantom_splits):
    model = MuraForImageClassification.from_pretrained(run / "checkpoint")
    assert (model.config.trained_on_phantoms, model.config.temperature, model.dtype) == (True, 1, torch.float32)
    assert MuraImageProcessor.from_pretrained(run / "checkpoint").size.height == 64
    record = read_record(run / "checkpoint")
    assert TrainingConfig.from_dict(record["arguments"]) == TINY.replace(**PLAIN)
    assert record["recipe"]["augmentation"]["rotation"] == 30  # as readers of the first edition expect it
    assert record["data"]["studies"]["valid"] == len(set(phantom_splits["valid"]["study_id"]))
    assert len(record["data"]["split_digest"]) == 64
    assert record["seconds"] > 0
    assert "torch" in record["versions"]
    with Image.open(run / "curves.png") as image:
        assert np.asarray(image.convert("L")).std() > 5
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoint", "curves.png", "finished.json", "metrics.jsonl", "run.json", "split_manifest.json",
    ]  # fmt: skip


def test_keeps_the_moving_average_of_the_best_epoch_by_study_auroc_on_dev(plain, phantom_splits):
    folder, lines = plain.checkpoint, plain.lines
    assert [line["epoch"] for line in lines] == [1, 2]
    record = read_record(folder)
    best = max(lines, key=lambda line: line["dev"]["auroc"])
    assert (record["epoch"], record["dev"]) == (best["epoch"], best["dev"])
    judged, kept = plain.judged[best["epoch"]], load_file(folder / "model.safetensors")
    assert judged.differs  # from the weights that are trained
    assert all(torch.equal(kept[name], value) for name, value in judged.weights.items())
    model = MuraForImageClassification.from_pretrained(folder)
    assert auroc_on_dev(model, phantom_splits, folder) == pytest.approx(best["dev"]["auroc"], abs=1e-6)


def test_never_writes_over_another_run(run, phantom_splits, tmp_path):
    before = (run / "checkpoint" / "model.safetensors").stat().st_mtime_ns
    assert train_tiny(phantom_splits, run, **PLAIN)[0] == run / "checkpoint"  # finished already
    identity = json.loads((run / "finished.json").read_text())
    former = {**identity["arguments"], "model": {}, "patches": {"epochs": 0}, "augmentation": {"flip": 0.5}}
    first_edition = {**identity, "recipe": former}
    del first_edition["arguments"]
    (run / "finished.json").write_text(json.dumps(first_edition))
    train_tiny(phantom_splits, run, **PLAIN)
    (run / "finished.json").write_text(json.dumps(identity))
    assert (run / "checkpoint" / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(DatasetError, match=r"other settings: epochs was 2, now 3"):
        train_tiny(phantom_splits, run, **PLAIN, epochs=3)
    rows = phantom_splits["train"]
    flipped = rows.map(lambda label: {"label": 1 - label}, input_columns="label")
    for other in (rows.select(range(40)), flipped):
        with pytest.raises(DatasetError, match="the data, or their split, are different"):
            train_tiny(type(phantom_splits)({**phantom_splits, "train": other}), run, **PLAIN)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DatasetError, match=r"is not empty \(it contains notes.txt\)"):
        train_tiny(phantom_splits, tmp_path)


def test_patches_first_with_or_without_cache(phantom_splits, tmp_path, monkeypatch):
    known = []
    spy_on(monkeypatch, "start_stage", lambda self, _: known.append(len(self.accelerator._optimizers)))
    config = TINY.replace(stages=[{"epochs": 2, "patch_size": 32, "batch_size": 8}, {"epochs": 1}])
    folder, lines = train_tiny(phantom_splits, tmp_path / "run", config)
    assert known == [1, 1]  # a stage releases what it had prepared
    assert [(line["stage"], line["epoch"], line["dev"] is None) for line in lines] == [
        ("patches of 32", 1, True), ("patches of 32", 2, True), ("views", 1, False),
    ]  # fmt: skip
    cached, _ = train_tiny(phantom_splits, tmp_path / "cached", config, cache_dir=tmp_path / "cache")
    assert same_weights(folder, cached)


def test_bf16_trains_and_saves_fp32(phantom_splits, tmp_path):
    folder, _ = train_tiny(phantom_splits, tmp_path / "run", epochs=1, precision="bf16")
    for value in load_file(folder / "model.safetensors").values():
        assert value.dtype in (torch.float32, torch.int64)
        assert torch.isfinite(value).all()


@pytest.mark.slow
def test_overfits_one_batch(phantom_splits, tmp_path):
    labels = np.asarray(phantom_splits["train"]["label"])
    batch = phantom_splits["train"].select([*np.flatnonzero(labels == 0)[:8], *np.flatnonzero(labels == 1)[:8]])
    few = type(phantom_splits)({**phantom_splits, "train": batch, "dev": batch})
    still = {"flip": 0.0, "rotation": 0.0, "scale": 0.0}
    _, lines = train_tiny(few, tmp_path / "run", epochs=20, learning_rate=1e-2, **still)
    assert lines[-1]["train_loss"] < 0.3 * lines[0]["train_loss"]


def test_a_run_without_a_saved_step_does_not_keep_its_folder(phantom_splits, tmp_path):
    wild = {"learning_rate": 1e30, "max_gradient_norm": 1e30, "max_skipped_steps": 1, "epochs": 3}
    with pytest.raises(TrainingError, match=r"more than max_skipped_steps \(1\)"):
        train_tiny(phantom_splits, tmp_path / "run", **wild)
    assert not (tmp_path / "run" / "checkpoint").exists()
    shutil.rmtree(tmp_path / "run" / "states", ignore_errors=True)
    assert (tmp_path / "run" / "run.json").exists()
    train_tiny(phantom_splits, tmp_path / "run", epochs=1)


def test_predictions_are_in_the_order_of_the_rows(phantom_splits, checkpoint):
    model = MuraForImageClassification.from_pretrained(checkpoint)
    views = ViewDataset(phantom_splits["dev"], MuraImageProcessor.from_pretrained(checkpoint))
    found = predict_views(model, views, Accelerator(cpu=True), batch_size=7)
    assert found.study_ids == list(phantom_splits["dev"]["study_id"])
    with torch.inference_mode():
        single = [float(model(view["pixel_values"][None]).logits.softmax(-1)[0, 1]) for view in views]
    np.testing.assert_allclose(found.probabilities, single, atol=1e-5)
    studies, means = aggregate_studies(found.study_ids, found.probabilities)
    by_study = found.by_study()
    assert list(by_study) == studies
    np.testing.assert_allclose([row[0] for row in by_study.values()], means)
    labels = dict(zip(phantom_splits["dev"]["study_id"], phantom_splits["dev"]["label"], strict=True))
    assert {study: row[1] for study, row in by_study.items()} == labels


@pytest.mark.slow
def test_fusenet_goes_through_its_stages(phantom_splits, tmp_path, monkeypatch):
    seen, written = {}, []
    start, save = MuraFuseNetForImageClassification.start_stage, trainer.save_state

    def note_weights(model, name):
        seen[name] = {key: value.clone() for key, value in model.state_dict().items()}
        start(model, name)

    def note_best(run, fresh=None):
        save(run, fresh)
        if fresh and run.progress.stage == 0:
            written.append(load_file(run.state / "best.safetensors"))

    monkeypatch.setattr(MuraFuseNetForImageClassification, "start_stage", note_weights)
    monkeypatch.setattr(trainer, "save_state", note_best)
    stages = [
        {"trains": "global", "epochs": 2, "learning_rate": 1e-2}, {"trains": "local", "epochs": 1},
        {"trains": "fusion", "epochs": 1},
    ]  # fmt: skip
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
        assert (not torch.equal(seen["fusion"][key], value)) == key.startswith("classifier."), key
    assert not torch.equal(kept["local_branch.classifier.weight"], kept["global_branch.classifier.weight"])
    record = read_record(folder)
    assert (record["stage"], record["epoch"], record["dev"]) == ("fusion", 1, lines[-1]["dev"])
    assert auroc_on_dev(model, phantom_splits, folder) == pytest.approx(lines[-1]["dev"]["auroc"], abs=1e-6)


@pytest.mark.slow
def test_the_embedding_is_trained_first_and_not_evaluated(phantom_splits, tmp_path):
    folder, lines = train_tiny(
        phantom_splits, tmp_path / "run", family="metric_learning", sampling="classes", classes_per_batch=4,
        samples_per_class=4, classes_over="label_and_part", metric_loss="batch_hard_triplet",
        model_kwargs={"embedding_size": 8},
        stages=[{"trains": "embedding", "epochs": 1}, {"trains": "classifier", "epochs": 1}],
    )  # fmt: skip
    assert [(line["stage"], line["dev"] is None) for line in lines] == [("embedding", True), ("classifier", False)]
    assert MuraForMetricLearning.from_pretrained(folder).config.embedding_size == 8


@pytest.mark.slow
def test_joint_training_adds_the_weighted_loss_on_embeddings(phantom_splits, tmp_path):
    losses = {}
    for weight in (0.0, 1.0, 3.0):
        _, lines = train_tiny(
            phantom_splits, tmp_path / str(weight), family="metric_learning", batch_size=len(phantom_splits["train"]),
            metric_loss="triplet_margin", metric_loss_options={"margin": 0.5}, metric_weight=weight, epochs=1,
        )  # fmt: skip
        losses[weight] = lines[0]["train_loss"]  # of one step, before the weights changed
    assert losses[3.0] - losses[0.0] == pytest.approx(3 * (losses[1.0] - losses[0.0]), rel=1e-4)
    assert losses[1.0] > losses[0.0]


def test_studies_are_trained_and_evaluated_whole(phantom_splits, tmp_path):
    folder, lines = train_tiny(
        phantom_splits, tmp_path / "run", level="study", batch_size=6, epochs=1, sampling="balanced",
        model_kwargs={"study_pooling": "gated_attention"},
    )  # fmt: skip
    model = MuraForImageClassification.from_pretrained(folder).eval()
    assert auroc_on_dev(model, phantom_splits, folder) == pytest.approx(lines[0]["dev"]["auroc"], abs=1e-6)
    views = ViewDataset(phantom_splits["dev"], MuraImageProcessor.from_pretrained(folder))
    found = predict_views(model, views, Accelerator(cpu=True), batch_size=9)
    for study, (probability, *_) in list(found.by_study().items())[:4]:
        rows = [row for row, one in enumerate(found.study_ids) if one == study]
        pixels = torch.stack([views[row]["pixel_values"] for row in rows])
        with torch.inference_mode():
            output = model(pixels[None])
        assert probability == pytest.approx(float(output.study_logits[0, 1].exp()), abs=1e-5)
        np.testing.assert_allclose(found.probabilities[rows], output.view_logits[0].softmax(-1)[:, 1], atol=1e-5)


def test_the_average_of_the_best_epochs_is_kept_with_both_figures(mixed, phantom_splits):
    record, judged = read_record(mixed.checkpoint), mixed.judged
    best = sorted((1, 2, 3), key=lambda epoch: (-judged[epoch].auroc, epoch))[:2]
    assert record["averaged"]["epochs"] == sorted(best)
    for name, value in load_file(mixed.checkpoint / "model.safetensors").items():
        if value.is_floating_point():
            mean = sum(judged[epoch].weights[name] for epoch in best) / 2
            torch.testing.assert_close(value, 0.25 * mixed.start[name] + 0.75 * mean)
    assert record["dev"] == record["averaged"]["dev"]
    assert record["averaged"]["dev_of_best_epoch"] == mixed.lines[best[0] - 1]["dev"]
    model = MuraForImageClassification.from_pretrained(mixed.checkpoint)
    assert auroc_on_dev(model, phantom_splits, mixed.checkpoint) == pytest.approx(record["dev"]["auroc"], abs=1e-6)
    assert not (mixed.checkpoint.parent / "states").exists()


def test_a_signal_while_the_average_is_evaluated_stops_too(phantom_splits, tmp_path, monkeypatch):
    average = trainer.average_weights

    def send(*given):
        signal.raise_signal(signal.SIGTERM)
        return average(*given)

    monkeypatch.setattr(trainer, "average_weights", send)
    with pytest.raises(TrainingStopped, match="SIGTERM at the average of the best epochs"):
        train_tiny(phantom_splits, tmp_path / "run", average_top_k=2, epochs=2)
    monkeypatch.setattr(trainer, "average_weights", average)
    folder, _ = train_tiny(phantom_splits, tmp_path / "run", average_top_k=2, epochs=2)
    assert read_record(folder)["averaged"]["epochs"] == [1, 2]
    assert read_record(folder)["resumed"] == 1


@pytest.mark.slow
def test_stops_without_improvement_on_dev(phantom_splits, tmp_path):
    # With a learning rate of almost zero every epoch is like the first, and of two equal epochs the earlier is kept.
    folder, lines = train_tiny(
        phantom_splits, tmp_path / "run", patience=2, epochs=9, learning_rate=1e-30, optimizer="sgd", train_last=0,
    )  # fmt: skip
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert read_record(folder)["epoch"] == 1


@pytest.mark.slow
def test_a_frozen_backbone_does_not_change(phantom_splits, tmp_path, monkeypatch):
    before = {}
    spy_on(
        monkeypatch, "start_stage",
        lambda self, _: before.update({name: value.clone() for name, value in self.model.state_dict().items()}),
    )  # fmt: skip
    folder, _ = train_tiny(phantom_splits, tmp_path / "run", train_last=0, epochs=1, learning_rate=1e-2)
    after = load_file(folder / "model.safetensors")
    changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert changed == {"classifier.weight", "classifier.bias"}


@pytest.mark.slow
def test_finding_types_are_learned_from_rows_that_have_one(phantom_splits, tmp_path):
    types = sorted({kind for kind in phantom_splits["train"]["finding"] if kind})
    options = {"finding_weight": 1.0, "model_kwargs": {"finding_types": types}, "epochs": 1}
    _, lines = train_tiny(phantom_splits, tmp_path / "run", **options)
    _, without = train_tiny(phantom_splits, tmp_path / "plain", epochs=1)
    assert lines[0]["train_loss"] - without[0]["train_loss"] == pytest.approx(np.log(len(types)), rel=0.2)
    options["model_kwargs"] = {"finding_types": ["bone", "stone"]}
    with pytest.raises(DatasetError, match=r"types bone, stone, but the data have degeneration, .*displaced_fracture"):
        train_tiny(phantom_splits, tmp_path / "no", **options)


def test_a_step_without_a_finite_loss_changes_nothing_but_the_count(mixed):
    assert [number for number, (skipped, *_) in enumerate(mixed.steps, 1) if skipped] == [2, 6]
    assert all(moved == moved_average == 0 for skipped, moved, moved_average in mixed.steps if skipped)
    assert all(moved > 10 for skipped, moved, _ in mixed.steps if not skipped)
    assert [line["skipped_steps"] for line in mixed.lines] == [1, 1, 0]
    weights = load_file(mixed.checkpoint / "model.safetensors")
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_too_many_of_them_end_the_run_and_earlier_epochs_stay(phantom_splits, tmp_path):
    with pytest.raises(TrainingError, match="losses of 2 steps of the epoch, more than max_skipped_steps"):
        watch(phantom_splits, tmp_path / "run", broken=range(6, 99), epochs=3, max_skipped_steps=1)
    kept = load_file(tmp_path / "run" / "checkpoint" / "model.safetensors")  # of the first epoch
    assert all(torch.isfinite(value).all() for value in kept.values())
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1


@pytest.mark.slow
def test_gradients_are_accumulated_over_a_step(phantom_splits, tmp_path):
    """Without batch norm and dropout, four batches of four equal one of sixteen."""
    losses = {}
    for size, batches in ((16, 1), (4, 4)):
        _, lines = train_tiny(
            phantom_splits, tmp_path / str(size), batch_size=size, accumulation=batches, epochs=1, **CONVNEXT,
            class_weighting=False, max_gradient_norm=0,
        )  # fmt: skip
        losses[size] = (lines[0]["train_loss"], lines[0]["dev_loss"])
    rest = len(phantom_splits["train"]) % 16
    assert losses[4] == pytest.approx(losses[16], rel=1e-3 if rest < 4 else 0.1)


def test_mixing_compiling_and_tracking(mixed):
    assert len(mixed.places) == len(set(mixed.places)) == 12  # each step has a draw of its own
    assert [line["train"] for line in mixed.lines] == [None] * 3
    assert mixed.compiled == ["MuraForImageClassification"]
    assert [step for step, _ in mixed.logged] == [4, 8, 12]
    assert [values["dev_auroc"] for _, values in mixed.logged] == [line["dev"]["auroc"] for line in mixed.lines]


def test_unsupported_precisions_and_missing_trackers_are_refused(phantom_splits, tmp_path):
    for config, options, message in (
        (TINY.replace(precision="fp16"), {}, "fp16"),
        (TINY, {"tracker": "nonsense"}, "nonsense"),
        (TINY, {"save_steps": 0}, "both must be above 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            train(phantom_splits, config, tmp_path / "run", data_description={}, cpu=True, **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_tiny_version_of_ours_trains(phantom_splits, tmp_path, phantom_files):
    ours = load_config("ours")
    kwargs = {**ours.model.backbone_kwargs, "depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}
    tiny = ours.replace(
        pretrained=False, backbone="convnext_atto", image_size=64, epochs=1, backbone_kwargs=kwargs, batch_size=4,
        precision="fp32", **{name: TINY.split_options()[name] for name in ("dev_fraction", "calib_fraction")},
    )  # fmt: skip
    folder, lines = train_tiny(phantom_splits, tmp_path / "run", tiny)
    assert [line["stage"] for line in lines] == ["views"]
    predictor = StudyPredictor.from_pretrained(folder, device="cpu")
    assert predictor.model.config.test_time_flip
    study = predictor(phantom_files)
    assert 0 < study.probability < 1
    assert all(view.heatmap is not None for view in study.views)


@pytest.mark.slow
def test_the_trainer_of_transformers_works_too(phantom_splits, tmp_path):
    processor = MuraImageProcessor(size={"height": SIDE, "width": SIDE})
    views = ViewDataset(phantom_splits["train"].select(range(8)), processor)
    theirs = TransformersTrainer(
        make_model(body_part_head=True),
        TrainingArguments(
            output_dir=tmp_path / "run", max_steps=5, per_device_train_batch_size=4, gradient_accumulation_steps=2,
            learning_rate=1e-3, logging_steps=1, save_strategy="no", report_to="none", use_cpu=True,
            disable_tqdm=True, lr_scheduler_type="constant",
        ),
        train_dataset=views,
    )  # fmt: skip
    with torch.no_grad():
        before = theirs.model.train()(**default_data_collator([views[n] for n in range(8)])).loss.item()
    theirs.train()
    losses = [entry["loss"] for entry in theirs.state.log_history if "loss" in entry]
    assert losses[0] == pytest.approx(before, rel=0.4)  # a mean over what was accumulated, not a sum
    assert losses[-1] < 0.8 * losses[0]
    theirs.save_model(tmp_path / "model")
    images = torch.stack([views[n]["pixel_values"] for n in range(4)])
    with torch.no_grad():
        expected = theirs.model.eval()(images).logits
        found = MuraForImageClassification.from_pretrained(tmp_path / "model")(images).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
