from mura_hf.hub.training_section import bases_of, training_story

RECIPE = {"epochs": 8, "patches": {"epochs": 0, "size": 112}}
BASE = {
    "name": "mura-phantom",
    "revision": None,
    "sha256": "0123456789abcdef" * 4,
    "heads": True,
    "trained_on": [{"key": "phantoms", "name": "phantoms"}, {"key": "mura", "name": "MURA v1.1"}],
}
RECORD = {"recipe": RECIPE, "selected_by": "study-level AUROC on dev", "epoch": 3}


def test_one_stage():
    assert training_story(RECORD) == ["The kept epoch, 3 of 8, is the best by study-level AUROC on dev."]


def test_patches_first():
    story = training_story({**RECORD, "recipe": {**RECIPE, "patches": {"epochs": 5, "size": 96}}})
    assert story[0] == "First 5 epochs on patches of 96 px around the findings, then 8 on whole views."
    assert story[1].startswith("The kept epoch on whole views, 3 of 8")


def test_stages_tell_of_the_last():
    stages = [{"trains": "global", "epochs": 4}, {"trains": "local", "epochs": 3}, {"trains": "fusion", "epochs": 6}]
    story = training_story({**RECORD, "recipe": {**RECIPE, "stages": stages}, "base": BASE})
    assert story[0] == "In stages: global (4 epochs), local (3 epochs), fusion (6 epochs)."
    assert story[1].startswith("The kept epoch of the stage fusion, 3 of 6,")
    assert story[2] == (
        "Started from the checkpoint `mura-phantom` (SHA-256 0123456789ab...), trained on phantoms, before that on "
        "MURA v1.1: its backbone, and heads where they fit, went on here."
    )


def test_what_it_started_from_is_named():
    timm = {"name": "timm/resnet50.a1_in1k", "revision": None, "sha256": None, "heads": False, "trained_on": None}
    assert training_story({**RECORD, "base": timm})[1] == (
        "The backbone started from timm's weights `timm/resnet50.a1_in1k`."
    )
    hub = {**BASE, "revision": "f" * 40, "heads": False, "trained_on": None}
    assert training_story({**RECORD, "base": hub})[1] == (
        "Started from the checkpoint `mura-phantom` (commit ffffffffffff on the Hub), trained on data that its "
        "records do not name: its backbone went on here."
    )


def test_stages_tell_of_their_patches():
    stages = [{"trains": "all", "epochs": 6, "patch_size": 224}, {"trains": "all", "epochs": 2, "patch_size": None}]
    story = training_story({**RECORD, "recipe": {**RECIPE, "stages": stages}})
    assert story[0] == "In stages: all (6 epochs on patches of 224 px around the findings), all (2 epochs)."


def test_averages_tell_both_figures():
    averaged = {"epochs": [2, 5, 7], "dev": {"auroc": 0.91}, "dev_of_best_epoch": {"auroc": 0.925}}
    story = training_story({**RECORD, "averaged": averaged, "recipe": {**RECIPE, "ema_decay": 0.999}})
    assert "mean of epochs 2, 5, 7" in story[0]
    assert "AUROC there 0.910; of the best epoch alone 0.925" in story[0]
    assert "decay 0.999" in story[1]


def test_mixing_and_rates_are_told():
    story = training_story({**RECORD, "recipe": {**RECIPE, "mixup": 0.2, "cutmix": 0.0, "layer_decay": 0.9}})
    assert story[1:] == [
        "Views were mixed: mixup of Beta(0.2, 0.2).",
        "Rates fell by a factor of 0.9 from layer to layer, the heads having all of it.",
    ]


def test_members():
    members = {"elbow": {"recipe": "p_base", "epoch": 2, "dev": {"auroc": 0.8}, "seconds": 3.0}}
    (told,) = training_story({**RECORD, "epoch": None, "members": members})
    assert "elbow (recipe `p_base`, epoch 2, AUROC on dev 0.800)" in told


def test_what_members_started_from_is_told_once():
    member = {"recipe": "film", "epoch": 1, "dev": {"auroc": 0.8}, "seconds": 3.0, "base": BASE}
    members = {f"film-{seed}": {**member, "seed": seed} for seed in (0, 1)}
    story = training_story({**RECORD, "members": members})
    assert "film-1 (recipe `film`, seed 1, epoch 1, AUROC on dev 0.800)" in story[0]
    assert len(story) == 1 + len(training_story({**RECORD, "base": BASE})[1:])
    assert BASE["name"] in story[1]
    settings = {**RECIPE, "patches": {"epochs": 5, "size": 96}, "region_weight": 1.0}
    told = training_story(
        {**RECORD, "members": {name: {**one, "settings": settings} for name, one in members.items()}}
    )[1]
    assert told.startswith("Recipe `film`: First 5 epochs on patches of 96 px around the findings, then 8 on whole")
    assert "class activation map" in told
    assert bases_of({"members": members, "base": None}) == [BASE]
    assert bases_of({"members": {"a": {**member, "base": None}}}) == []
