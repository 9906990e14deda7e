import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file

from mura_hf import DatasetError, MuraForImageClassification, MuraImageProcessor, load_mura
from mura_hf.data import GroupSampler, ViewDataset
from mura_hf.errors import TrainingError
from mura_hf.metrics import aggregate_studies
from mura_hf.phantoms import write_phantom_mura
from mura_hf.training import PatchStage, Recipe, build_processor, predict_views, train
from mura_hf.training.stages import make_stages

TINY = Recipe(
    backbone="resnet10t",
    backbone_kwargs={"channels": [8, 16, 24, 32]},
    pretrained=False,
    image_size=64,
    epochs=2,
    batch_size=16,
    learning_rate=1e-3,
    dev_fraction=0.25,
    calib_fraction=0.1,
    region_weight=0.5,
)


@pytest.fixture(autouse=True)
def _fresh_state():
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def datasets(phantom_tree):
    return load_mura(phantom_tree, dev_fraction=TINY.dev_fraction, calib_fraction=TINY.calib_fraction)


def _train(datasets, folder, **changes):
    return train(
        datasets,
        replace(TINY, **changes),
        folder,
        data_description={"name": "phantoms"},
        trained_on_phantoms=True,
        cpu=True,
    )


@pytest.fixture(scope="module")
def run(datasets, tmp_path_factory):
    AcceleratorState._reset_state(reset_partial_state=True)
    folder = tmp_path_factory.mktemp("run")
    _train(datasets, folder)
    return folder


def test_leaves_a_checkpoint_with_its_record(run, datasets):
    model = MuraForImageClassification.from_pretrained(run / "checkpoint")
    assert model.config.trained_on_phantoms
    assert model.config.temperature == 1
    assert model.dtype == torch.float32
    assert MuraImageProcessor.from_pretrained(run / "checkpoint").size.height == 64
    record = json.loads((run / "checkpoint" / "training.json").read_text())
    assert record["recipe"] == TINY.to_dict()
    assert record["data"]["studies"]["valid"] == len(set(datasets["valid"]["study_id"]))
    assert len(record["data"]["split_digest"]) == 64
    assert record["seconds"] > 0
    assert "torch" in record["versions"]


def test_keeps_the_best_epoch_by_study_auroc_on_dev(run, datasets):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    record = json.loads((run / "checkpoint" / "training.json").read_text())
    best = max(lines, key=lambda line: line["dev"]["auroc"])
    assert (record["epoch"], record["dev"]) == (best["epoch"], best["dev"])
    model = MuraForImageClassification.from_pretrained(run / "checkpoint")
    dev = ViewDataset(datasets["dev"], MuraImageProcessor.from_pretrained(run / "checkpoint"))
    found = predict_views(model, dev, Accelerator(cpu=True)).study_metrics()
    assert found["auroc"] == pytest.approx(best["dev"]["auroc"], abs=1e-6)
    assert found["n"] == len(set(datasets["dev"]["study_id"]))


def test_a_stage_on_patches_comes_first(datasets, tmp_path):
    stage = PatchStage(epochs=2, size=32, batch_size=8)
    _train(datasets, tmp_path / "run", patches=stage, epochs=1)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["epoch"]) for line in lines] == [("patches", 1), ("patches", 2), ("views", 1)]
    assert [line["dev"] is None for line in lines] == [True, True, False]
    record = json.loads((tmp_path / "run" / "checkpoint" / "training.json").read_text())
    assert record["recipe"]["patches"]["size"] == 32
    AcceleratorState._reset_state(reset_partial_state=True)
    kept = train(
        datasets, replace(TINY, patches=stage, epochs=1), tmp_path / "kept", data_description={"name": "phantoms"},
        trained_on_phantoms=True, cpu=True, cache_dir=tmp_path / "cache",
    )  # fmt: skip
    weights = [load_file(folder / "model.safetensors") for folder in (tmp_path / "run" / "checkpoint", kept)]
    assert all(torch.equal(weights[0][key], value) for key, value in weights[1].items())


def test_twins_meet_and_several_processes_get_batches(tmp_path):
    tree = write_phantom_mura(tmp_path / "tree", 40, seed=2, size=64, counterfactuals=True, progress=False)
    rows = load_mura(tree, dev_fraction=0.2, calib_fraction=0.1)["train"]
    recipe = replace(TINY, patches=PatchStage(epochs=1, size=32, batch_size=4))
    patches, views = make_stages(recipe, rows, build_processor(recipe), None)
    order = list(views.sampler)
    twins = [rows["twin"][n] for n in order]
    assert sorted(order) == list(range(len(rows)))
    pairs = [n for n in range(len(order) - 1) if twins[n] == twins[n + 1]]
    assert len(pairs) == len(twins) - len(set(twins)) > 5
    assert all(rows["label"][order[n]] != rows["label"][order[n + 1]] for n in pairs)
    assert all(rows["boxes"][n] or not rows["label"][n] for n in patches.rows)
    # One batch and a bit: with two processes, dropping what is not full would leave nothing.
    few = replace(views, rows=range(20), sampler=GroupSampler(None, 20))
    assert len(few.loader(0, 1)) == 1
    assert len(few.loader(0, 2)) == 2


def test_draws_its_curves(run):
    with Image.open(run / "curves.png") as image:
        assert np.asarray(image.convert("L")).std() > 5
    assert min(image.size) > 300


def test_same_seed_same_weights_and_another_seed_others(run, datasets, tmp_path):
    again = load_file(_train(datasets, tmp_path / "again", epochs=1) / "model.safetensors")
    AcceleratorState._reset_state(reset_partial_state=True)
    same = load_file(_train(datasets, tmp_path / "same", epochs=1) / "model.safetensors")
    AcceleratorState._reset_state(reset_partial_state=True)
    other = load_file(_train(datasets, tmp_path / "other", epochs=1, seed=5) / "model.safetensors")
    assert all(torch.equal(same[key], value) for key, value in again.items())
    assert any(not torch.equal(other[key], value) for key, value in again.items())


def test_bf16_trains_and_saves_fp32(datasets, tmp_path):
    folder = _train(datasets, tmp_path / "run", epochs=1, precision="bf16")
    weights = load_file(folder / "model.safetensors")
    assert all(value.dtype in (torch.float32, torch.int64) for value in weights.values())
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_learns_one_batch_by_heart(datasets, tmp_path):
    labels = np.asarray(datasets["train"]["label"])
    batch = datasets["train"].select([*np.flatnonzero(labels == 0)[:8], *np.flatnonzero(labels == 1)[:8]])
    few = {**datasets, "train": batch, "dev": batch}
    still = replace(TINY.augmentation, flip=0.0, rotation=0.0, scale=0.0)
    train(
        type(datasets)(few), replace(TINY, epochs=30, learning_rate=1e-2, augmentation=still), tmp_path / "run",
        data_description={"name": "one batch"}, cpu=True,
    )  # fmt: skip
    losses = [json.loads(line)["train_loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.3 * losses[0]


def test_pretrained_weights_bring_their_normalisation():
    own = build_processor(replace(TINY, backbone="vit_tiny_patch16_224", pretrained=True))
    assert (tuple(own.image_mean), tuple(own.image_std)) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    named = build_processor(
        replace(TINY, backbone="vit_tiny_patch16_224", pretrained=True, image_mean=[0.1, 0.2, 0.3])
    )
    assert (tuple(named.image_mean), tuple(named.image_std)) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    assert tuple(build_processor(TINY).image_mean) == tuple(MuraImageProcessor.image_mean)


class TestRefusals:
    def test_never_writes_over_another_run(self, run, datasets, tmp_path):
        before = (run / "checkpoint" / "model.safetensors").stat().st_mtime_ns
        assert _train(datasets, run) == run / "checkpoint"  # stands finished
        assert (run / "checkpoint" / "model.safetensors").stat().st_mtime_ns == before
        with pytest.raises(DatasetError, match=r"trained otherwise: epochs was 2, now 3"):
            _train(datasets, run, epochs=3)
        fewer = type(datasets)({**datasets, "train": datasets["train"].select(range(40))})
        with pytest.raises(DatasetError, match="the data, or how they are cut, are others"):
            _train(fewer, run)
        flipped = datasets["train"].map(lambda label: {"label": 1 - label}, input_columns="label")
        with pytest.raises(DatasetError, match="the data, or how they are cut, are others"):
            _train(type(datasets)({**datasets, "train": flipped}), run)
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(DatasetError, match=r"is not empty \(there is notes.txt\)"):
            _train(datasets, tmp_path)

    def test_what_came_to_no_step_does_not_keep_its_folder(self, datasets, tmp_path):
        with pytest.raises(TrainingError):
            _train(datasets, tmp_path / "run", learning_rate=1e30, max_gradient_norm=1e30, max_skipped_steps=0)
        shutil.rmtree(tmp_path / "run" / "states", ignore_errors=True)
        assert (tmp_path / "run" / "run.json").exists()
        _train(datasets, tmp_path / "run", epochs=1)

    def test_dev_needs_both_classes(self, datasets, tmp_path):
        normal = datasets["dev"].filter(lambda label: label == 0, input_columns="label")
        with pytest.raises(DatasetError, match="dev needs normal and abnormal"):
            _train(type(datasets)({**datasets, "dev": normal}), tmp_path / "run")

    def test_boxes_are_needed_for_the_region_loss(self, datasets, tmp_path):
        without = type(datasets)({name: rows.remove_columns("boxes") for name, rows in datasets.items()})
        with pytest.raises(DatasetError, match="the data have no boxes"):
            _train(without, tmp_path / "run")

    def test_a_model_that_blows_up_stops(self, datasets, tmp_path):
        with pytest.raises(TrainingError, match="more than max_skipped_steps \\(1\\) allows"):
            _train(
                datasets, tmp_path / "run", learning_rate=1e30, max_gradient_norm=1e30, epochs=3, max_skipped_steps=1
            )
        assert not (tmp_path / "run" / "checkpoint").exists()


def test_predictions_come_in_the_order_of_the_rows(datasets, checkpoint):
    model = MuraForImageClassification.from_pretrained(checkpoint)
    views = ViewDataset(datasets["dev"], MuraImageProcessor.from_pretrained(checkpoint))
    found = predict_views(model, views, Accelerator(cpu=True), batch_size=7)
    assert found.study_ids == list(datasets["dev"]["study_id"])
    with torch.inference_mode():
        alone = [
            float(model(views[index]["pixel_values"][None]).logits.softmax(-1)[0, 1]) for index in range(len(views))
        ]
    np.testing.assert_allclose(found.probabilities, alone, atol=1e-5)
    studies, means = aggregate_studies(found.study_ids, found.probabilities)
    by_study = found.by_study()
    assert list(by_study) == studies
    np.testing.assert_allclose([row[0] for row in by_study.values()], means)
    labels = dict(zip(datasets["dev"]["study_id"], datasets["dev"]["label"], strict=True))
    assert {study: row[1] for study, row in by_study.items()} == labels
