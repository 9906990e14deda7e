"""The recipe of ours: what it builds, and a tiny version of it trained."""

from dataclasses import replace

import pytest
import timm
import torch

from mura_hf import StudyPredictor
from mura_hf.training import epochs, load_recipe
from mura_hf.training.building import build_model, build_processor
from mura_hf.training.parameter_groups import parameter_groups
from tests.training.conftest import TINY, read_record, train_tiny


@pytest.fixture(scope="module")
def ours():
    return load_recipe("ours")


def test_weights_are_there_to_be_had_and_bring_their_normalisation(ours):
    known = timm.get_pretrained_cfg(ours.backbone)
    assert known.hf_hub_id == f"timm/{ours.backbone}"
    assert known.input_size[-1] <= ours.image_size
    assert ours.pretrained
    assert tuple(build_processor(ours).image_mean) == known.mean


def test_it_builds_with_rates_that_fall_to_a_twentieth(ours):
    with torch.device("meta"):
        model = build_model(replace(ours, pretrained=False), trained_on_phantoms=False)
    assert model.config.test_time_flip
    rates = {
        name: group["lr"] / ours.learning_rate
        for group in parameter_groups(model, learning_rate=1e-4, weight_decay=0.05, layer_decay=ours.layer_decay)
        for name, parameter in model.named_parameters()
        if any(parameter is one for one in group["params"])
    }
    assert len(rates) == len(list(model.parameters()))
    assert rates["classifier.weight"] == rates["body_part_classifier.weight"] == 1
    assert rates["mura.backbone.stem.0.weight"] == pytest.approx(0.925**37)
    assert rates["mura.backbone.stem.0.weight"] == pytest.approx(0.8**13, rel=0.03)  # of ConvNeXt's own fine-tuning


def test_a_tiny_version_trains(ours, phantom_splits, tmp_path, phantom_files):
    kept = {name: getattr(ours, name) for name in ours.to_dict() if name not in _CHANGED}
    made, lines = train_tiny(
        phantom_splits, tmp_path / "run", **kept, pretrained=False, backbone="convnext_atto", image_size=64, epochs=1,
        backbone_kwargs={**ours.backbone_kwargs, "depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}, batch_size=4,
        precision="fp32", dev_fraction=TINY.dev_fraction, calib_fraction=TINY.calib_fraction,
    )  # fmt: skip
    assert [line["stage"] for line in lines] == ["views"]
    recipe = read_record(made)["recipe"]
    assert all(
        recipe[name] == getattr(ours, name) for name in ("label_smoothing", "layer_decay", "ema_decay", "level")
    )
    predictor = StudyPredictor.from_pretrained(made, device="cpu")
    assert predictor.model.config.test_time_flip
    answer = predictor(phantom_files)
    assert 0 < answer.probability < 1
    assert all(view.heatmap is not None for view in answer.views)


_CHANGED = (
    "pretrained", "backbone", "image_size", "epochs", "backbone_kwargs", "batch_size", "precision",
    "dev_fraction", "calib_fraction",
)  # fmt: skip


def test_each_step_of_a_run_is_mixed_by_its_own_draw(phantom_splits, tmp_path, monkeypatch):
    asked, mix = [], epochs.mix_batch

    def watch(batch, recipe, place):
        asked.append(tuple(place))
        mixed = mix(batch, recipe, place)
        assert "share" in mixed
        return mixed

    monkeypatch.setattr(epochs, "mix_batch", watch)
    train_tiny(phantom_splits, tmp_path / "run", mixup=0.4, cutmix=1.0, epochs=1)
    assert len(asked) == len(set(asked)) > 2
