import json
from dataclasses import replace

import pytest
import torch

from mura_hf import CheckpointError, ConfigError, MuraImageProcessor
from mura_hf.models import CLASSIFIERS
from mura_hf.training import build_model, build_processor, change_recipe, load_recipe
from tests.conftest import SIDE, make_model
from tests.training.conftest import TINY, read_record, train_tiny

CALIBRATED = {"temperature": 2.0, "study_slope": 1.5, "study_intercept": -0.3, "operating_points": {"youden": 0.4}}


def save_base(folder, family="mura", processor=None, **fields):
    model = make_model(family, **{**CALIBRATED, "body_part_head": True, "trained_on_phantoms": True, **fields})
    model.save_pretrained(folder)
    (processor or MuraImageProcessor(size={"height": SIDE, "width": SIDE})).save_pretrained(folder)
    return model


@pytest.mark.parametrize("family", ["mura", "mura_metric_learning", "mura_fusenet"])
def test_everything_is_the_checkpoints_but_its_calibration(family, tmp_path):
    base = save_base(tmp_path / "base", family, head_dropout=[0.2, 0.1], head_layers=[12])
    settings = ["metric_loss.name=triplet_margin"] if family == "mura_metric_learning" else []
    recipe, _ = change_recipe(load_recipe("scratch"), settings, init_from=str(tmp_path / "base"))
    model = build_model(recipe, trained_on_phantoms=False)
    assert type(model) is type(base)
    assert all(torch.equal(value, base.state_dict()[name]) for name, value in model.state_dict().items())
    config = model.config
    assert (config.temperature, config.study_slope, config.study_intercept) == (1.0, 1.0, 0.0)
    assert config.operating_points == {"paper": 0.5}
    assert (config.head_dropout, config.head_layers, config.body_part_head) == ([0.2, 0.1], [12], True)
    assert not config.trained_on_phantoms  # the new data are not
    model.save_pretrained(tmp_path / "again")
    assert str(tmp_path) not in (tmp_path / "again" / "config.json").read_text()


@pytest.mark.parametrize(
    "processor",
    [
        MuraImageProcessor(size={"height": 72, "width": 72}, do_center_crop=True, crop_size=SIDE, crop_border=True),
        MuraImageProcessor(
            size={"height": SIDE, "width": SIDE}, resize_mode="squash", enhance=["clahe_lab", "unsharp"],
            image_mean=[0.3, 0.3, 0.3], image_std=[0.2, 0.2, 0.2],
        ),
    ],
    ids=["crop", "filters"],
)  # fmt: skip
def test_pictures_are_prepared_as_the_checkpoint_does(processor, tmp_path):
    save_base(tmp_path, processor=processor)
    recipe, told = change_recipe(load_recipe("scratch"), init_from=str(tmp_path))
    assert build_processor(recipe).to_dict() == processor.to_dict()
    assert recipe.augmentation.random_crop == (processor.do_center_crop is True)
    assert any("random_crop" in line for line in told) != recipe.augmentation.random_crop


def test_what_no_recipe_can_say_is_refused(tmp_path):
    save_base(tmp_path, processor=MuraImageProcessor(size={"height": 64, "width": 96}))
    with pytest.raises(ConfigError, match=r"no recipe can say \(size\)"):
        change_recipe(TINY, init_from=str(tmp_path))


def test_heads_that_do_not_fit_start_anew(tmp_path, capsys):
    base = save_base(tmp_path)
    recipe, _ = change_recipe(TINY, ["model.head_layers=[5]", "body_part_head=true"], init_from=str(tmp_path))
    model = build_model(recipe, trained_on_phantoms=True)
    assert "no fitting weights for classifier" in capsys.readouterr().err
    backbone = model.mura.backbone.state_dict()
    assert all(torch.equal(value, base.mura.backbone.state_dict()[name]) for name, value in backbone.items())
    assert torch.equal(model.body_part_classifier.weight, base.body_part_classifier.weight)
    assert model.classifier[0].weight.std() > 0


def test_a_run_goes_on_from_it_and_says_so(phantom_splits, tmp_path):
    save_base(tmp_path / "base")
    (tmp_path / "base" / "training.json").write_text(json.dumps({"data": {"key": "fracatlas", "name": "FracAtlas"}}))
    recipe, _ = change_recipe(
        replace(TINY, epochs=1, learning_rate=1e-9, image_size=32), init_from=str(tmp_path / "base")
    )
    made, _ = train_tiny(phantom_splits, tmp_path / "run", **vars(recipe))
    record = read_record(made)
    assert record["base"]["name"] == record["recipe"]["init_from"] == "base"  # a record shows no path
    assert len(record["base"]["sha256"]) == 64
    assert record["base"]["trained_on"] == [{"key": "fracatlas", "name": "FracAtlas"}]
    assert (record["recipe"]["image_size"], record["recipe"]["init_heads"]) == (SIDE, True)
    base, tuned = (CLASSIFIERS["mura"].from_pretrained(folder) for folder in (tmp_path / "base", made))
    assert torch.allclose(base.classifier.weight, tuned.classifier.weight, atol=1e-5)
    assert tuned.config.temperature == 1.0
    # And the next one knows what both had seen.
    again, _ = change_recipe(recipe, init_from=str(made))
    from mura_hf.training import describe_start

    assert [one["name"] for one in describe_start(again)["trained_on"]] == ["phantoms", "FracAtlas"]


def test_the_bundled_one_is_called_as_its_card_does():
    from mura_hf.training import describe_start

    recipe = load_recipe("fine_tune")
    assert change_recipe(recipe, init_from="bundled")[0] == recipe
    assert describe_start(recipe)["name"] == "mura-phantom"
    build_model(recipe, trained_on_phantoms=True)


def test_a_metric_loss_comes_with_a_checkpoint_that_tells_it(tmp_path):
    save_base(tmp_path, "mura_metric_learning")
    with pytest.raises(ConfigError, match="metric_learning, which cannot do without"):
        change_recipe(TINY, init_from=str(tmp_path))
    known = {"metric_loss": {"name": "batch_hard_triplet", "options": {"margin": 0.4}}, "metric_weight": 0.5}
    (tmp_path / "training.json").write_text(json.dumps({"recipe": known, "data": {"name": "phantoms"}}))
    recipe, _ = change_recipe(TINY, init_from=str(tmp_path))
    assert (recipe.metric_loss.options, recipe.metric_weight) == ({"margin": 0.4}, 0.5)


def test_attention_over_views_wants_whole_studies(tmp_path):
    save_base(tmp_path, study_pooling="gated_attention")
    recipe, told = change_recipe(TINY, init_from=str(tmp_path))
    assert recipe.level == "study"
    assert "whole studies" in told[0]


def test_models_of_several_are_refused_by_name(tmp_path):
    model = make_model("mura_ensemble")
    model.save_pretrained(tmp_path / "many")
    save_base(tmp_path / "net", "mura_fusenet")
    with pytest.raises(ConfigError, match="made of several models"):
        change_recipe(TINY, init_from=str(tmp_path / "many"))
    with pytest.raises(ConfigError, match="start from one"):
        change_recipe(load_recipe("p_specialized"), init_from=str(tmp_path / "net"))
    with pytest.raises(ConfigError, match="whose members start"):
        change_recipe(load_recipe("d_ensemble"), init_from=str(tmp_path / "net"))
    with pytest.raises(ConfigError, match="set init_heads to false"):
        build_model(replace(TINY, init_from=str(tmp_path / "net"), init_heads=True), trained_on_phantoms=True)


def test_a_backbone_alone_of_any_family(tmp_path):
    base = save_base(tmp_path, "mura_fusenet")
    model = build_model(replace(TINY, init_from=str(tmp_path)), trained_on_phantoms=True)
    for name, value in base.global_branch.mura.backbone.state_dict().items():
        assert torch.equal(model.mura.backbone.state_dict()[name], value)
    with pytest.raises(CheckpointError, match="set backbone and backbone_kwargs alike"):
        build_model(replace(TINY, init_from=str(tmp_path), backbone_kwargs=None), trained_on_phantoms=True)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("runs/of/nobody", CheckpointError, "neither a folder .* nor a Hub name"),
        ("nobody/nothing@v1", CheckpointError, "cannot be had from the Hub"),
        ("timm:resnet10", ConfigError, "did you mean 'resnet1"),
    ],
)
def test_what_is_not_there_is_named(name, error, message):
    with pytest.raises(error, match=message):
        change_recipe(TINY, init_from=name)


def test_a_run_folder_is_not_its_checkpoint(tmp_path):
    save_base(tmp_path / "checkpoint")
    with pytest.raises(CheckpointError, match=r"name .*checkpoint"):
        change_recipe(TINY, init_from=str(tmp_path))


def test_a_backbone_of_timm_brings_its_normalisation(monkeypatch):
    recipe, _ = change_recipe(load_recipe("p_base"), init_from="timm:resnetv2_50x1_bit.goog_in21k")
    assert recipe.backbone_kwargs is None
    assert list(build_processor(recipe).image_mean) == [0.5, 0.5, 0.5]
    asked = []
    monkeypatch.setattr(
        "mura_hf.models.modeling_mura.load_timm_weights",
        lambda backbone, config, overlay: asked.append(config.backbone),
    )
    build_model(replace(recipe, image_size=64), trained_on_phantoms=False)
    assert asked == ["resnetv2_50x1_bit.goog_in21k"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_from": "bundled", "pretrained": True}, "set pretrained to false"),
        ({"init_heads": True}, "name one in init_from"),
        ({"init_from": "timm:resnet50"}, "set backbone to resnet50"),
    ],
)
def test_a_recipe_says_one_start_only(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(TINY, **changes)
