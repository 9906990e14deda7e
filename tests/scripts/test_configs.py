"""The configs of the five studies, against the settings that the studies state."""

import pytest
from harness import CONFIGS
from systems import SYSTEMS

from mura_hf.models.backbone_mura import freeze_backbone
from mura_hf.training import build_model, build_processor, config_names, load_config

FOLDERS = [CONFIGS]
NAMES = [name for name in config_names(FOLDERS) if name[1] == "_"]

SETTINGS = {
    **{
        f"a_siamese_{backbone}_{size}": {
            "family": "metric_learning", "backbone": backbone, "image_size": 224,
            "model_kwargs": {"embedding_size": size},
        }
        for backbone in ("resnet50", "densenet169") for size in (128, 256)
    },
    "a_siamese_densenet169_clahe": {"enhance": [{"name": "clahe", "space": "lab"}]},
    "a_siamese_batch_hard": {"metric_loss": "batch_hard_triplet"},
    "a_siamese_semi_hard": {"metric_loss": "semi_hard_triplet"},
    "a_siamese_triplet_focal": {"metric_loss": "triplet_focal", "model_kwargs": {"embedding_size": 256}},
    "a_siamese_triplet_focal_128": {"metric_loss": "triplet_focal", "model_kwargs": {"embedding_size": 128}},
    "a_siamese_hard_negatives": {"metric_loss": "selectively_contrastive_triplet", "sampling": "hard"},
    "a_siamese_two_stage": {"trains": ["embedding", "classifier"]},
    **{
        name: {
            "backbone": "densenet121", "image_size": 224, "batch_size": 64, "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3, "head_dropout": 0.2, "train_last": last,
            "model_kwargs": {"head_layers": [512], "head_init": init, "head_batch_norm": norm},
        }
        for name, last, init, norm in (
            ("b_frozen", 0, "small", True), ("b_he", None, "he", True), ("b_xavier", None, "xavier", True),
            ("b_xavier_last_two", 2, "xavier", False), ("b_he_last_block", 1, "he", True),
            ("b_random_last_three", 3, "random", False),
        )
    },
    **{
        name: {
            "backbone": backbone, "batch_size": 32, "optimizer": "sgd", "learning_rate": 0.001, "momentum": 0.8,
            "weight_decay": 0.001, "epochs": 20, "patience": 4, "head_dropout": [0.5, 0.5, 0.0, 0.0],
            "model_kwargs": {"head_layers": [256, 128, 32], "head_activation": "none"}, "family": family,
        }
        for name, backbone, family in (
            ("c_unified_resnet18", "resnet18", "classifier"), ("c_unified_resnet50", "resnet50", "classifier"),
            ("c_specialized_resnet18", "resnet18", "specialized"),
        )
    },
    **{
        name: {
            "backbone": backbone, "batch_size": 32, "optimizer": "sgd", "learning_rate": 1e-4, "momentum": 0.9,
            "weight_decay": 1e-4, "epochs": 20, "patience": 2, "schedule": "step", "step_epochs": 3, "gamma": 0.3,
            "head_dropout": [0.0, 0.5], "model_kwargs": {"head_layers": [512], "head_activation": "relu"},
            "family": family,
        }
        for name, backbone, family in (
            ("c_unified_densenet121", "densenet121", "classifier"),
            ("c_unified_densenet201", "densenet201", "classifier"),
            ("c_specialized_densenet121", "densenet121", "specialized"),
        )
    },
    **{
        f"c_{name}": {"backbone": name, "pretrained": False, "optimizer": "adam"}
        for name in ("cnn2", "cnn4", "cnn15")
    },
    **{
        name: {
            "backbone": backbone, "batch_size": batch, "learning_rate": 1e-4, "schedule": "plateau",
            "plateau_factor": 0.1, "resize_size": 256, "image_size": 224, "class_weighting": True,
            "random_crop": True, "pretrained": True,
        }
        for name, backbone, batch in (
            ("d_resnet50", "resnet50", 16), ("d_densenet169", "densenet169", 16),
            ("d_densenet169_b32", "densenet169", 32), ("d_densenet169_b64", "densenet169", 64),
        )
    },
    "d_fusenet": {
        "family": "fusenet", "backbone": "resnet50", "trains": ["global", "local", "fusion"],
        "model_kwargs": {"crop_map": "gradcam", "crop_threshold": 0.7},
    },
    "d_fusenet_channel_max": {
        "family": "fusenet", "model_kwargs": {"crop_map": "channel_max", "crop_threshold": 0.7}
    },
    "d_fusenet_full_resolution": {"family": "fusenet", "resize_size": 512, "image_size": 224},
    "e_wrist_cnn": {"backbone": "wrist_cnn", "image_size": 224, "optimizer": "adam", "learning_rate": 1e-4},
    "e_frozen_densenet169": {
        "backbone": "densenet169", "train_last": 0, "optimizer": "adam", "learning_rate": 1e-3, "model_kwargs": {},
    },
    "x_attention": {"level": "study", "model_kwargs": {"study_pooling": "gated_attention"}},
    "x_max": {"level": "study", "model_kwargs": {"study_pooling": "max"}},
    "x_noisy_or": {"level": "study", "model_kwargs": {"study_pooling": "noisy_or"}},
}  # fmt: skip


def test_every_system_has_a_config_and_every_config_of_a_study_is_a_system():
    assert {name for name in NAMES if name[0] in "abcdex"} == set(SYSTEMS)


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_those_of_the_study(name):
    values = load_config(name, FOLDERS).to_dict()
    values["trains"] = [stage["trains"] for stage in values["stages"] if "trains" in stage]
    assert {key: values[key] for key in SETTINGS[name]} == SETTINGS[name]


@pytest.mark.parametrize("name", NAMES)
def test_every_config_loads_and_its_members_exist(name):
    config = load_config(name, FOLDERS)
    assert config.name == name
    for member in [*config.model.members, *filter(None, [config.model.router])]:
        load_config(member, FOLDERS)


def _load(name):
    return load_config(name, FOLDERS).replace(pretrained=False)


def _count(model, trained):
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad == trained)


def test_numbers_of_parameters_are_those_of_the_studies():
    wrist = build_model(_load("e_wrist_cnn"), trained_on_phantoms=False)
    assert _count(wrist, True) == 3_309_441 + 129  # two outputs, where the study has one
    frozen = _load("e_frozen_densenet169")
    model = build_model(frozen, trained_on_phantoms=False)
    freeze_backbone(model.mura.backbone, frozen.training.train_last)
    assert (_count(model, True), _count(model, False)) == (2 * 1665, 12_484_480)
    head = build_model(_load("c_unified_resnet18"), trained_on_phantoms=False).classifier
    shapes = [tuple(layer.weight.shape) for layer in head if hasattr(layer, "weight")]
    assert shapes == [(256, 512), (128, 256), (32, 128), (2, 32)]


def test_full_resolution_is_not_cropped():
    whole, cropped = (build_processor(_load(name)) for name in ("d_fusenet_full_resolution", "d_fusenet"))
    assert (whole.output_size, cropped.output_size) == ((512, 512), (224, 224))
