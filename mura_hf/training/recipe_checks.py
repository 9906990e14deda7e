"""What a recipe must not hold."""

from typing import TYPE_CHECKING

from ..errors import ConfigError
from ..losses import build_metric_loss
from .families import ASSEMBLED, FAMILIES, NOT_JUDGED, check_config, model_class
from .recipe_parts import SAMPLINGS
from .selecting import SELECTIONS

if TYPE_CHECKING:
    from .recipe import Recipe

_CHOICES = {
    "family": (*FAMILIES, *ASSEMBLED),
    "classes_over": ("label", "label_and_part"),
    "level": ("view", "study"),
    "optimizer": ("adamw", "adam", "sgd"),
    "schedule": ("cosine", "constant", "step", "plateau"),
    "precision": ("fp32", "bf16", "fp16"),
    "select_by": tuple(SELECTIONS),
    "sampling": SAMPLINGS,
}
_ABOVE_0 = (
    "epochs",
    "batch_size",
    "accumulation",
    "image_size",
    "learning_rate",
    "step_epochs",
    "gamma",
    "plateau_factor",
)
_NOT_NEGATIVE = (
    "weight_decay", "momentum", "patience", "plateau_patience", "average_top_k", "max_gradient_norm",
    "max_skipped_steps", "body_part_weight", "region_weight", "finding_weight", "metric_weight", "train_last",
    "mixup", "cutmix",
)  # fmt: skip
_SHARES = ("warmup_fraction", "label_smoothing", "ema_decay", "hard_share")


def check_recipe(recipe: "Recipe") -> None:
    """Refuses what cannot be trained.

    Raises:
        ConfigError: If a value is out of range, or two do not go together; it says which, and the way out.
    """
    for name, choices in _CHOICES.items():
        if getattr(recipe, name) not in choices:
            raise ConfigError(f"{name} is {getattr(recipe, name)!r}: it must be one of {', '.join(choices)}")
    for name in _ABOVE_0:
        if not getattr(recipe, name) > 0:
            raise ConfigError(f"{name} is {getattr(recipe, name)}: it must be above 0")
    for name in _NOT_NEGATIVE:
        if getattr(recipe, name) is not None and not getattr(recipe, name) >= 0:
            raise ConfigError(f"{name} is {getattr(recipe, name)}: it must be 0 or above")
    for name in _SHARES:
        if not 0 <= getattr(recipe, name) < 1 and (name, getattr(recipe, name)) != ("hard_share", 1):
            raise ConfigError(f"{name} is {getattr(recipe, name)}: it must lie in [0, 1)")
    if not 0 < recipe.layer_decay <= 1:
        raise ConfigError(f"layer_decay is {recipe.layer_decay}: it must lie in (0, 1]; 1 is one rate for all layers")
    _check_pictures(recipe)
    _check_sampling(recipe)
    if recipe.family in ASSEMBLED:
        _check_members(recipe)
        return
    if recipe.members or recipe.router or recipe.fit_member_weights:
        raise ConfigError(
            f"members, router and fit_member_weights belong to the families {' and '.join(ASSEMBLED)}, and family is "
            f"{recipe.family}"
        )
    _check_start(recipe)
    check_config(recipe)
    _check_losses(recipe)
    _check_mixing(recipe)
    _check_stages(recipe)


def _check_start(recipe: "Recipe") -> None:
    if recipe.init_from is not None and recipe.pretrained:
        raise ConfigError("init_from and pretrained both say where the backbone starts; set pretrained to false")
    if recipe.init_heads and recipe.init_checkpoint is None:
        raise ConfigError("init_heads takes heads from a checkpoint: name one in init_from, or set it to false")
    weights = recipe.timm_weights
    if weights is not None and weights.partition(".")[0] != recipe.backbone.partition(".")[0]:
        raise ConfigError(
            f"init_from names weights of {weights}, and backbone is {recipe.backbone}: set backbone to {weights}"
        )


def _check_pictures(recipe: "Recipe") -> None:
    if recipe.resize_size is not None and recipe.resize_size < recipe.image_size:
        raise ConfigError(
            f"resize_size is {recipe.resize_size}, but image_size, {recipe.image_size}, is to be cropped from it"
        )
    if recipe.augmentation.random_crop and recipe.resize_size in (None, recipe.image_size):
        raise ConfigError("random_crop has no room: give a resize_size above image_size")
    if recipe.patches.epochs and recipe.patches.size > recipe.image_size:
        raise ConfigError(
            f"patches: size is {recipe.patches.size}, but a patch cannot be larger than the picture, "
            f"image_size {recipe.image_size}"
        )


def _check_sampling(recipe: "Recipe") -> None:
    if recipe.sampling != "classes":
        return
    made = recipe.classes_per_batch * recipe.samples_per_class
    if made != recipe.batch_size:
        raise ConfigError(
            f"sampling: classes makes batches of classes_per_batch {recipe.classes_per_batch} x samples_per_class "
            f"{recipe.samples_per_class} = {made}, but batch_size is {recipe.batch_size}; let them agree"
        )
    if recipe.classes_per_batch < 2:
        raise ConfigError("classes_per_batch must be 2 or above")
    if recipe.classes_over == "label" and recipe.classes_per_batch != 2:
        raise ConfigError("there are two labels: set classes_per_batch to 2, or classes_over to label_and_part")


def _check_losses(recipe: "Recipe") -> None:
    if (recipe.metric_loss is None) != (recipe.family != "metric_learning"):
        raise ConfigError(
            "metric_loss belongs to family metric_learning, which cannot do without: set both or neither"
        )
    if recipe.metric_loss is not None:
        build_metric_loss({"name": recipe.metric_loss.name, **recipe.metric_loss.options})
    if bool(recipe.finding_weight) != bool(recipe.model.get("finding_types")):
        raise ConfigError("finding_weight and finding_types (in model) go together: set both or neither")
    if recipe.region_weight and recipe.family == "fusenet":
        raise ConfigError("region_weight is for a model of one branch; set it to 0, or train its global branch apart")
    if recipe.augmentation.random_crop and recipe.model.get("full_resolution"):
        raise ConfigError("full_resolution shows the whole picture, so random_crop has no place there")
    if recipe.level == "study":
        if recipe.family != "classifier":
            raise ConfigError(f"level study is for family classifier, not {recipe.family}; use level view")
        if recipe.region_weight or recipe.patches.epochs:
            raise ConfigError("region_weight and patches are about views; use level view, or set both to 0")
    elif recipe.model.get("study_pooling", "mean") == "gated_attention":
        raise ConfigError("study_pooling gated_attention is learned over the views of a study: set level to study")


def _check_mixing(recipe: "Recipe") -> None:
    if not (recipe.mixup or recipe.cutmix):
        return
    against = {
        "level study, since studies have different numbers of views": recipe.level == "study",
        "region_weight, since a place of a mixed view belongs to two": recipe.region_weight,
        "patches, which are cut so that one finding fills them": recipe.patches.epochs,
        "metric_loss, since what is mixed belongs to two classes": recipe.metric_loss,
        "family fusenet, whose crop would show a part of two views": recipe.family == "fusenet",
        "sampling hard, since the loss of what is mixed is no row's": recipe.sampling == "hard",
    }
    for what, given in against.items():
        if given:
            raise ConfigError(f"mixup and cutmix do not go with {what}; set mixup and cutmix to 0")


def _check_stages(recipe: "Recipe") -> None:
    known = model_class(recipe.family).STAGES
    for stage in recipe.stages:
        if stage.trains not in known:
            raise ConfigError(f"stages: a {recipe.family} has no stage {stage.trains!r}; there are {', '.join(known)}")
        chosen = recipe.for_stage(stage)  # is checked as it is made
        if stage.patch_size is not None:
            _check_patches(recipe, chosen, stage.patch_size)
        if stage.trains in NOT_JUDGED and (chosen.schedule == "plateau" or chosen.sampling == "hard"):
            raise ConfigError(
                f"stage {stage.trains} does not classify, so there is neither a loss on dev for the schedule plateau "
                "nor a loss of each row for the sampling hard; choose others for it"
            )
    named = [stage.trains for stage in recipe.stages]
    if recipe.family == "fusenet" and named and named != list(known):
        raise ConfigError(
            f"stages are {', '.join(named)}: a fusenet is trained in the stages {', '.join(known)}, each once and in "
            "this order, since each builds on the one before"
        )
    if recipe.stages and recipe.stages[-1].patch_size is not None:
        raise ConfigError("stages: after patches a stage on whole views must come, which dev can judge")
    if recipe.stages and recipe.stages[-1].trains in NOT_JUDGED:
        raise ConfigError(f"stages: after {recipe.stages[-1].trains} a stage that trains the classifier must come")


def _check_patches(recipe: "Recipe", chosen: "Recipe", size: int) -> None:
    """A stage on patches: they fit into the picture, are crops already, and nothing is judged."""
    if size > recipe.image_size:
        raise ConfigError(f"stages: patch_size is {size}, which image_size, {recipe.image_size}, has no room for")
    if recipe.family != "classifier" or recipe.level == "study":
        raise ConfigError("stages: patches are for family classifier at level view; leave out patch_size")
    if chosen.augmentation.random_crop or chosen.augmentation.resized_crop < 1:
        raise ConfigError("stages: patches are crops already; set random_crop and resized_crop aside for that stage")
    if chosen.sampling == "hard":
        raise ConfigError("stages: patches are not drawn by what views cost; choose another sampling than hard")
    if chosen.schedule == "plateau":
        raise ConfigError(
            "stages: dev does not judge patches, so schedule plateau has nothing to go by; choose cosine"
        )


def _check_members(recipe: "Recipe") -> None:
    if recipe.stages and recipe.family == "ensemble":
        raise ConfigError("an ensemble has no stages of its own; its members' recipes have theirs")
    if recipe.family == "ensemble" and len(recipe.members) < 2:
        raise ConfigError(
            "an ensemble needs two members or more; one that is named again is trained with another seed"
        )
    if recipe.family == "specialized" and (recipe.members or recipe.fit_member_weights):
        raise ConfigError(
            "a specialized model has a member for each body part, of this very recipe: leave out members"
        )
    if recipe.family == "ensemble" and recipe.router:
        raise ConfigError("an ensemble has no router; that belongs to family specialized")
