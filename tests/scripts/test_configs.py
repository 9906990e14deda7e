"""The configs of the five studies."""

import pytest
from harness import CONFIGS
from systems import SYSTEMS, build_system, shrink_config

from mura_hf.models.backbone_mura import freeze_backbone
from mura_hf.training import build_model, build_processor, config_names, load_config

FOLDERS = [CONFIGS]
NAMES = [name for name in config_names(FOLDERS) if name[1] == "_"]


def test_every_system_has_a_config_and_every_config_of_a_study_is_a_system():
    assert {name for name in NAMES if name[0] in "abcdex"} == set(SYSTEMS)


@pytest.mark.parametrize("name", NAMES)
def test_every_config_loads_and_builds_its_model(name):
    config = load_config(name, FOLDERS)
    assert config.name == name
    for member in [*config.model.members, *filter(None, [config.model.router])]:
        load_config(member, FOLDERS)
    if name in SYSTEMS:  # the others are comparisons on phantoms
        assert type(build_system(shrink_config(name, 48, True), 48, True)).__name__ == SYSTEMS[name]


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
