import pytest

from mura_hf import RecipeError
from mura_hf.data import Augmentation
from mura_hf.training import Recipe, load_recipe, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads(name):
    recipe = load_recipe(name)
    assert isinstance(recipe, Recipe)
    assert isinstance(recipe.augmentation, Augmentation)


def test_there_is_one_for_the_bundled_checkpoint_and_one_for_the_paper():
    assert {"phantom", "mura_paper"} <= set(recipe_names())


def test_overrides_and_round_trip(tmp_path):
    recipe = load_recipe("phantom", epochs=2)
    assert recipe.epochs == 2
    import yaml

    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe.to_dict()))
    assert load_recipe(tmp_path / "mine.yaml") == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", "unknown key 'epoch'; did you mean 'epochs'"),
        ("augmentation: {rotatoin: 3}", "did you mean 'rotation'"),
        ("patches: {epoch: 3}", "patches: unknown key 'epoch'; did you mean 'epochs'"),
        ("patches: {augmentation: {flop: 1}}", "patches, augmentation: unknown key 'flop'; did you mean 'flip'"),
        ("patches: {size: 8}", "size 32 or above"),
        ("patches: [3]", "patches is .* must hold keys and values"),
        ("learning_rate: 1e-4", r"write 1\.0e-4"),
        ("epochs: ten", "must be of type int"),
        ("pretrained: 1", "must be of type bool"),
        ("precision: fp8", "fp32 or bf16"),
        ("epochs: 0", "above 0"),
        ("- epochs", "keys and values"),
        ("a: [", "not valid YAML"),
    ],
)
def test_says_what_is_wrong(text, message, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe(file)


def test_an_unknown_recipe_names_the_known_ones():
    with pytest.raises(RecipeError, match="mura_paper, phantom"):
        load_recipe("fantom")
