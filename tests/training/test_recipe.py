import pytest
import yaml

from mura_hf import ConfigError
from mura_hf.data import Augmentation
from mura_hf.training import Recipe, load_recipe, recipe_names, with_epochs
from mura_hf.training.stages import make_stages


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
        ("precision: fp8", "one of fp32, bf16"),
        ("epochs: 0", "above 0"),
        ("family: transformer", "must be one of classifier, metric_learning, fusenet, ensemble, specialized"),
        ("model: {head_layer: [3]}", "a classifier has no 'head_layer'; did you mean 'head_layers'"),
        ("model: {crop_threshold: 0.5}", "a classifier has no 'crop_threshold'"),
        ("model: {image_size: 3}", "image_size is a key of the recipe itself"),
        ("model: {temperature: 2.0}", "fitted on calib"),
        ("model: {head_layers: [0]}", "cannot be: .* widths"),
        ("model: {head_layers: wide}", "cannot be: .*head_layers"),
        ("head_dropout: [0.1, 0.2]", "one for each of the head's linear layers"),
        ("optimizer: lion", "must be one of adamw, adam, sgd"),
        ("schedule: linear", "must be one of cosine, constant, step, plateau"),
        ("warmup_fraction: 1.5", r"must lie in \[0, 1\)"),
        ("patience: -1", "0 or above"),
        ("gamma: 0", "above 0"),
        ("{sampling: classes, batch_size: 8}", "classes_per_batch 2 x samples_per_class 16 = 32, but batch_size is 8"),
        ("{sampling: classes, classes_per_batch: 4, samples_per_class: 2, batch_size: 8}", "there are two labels"),
        ("family: metric_learning", "metric_loss belongs to family metric_learning"),
        ("metric_loss: {name: triplet_margin}", "metric_loss belongs to family metric_learning"),
        ("{family: metric_learning, metric_loss: {name: triplet}}", "unknown name 'triplet'"),
        ("{family: metric_learning, metric_loss: {}}", "metric_loss: name is missing"),
        ("{family: metric_learning, metric_loss: {name: triplet_focal, options: {sigm: 1}}}", "did you mean 'sigma'"),
        ("finding_weight: 0.3", "finding_types"),
        ("model: {finding_types: [a, b]}", "finding_weight"),
        ("model: {study_pooling: gated_attention}", "set level to study"),
        ("{level: study, region_weight: 1.0}", "use level view"),
        ("{level: study, family: fusenet}", "level study is for family classifier"),
        ("{family: fusenet, region_weight: 1.0}", "one branch"),
        ("stages: {trains: all}", "stages is .* must be a list"),
        ("stages: [{trains: local, epochs: 2}]", "a classifier has no stage 'local'; there are all"),
        ("stages: [{trains: all}]", "stages 1: epochs is missing"),
        ("stages: [{trains: all, epochs: 2}, {trains: all, epoch: 2}]", "stages 2: unknown key 'epoch'"),
        ("stages: [{trains: all, epochs: 2, optimizer: sgd}]", "unknown key 'optimizer'"),
        ("stages: [{trains: all, epochs: 2, sampling: classes, batch_size: 4}]", "let them agree"),
        ("stages: [{trains: all, epochs: 2, patch_size: 16}, {trains: all, epochs: 1}]", "must be 32 or above"),
        ("stages: [{trains: all, epochs: 2, patch_size: 640}, {trains: all, epochs: 1}]", "320, has no room for"),
        ("stages: [{trains: all, epochs: 2, patch_size: 64}]", "a stage on whole views must come"),
        (
            "stages: [{trains: all, epochs: 2, patch_size: 64, schedule: plateau}, {trains: all, epochs: 1}]",
            "nothing to go by; choose cosine",
        ),
        (
            "stages: [{trains: all, epochs: 2, patch_size: 64, augmentation: {resized_crop: 0.5}}, {trains: all, "
            "epochs: 1}]",
            "patches are crops already",
        ),
        (
            "{level: study, stages: [{trains: all, epochs: 2, patch_size: 64}, {trains: all, epochs: 1}]}",
            "at level view",
        ),
        ("{family: fusenet, stages: [{trains: globl, epochs: 1}]}", "there are global, local, fusion"),
        (
            "{family: metric_learning, metric_loss: {name: triplet_margin}, stages: [{trains: embedding, epochs: 2}]}",
            "after embedding a stage that trains the classifier must come",
        ),
        (
            "{family: metric_learning, metric_loss: {name: triplet_margin}, schedule: plateau, "
            "stages: [{trains: embedding, epochs: 2}, {trains: classifier, epochs: 2}]}",
            "neither a loss on dev",
        ),
        ("members: [d_resnet50, d_fusenet]", "belong to the families ensemble and specialized"),
        ("{family: ensemble, members: [d_resnet50]}", "two members or more"),
        ("{family: specialized, members: [a, b]}", "leave out members"),
        ("{family: ensemble, members: [a, b], router: c}", "has no router"),
        ("extends: [phantom]", "name of a recipe"),
        ("extends: fantom", "no recipe 'fantom'"),
        ("extends: mine.yaml", "extends itself"),
        ("- epochs", "keys and values"),
        ("a: [", "not valid YAML"),
    ],
)
def test_says_what_is_wrong(text, message, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_recipe(file)


def test_what_a_recipe_extends_holds_where_it_names_nothing(tmp_path):
    (tmp_path / "base.yaml").write_text(
        "{name: other, epochs: 3, batch_size: 4, backbone_kwargs: {stem_width: 8}, "
        "augmentation: {flip: 0.1, scale: 0.2}, model: {head_layers: [5], head_init: he}}"
    )
    (tmp_path / "mine.yaml").write_text(
        "{extends: base.yaml, epochs: 7, backbone_kwargs: {output_stride: 16}, augmentation: {flip: 0.4}, "
        "model: {head_init: xavier}}"
    )
    mine = load_recipe(tmp_path / "mine.yaml", batch_size=6)
    assert (mine.name, mine.epochs, mine.batch_size) == ("mine", 7, 6)
    assert (mine.augmentation.flip, mine.augmentation.scale) == (0.4, 0.2)
    assert mine.model == {"head_layers": [5], "head_init": "xavier"}
    assert mine.backbone_kwargs == {"output_stride": 16}


def test_a_stage_replaces_what_it_names():
    recipe = load_recipe("d_fusenet")
    whole, local, fusion = (recipe.for_stage(stage) for stage in recipe.stages)
    assert (whole.batch_size, local.batch_size, fusion.batch_size) == (16, 64, 16)
    assert (whole.augmentation.rotation, fusion.augmentation.rotation, fusion.augmentation.random_crop) == (
        30,
        0,
        False,
    )
    assert local.augmentation == recipe.augmentation
    assert {part.schedule for part in (whole, local, fusion)} == {"plateau"}


def test_epochs_are_changed_in_every_stage_but_not_of_an_ensemble():
    assert [stage.epochs for stage in with_epochs(load_recipe("d_fusenet"), 2).stages] == [2, 2, 2]
    assert with_epochs(load_recipe("phantom"), 2).epochs == 2
    with pytest.raises(ConfigError, match="change those, d_resnet50"):
        with_epochs(load_recipe("d_ensemble"), 2)


def test_an_unknown_recipe_names_the_known_ones():
    with pytest.raises(ConfigError, match="did you mean 'phantom'"):
        load_recipe("fantom")


@pytest.mark.parametrize("trains", [["global"], ["global", "local"], ["global", "fusion"], ["fusion"]])
def test_a_fusenet_is_trained_in_all_its_stages(trains, tmp_path):
    stages = [{"trains": name, "epochs": 1} for name in trains]
    file = tmp_path / "part.yaml"
    file.write_text(yaml.safe_dump({"family": "fusenet", "stages": stages}))
    with pytest.raises(ConfigError, match="global, local, fusion, each once and in this order"):
        load_recipe(file)


def test_a_fusenet_without_stages_is_not_trained():
    recipe = Recipe(family="fusenet", pretrained=False)
    with pytest.raises(ConfigError, match="name global, local and fusion"):
        make_stages(recipe, None, None, None)
