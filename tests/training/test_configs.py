"""Arguments and configs: from YAML, from the command line, from records."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import timm
import yaml

from mura_hf import ConfigError
from mura_hf.common import BUNDLED
from mura_hf.training import (
    TrainingConfig,
    build_processor,
    config_from_record,
    config_names,
    load_config,
    read_command_line,
)


@pytest.mark.parametrize("name", config_names())
def test_every_config_loads_and_survives_yaml(name, tmp_path):
    config = load_config(name)
    assert config.name == name
    (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(config.to_dict()))
    assert load_config(tmp_path / f"{name}.yaml") == config
    assert TrainingConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_package_has_these():
    assert config_names() == ["film", "fine_tune", "mura_paper", "ours", "phantom"]


@pytest.mark.parametrize(
    ("text", "message"), yaml.safe_load((Path(__file__).parent / "wrong_configs.yaml").read_text())
)
def test_wrong_values_are_explained(text, message, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(f"{file}:a" if text.startswith("variants") else file)


def test_former_fields_with_their_defaults_are_left_out():
    assert TrainingConfig.from_dict({"cutmix": 0.0, "channels_last": True, "resized_crop": 1.0}) == TrainingConfig()


def test_extends_and_variants(tmp_path):
    (tmp_path / "base.yaml").write_text(
        "{epochs: 3, batch_size: 4, learning_rate: 1e-3, backbone_kwargs: {stem_width: 8}, flip: 0.1, scale: 0.2, "
        "model_kwargs: {head_layers: [5], head_init: he}}"
    )
    (tmp_path / "mine.yaml").write_text(
        "{extends: base.yaml, epochs: 7, backbone_kwargs: {output_stride: 16}, flip: 0.4, "
        "model_kwargs: {head_init: xavier}, variants: {small: {image_size: 64}, "
        "long: {extends: small, epochs: 20}, paper: {extends: mura_paper, batch_size: 2}, "
        "both: {family: ensemble, members: [small, long], router: null}}}"
    )
    mine = load_config(tmp_path / "mine.yaml", batch_size=6)
    assert (mine.name, mine.training.epochs, mine.training.batch_size) == ("mine", 7, 6)
    assert (mine.augmentation.flip, mine.augmentation.scale, mine.training.learning_rate) == (0.4, 0.2, 1e-3)
    assert mine.model.model_kwargs == {"head_layers": [5], "head_init": "xavier"}
    assert mine.model.backbone_kwargs == {"output_stride": 16}
    long = load_config("long", [tmp_path])
    assert (long.name, long.training.epochs, long.model.image_size, long.augmentation.flip) == ("long", 20, 64, 0.4)
    paper = load_config(f"{tmp_path / 'mine.yaml'}:paper")
    assert (paper.training.optimizer, paper.training.batch_size, paper.training.epochs) == ("adam", 2, 7)
    both = load_config("both", [tmp_path])
    assert [load_config(name, both.folders).name for name in both.model.members] == ["small", "long"]
    assert {"small", "mine", "film"} <= set(config_names([tmp_path]))
    with pytest.raises(ConfigError, match="no variant 'smal'; did you mean \"small\""):
        load_config(f"{tmp_path / 'mine.yaml'}:smal")


def test_a_stage_changes_what_it_names():
    config = load_config("film", random_crop=True, resize_size=720)
    patches, whole = (config.for_stage(stage) for stage in config.training.stages)
    assert [one.training.batch_size for one in (patches, whole)] == [16, 8]
    assert [one.training.train_last for one in (patches, whole)] == [5, 2]
    assert [one.augmentation.rotation for one in (patches, whole)] == [60, 30]
    assert [one.augmentation.random_crop for one in (patches, whole)] == [False, True]
    assert (patches.augmentation.contrast, patches.data.sampling) == (0.3, "balanced")


def test_epochs_are_changed_in_every_stage_but_not_of_an_ensemble():
    film = load_config("film")
    assert [stage.epochs for stage in film.with_epochs(7).training.stages] == [10, 7]
    assert [stage.epochs for stage in film.with_epochs(7, 1).training.stages] == [1, 7]
    assert [stage.epochs for stage in film.with_epochs(7, 0).training.stages] == [7]
    assert load_config("ours").with_epochs(2).training.epochs == 2
    with pytest.raises(ConfigError, match="change film"):
        load_config("ours", family="ensemble", members=["film", "film"]).with_epochs(2)


def test_records_of_the_first_edition_are_read():
    stage = {"trains": "all", "epochs": 1, "learning_rate": None, "augmentation": None}
    augmentation = {"flip": 0.5, "rotation": 20.0, "scale": 0.1, "random_crop": False, "resized_crop": 1.0}
    recipe = {
        "name": "old", "backbone": "resnet10t", "pretrained": False, "init_from": "bundled", "sampling": "balanced",
        "model": {"head_layers": [4]}, "augmentation": augmentation, "epochs": 9, "metric_loss": None,
        "patches": {"epochs": 3, "size": 64, "batch_size": 8, "learning_rate": 0.002,
                    "augmentation": {**augmentation, "rotation": 90.0, "erasing": 0.5}},
        "stages": [],
    }  # fmt: skip
    config = config_from_record({"recipe": recipe})
    assert (config.name, config.model.init_from, config.augmentation.rotation) == ("old", "mura-phantom", 20.0)
    assert config.model.model_kwargs == {"head_layers": [4]}
    patches, views = config.to_dict()["stages"]
    assert patches["augmentation"] == {"rotation": 90.0}
    assert (patches["patch_size"], patches["schedule"], patches["learning_rate"]) == (64, "cosine", 0.002)
    assert views == {"epochs": 9}
    config = config_from_record({"recipe": {**recipe, "stages": [{**stage, "patch_size": 96, "epochs": 2}, stage]}})
    assert [one.patch_size for one in config.training.stages] == [64, 96, None]
    metric = {**recipe, "patches": {"epochs": 0}, "family": "metric_learning",
              "metric_loss": {"name": "triplet_margin", "options": {"margin": 0.5}}}  # fmt: skip
    assert config_from_record({"recipe": metric}).training.metric_loss_options == {"margin": 0.5}
    former = {"sampling": "hard", "hard_share": 0.3, "cutmix": 1.0, "erasing": 0.5}
    assert config_from_record({"arguments": {**TrainingConfig().to_dict(), **former}}) == TrainingConfig()
    for folder in BUNDLED.values():
        record = json.loads((folder / "training.json").read_text())
        config = config_from_record(record)
        assert config.to_dict() == config_from_record({"arguments": config.to_dict()}).to_dict()


@dataclass
class Script:
    config: str
    patch_epochs: int | None = None
    show: bool = False


def read(*argv):
    return read_command_line([str(one) for one in argv], Script)[1]


def test_any_field_is_an_option():
    config = read(
        "--config", "mura_paper", "--learning_rate", "1e-5", "--rotation", 10, "--model_kwargs", "{head_layers: [8]}",
        "--enhance", "[clahe_gray, {name: unsharp, radius: 2, amount: 0.5}]", "--fold", 2, "--precision", "fp32",
        "--backbone_kwargs", "{output_stride: 16}", "--no_class_weighting", "--pretrained", "false",
        "--head_dropout", "0.5", "--image_mean", "[0.1, 0.2, 0.3]", "--schedule", "cosine",
    )  # fmt: skip
    assert (config.training.learning_rate, config.augmentation.rotation, config.data.fold) == (1e-5, 10, 2)
    assert config.model.enhance == ["clahe_gray", {"name": "unsharp", "radius": 2, "amount": 0.5}]
    assert (config.model.pretrained, config.training.class_weighting) == (False, False)
    assert (config.model.head_dropout, config.training.epochs) == (0.5, 12)
    changed = {"model_kwargs", "learning_rate", "rotation", "enhance", "fold", "precision", "backbone_kwargs",
               "class_weighting", "pretrained", "head_dropout", "image_mean", "schedule"}  # fmt: skip
    before = load_config("mura_paper").to_dict()
    assert {key for key, value in config.to_dict().items() if value != before[key]} == changed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["mura_paper", "--learnin_rate", "3"], 'did you mean "--learning_rate"'),
        (["mura_paper", "--epochs", "ten"], "invalid int value"),
        (["mura_paper", "--model_kwargs", "["], "not valid YAML"),
        (["many.yaml", "--learning_rate", "1e-4"], "members' configs set this: change film"),
        (["many.yaml", "--family", "specialized"], "leave out members"),
    ],
)
def test_wrong_options_are_explained(options, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("many.yaml").write_text("{family: ensemble, members: [film, film], stages: []}")
    with pytest.raises((ConfigError, SystemExit)) as caught:
        read("--config", *options)
    assert message in str(caught.value) + capsys.readouterr().err


def test_ours_starts_from_weights_of_timm():
    ours = load_config("ours")
    known = timm.get_pretrained_cfg(ours.model.backbone)
    assert known.hf_hub_id == f"timm/{ours.model.backbone}"
    assert known.input_size[-1] <= ours.model.image_size
    assert tuple(build_processor(ours).image_mean) == known.mean


def test_pretrained_weights_bring_their_normalization():
    vit = TrainingConfig().replace(backbone="vit_tiny_patch16_224")
    own = build_processor(vit)
    assert (tuple(own.image_mean), tuple(own.image_std)) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    named = build_processor(vit.replace(image_mean=[0.1, 0.2, 0.3]))
    assert (tuple(named.image_mean), tuple(named.image_std)) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    assert tuple(build_processor(TrainingConfig().replace(pretrained=False)).image_mean) == (0.485, 0.456, 0.406)
