import pytest

from mura_hf import ConfigError
from mura_hf.training import change_recipe, load_recipe


def test_any_value_can_be_set():
    recipe, told = change_recipe(
        load_recipe("scratch"),
        ["learning_rate=1e-4", "augmentation.rotation=10", "model.head_layers=[256]", "enhance=[clahe_gray]",
         "backbone_kwargs.output_stride=16", "fold=2", "precision=bf16", "resize_size=null",
         "augmentation.random_crop=no"],
    )  # fmt: skip
    assert (recipe.learning_rate, recipe.augmentation.rotation, recipe.fold) == (1e-4, 10, 2)
    assert recipe.augmentation.flip == load_recipe("scratch").augmentation.flip
    assert recipe.model == {"head_layers": [256]}
    assert (recipe.enhance, recipe.backbone_kwargs) == (["clahe_gray"], {"output_stride": 16})
    assert (recipe.resize_size, recipe.augmentation.random_crop, recipe.precision) == (None, False, "bf16")
    assert told == []


def test_places_of_a_list_count_from_1():
    recipe, _ = change_recipe(load_recipe("d_fusenet"), ["stages.2.epochs=9"])
    assert [stage.epochs for stage in recipe.stages][1] == 9
    assert recipe.stages[0] == load_recipe("d_fusenet").stages[0]


def test_what_is_not_set_stays(tmp_path):
    for name in ("phantom", "d_fusenet", "a_siamese_batch_hard"):
        assert change_recipe(load_recipe(name))[0] == load_recipe(name)


@pytest.mark.parametrize(
    ("name", "setting", "message"),
    [
        ("scratch", "epoch=3", "unknown key 'epoch'; did you mean 'epochs'"),
        ("scratch", "augmentation.rotatoin=3", "augmentation: unknown key 'rotatoin'; did you mean 'rotation'"),
        ("scratch", "modell.head_layers=[3]", "unknown key 'modell'; did you mean 'model'"),
        ("scratch", "model.head_layer=[3]", "did you mean 'head_layers'"),
        ("scratch", "epochs", "write KEY=VALUE"),
        ("scratch", "epochs=[", "not valid YAML"),
        ("scratch", "epochs=ten", "must be of type int"),
        ("scratch", "epochs.first=3", "epochs is 20, which has no keys"),
        ("d_fusenet", "stages.4.epochs=3", "stages is a list of 3"),
        ("d_fusenet", "stages.first.epochs=3", "from 1 on"),
        ("d_fusenet", "epochs=3", "epochs of their own"),
        ("d_ensemble", "learning_rate=1e-4", "members' recipes say this: change those, d_resnet50"),
        ("d_ensemble", "leaning_rate=1e-4", "did you mean 'learning_rate'"),
    ],
)
def test_what_cannot_be_is_refused(name, setting, message):
    with pytest.raises(ConfigError, match=message):
        change_recipe(load_recipe(name), [setting])


def test_a_classifier_for_each_body_part():
    assert change_recipe(load_recipe("scratch"), each_body_part=True)[0].family == "specialized"
    routed = load_recipe("c_specialized_routed")
    assert change_recipe(routed, each_body_part=True)[0] == routed
    with pytest.raises(ConfigError, match="makes a fusenet"):
        change_recipe(load_recipe("d_fusenet"), each_body_part=True)
