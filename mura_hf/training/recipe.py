"""Recipes: every choice of a training run in one YAML file."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from ..data import Augmentation
from .recipe_checks import check_recipe
from .recipe_parts import TIMM, MetricLoss, PatchStage, TrainingStage


@dataclass(frozen=True)
class Recipe:
    """Settings of a run; the YAML file has the same keys.

    Attributes:
        name: What the recipe is called; the name of the package's own, or of the file.
        family: "classifier", "metric_learning", "fusenet"; or one that is made of trained members: "ensemble" of the
            recipes in `members`, "specialized" with a classifier of this recipe for each body part.
        backbone: timm architecture, or one of ours such as "cnn2".
        backbone_kwargs: Further arguments of `timm.create_model`.
        pretrained: Whether the backbone starts from timm's weights (needs them downloaded).
        init_from: Where weights start: "timm:NAME", timm's for this backbone; or a checkpoint with this very backbone:
            a folder, a Hub name (with "@revision" where wanted), or one of the package's by its name ("bundled" is
            mura-phantom). Everything is new where None.
        init_heads: Whether a checkpoint of the same family gives its heads too, where they fit; else they start anew.
        model: Further fields of the family's config, such as `{"head_layers": [256]}`.
        image_size: Side in pixels of what the model sees.
        resize_size: Side in pixels that pictures are resized to before `image_size` is cropped from them: from the
            middle, in training anywhere with `random_crop`. `image_size` itself where None.
        resize_mode: "letterbox" or "squash".
        enhance: Filters of `MuraImageProcessor`, in their order.
        crop_border: Whether the collimation border is cropped.
        image_mean: Mean of the normalisation, one a channel; that of the pretrained weights, else ImageNet's, where
            None.
        image_std: Deviation beside it.
        head_dropout: Dropout in front of the heads, or in front of each linear layer of the classifier.
        body_part_head: Whether to train a second head for the body part.
        body_part_weight: Weight of its loss.
        region_weight: Weight of the loss on the class activation map, for data with boxes; 0 leaves it out.
        finding_weight: Weight of the loss of the head for the type of finding (`finding_types` in `model`), over the
            rows whose type is known and among them, for data with findings; 0 leaves it out.
        metric_loss: Loss on the embeddings, of metric learning.
        metric_weight: Its weight beside the cross entropy.
        classes_over: What makes two rows alike in `metric_loss` and in `sampling: classes`: "label", or
            "label_and_part": label and body part both.
        class_weighting: Whether to weight the loss by the class shares of train.
        label_smoothing: Share of each label spread over both classes.
        mixup: Views of a batch are mixed in pairs, pixels and losses alike, in shares drawn from Beta(mixup, mixup);
            see `mix_batch`. 0 mixes none.
        cutmix: A rectangle of each view is replaced by that of another; its share is drawn from Beta(cutmix, cutmix).
            0 replaces none; with `mixup` too, either is done to a batch, by a toss.
        level: "view", or "study": a batch holds whole studies, and the loss is that of the study's pooled answer.
        train_last: How many of the backbone's last stages are trained, besides the heads; 0 freezes all of it, None
            nothing.
        epochs: Passes over train; not used where there are `stages`.
        batch_size: Views (studies, at study level) a batch and process.
        accumulation: Batches a step, whose gradients are added up.
        learning_rate: Peak of the optimiser's rate.
        layer_decay: By what factor the rate falls from each layer to the one before it, the heads having all of it; 1
            is one rate for all. See `parameter_groups`, also for what a layer is.
        optimizer: "adamw", "adam" (its weight decay is torch's: an L2 term in the gradient) or "sgd".
        momentum: Of "sgd".
        weight_decay: On matrices and kernels; biases and norms are never decayed, whichever the optimiser.
        warmup_fraction: Share of a stage's steps over which the rate rises to its peak.
        schedule: What follows: "cosine" to 0, "constant", "step" (times `gamma` after every `step_epochs`), or
            "plateau" (times `plateau_factor` once the loss on dev has not fallen for more than `plateau_patience`
            epochs).
        step_epochs: See `schedule`.
        gamma: See `schedule`.
        plateau_patience: See `schedule`.
        plateau_factor: See `schedule`.
        select_by: The study-level figure of dev that ranks epochs: "auroc", "auprc", "kappa", "f1", "accuracy" or
            "brier".
        patience: A stage ends after so many epochs that were no better by it; 0 never ends it early.
        ema_decay: Of an exponential moving average of the weights, which then is what is judged and kept; it warms up
            as timm's `ModelEmaV3` does. 0 averages none.
        average_top_k: At the end the weights of so many epochs, the best on dev of the last stage, are averaged, and
            the average is kept, whatever dev says of it. 0 or 1 keeps the best epoch.
        max_gradient_norm: Gradients are clipped to it; 0 does not clip.
        max_skipped_steps: Steps whose loss or gradient is not finite are left out; more of them in an epoch end the
            run.
        precision: "fp32", or "bf16" or "fp16" (autocast; fp16, with its scaled loss, on a GPU only).
        channels_last: Whether pictures and kernels lie in memory channels last, which most processors like better.
        compile: Whether `torch.compile` makes the step faster; that takes a minute or more at the start.
        dev_fraction: Share of train patients for selection.
        calib_fraction: Share of train patients kept for calibration.
        stratified: Whether the cut keeps shares of body parts and labels alike.
        fold: Cross-validation: which of `n_folds` is `dev`; None for a cut by `dev_fraction`.
        n_folds: How many folds.
        sampling: "shuffled"; "balanced": as many views of each label in an epoch; "classes": batches of
            `classes_per_batch` classes (see `classes_over`) with `samples_per_class` rows of each; "hard": see
            `HardSampler`.
        classes_per_batch: See `sampling`.
        samples_per_class: See `sampling`.
        hard_share: Share of an epoch that `sampling: hard` draws by the rows' losses.
        seed: Of everything random.
        augmentation: See `Augmentation`.
        patches: See `PatchStage`; needs data with boxes.
        stages: See `TrainingStage`; one stage that trains the family's first where empty.
        members: Recipes of an ensemble's members, cut and seeded as this recipe says; one that is named n times is
            trained with n seeds, counted up from this recipe's.
        fit_member_weights: Whether an ensemble's weights are fitted on calib; equal where not.
        router: Recipe of a specialised model's router, which finds the body part where none is given; None has none.
    """

    name: str = "custom"
    family: str = "classifier"
    backbone: str = "densenet169"
    backbone_kwargs: dict[str, Any] | None = None
    pretrained: bool = True
    init_from: str | None = None
    init_heads: bool = False
    model: dict[str, Any] = field(default_factory=dict)
    image_size: int = 320
    resize_size: int | None = None
    resize_mode: str = "letterbox"
    enhance: list[Any] | None = None
    crop_border: bool = False
    image_mean: list[float] | None = None
    image_std: list[float] | None = None
    head_dropout: float | list[float] = 0.0
    body_part_head: bool = True
    body_part_weight: float = 0.3
    region_weight: float = 0.0
    finding_weight: float = 0.0
    metric_loss: MetricLoss | None = None
    metric_weight: float = 1.0
    classes_over: str = "label"
    class_weighting: bool = True
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    level: str = "view"
    train_last: int | None = None
    epochs: int = 15
    batch_size: int = 32
    accumulation: int = 1
    learning_rate: float = 1e-4
    layer_decay: float = 1.0
    optimizer: str = "adamw"
    momentum: float = 0.9
    weight_decay: float = 0.01
    warmup_fraction: float = 0.05
    schedule: str = "cosine"
    step_epochs: int = 3
    gamma: float = 0.3
    plateau_patience: int = 1
    plateau_factor: float = 0.1
    select_by: str = "auroc"
    patience: int = 0
    ema_decay: float = 0.0
    average_top_k: int = 0
    max_gradient_norm: float = 1.0
    max_skipped_steps: int = 20
    precision: str = "fp32"
    channels_last: bool = True
    compile: bool = False
    dev_fraction: float = 0.08
    calib_fraction: float = 0.08
    stratified: bool = True
    fold: int | None = None
    n_folds: int = 5
    sampling: str = "shuffled"
    classes_per_batch: int = 2
    samples_per_class: int = 16
    hard_share: float = 0.5
    seed: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)
    patches: PatchStage = field(default_factory=PatchStage)
    stages: list[TrainingStage] = field(default_factory=list)
    members: list[str] = field(default_factory=list)
    fit_member_weights: bool = False
    router: str | None = None

    def __post_init__(self) -> None:
        check_recipe(self)

    @property
    def timm_weights(self) -> str | None:
        """Name of the backbone whose weights timm brings; None where it brings none."""
        if self.init_from is not None and self.init_from.startswith(TIMM):
            return self.init_from.removeprefix(TIMM)
        return self.backbone if self.pretrained else None

    @property
    def init_checkpoint(self) -> str | None:
        """The checkpoint that weights start from; None where there is none."""
        return None if self.init_from is None or self.init_from.startswith(TIMM) else self.init_from

    def cut(self) -> dict[str, Any]:
        """How the data are cut, as options of `load_data`."""
        names = ("dev_fraction", "calib_fraction", "seed", "fold", "n_folds", "stratified")
        return {name: getattr(self, name) for name in names}

    def for_stage(self, stage: TrainingStage) -> "Recipe":
        """The recipe as it holds in one of its stages: what that names replaces the recipe's own."""
        own = {
            item.name: getattr(stage, item.name)
            for item in dataclasses.fields(stage)
            if item.name not in ("trains", "patch_size") and getattr(stage, item.name) is not None
        }
        return dataclasses.replace(self, **own, stages=[])

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in the YAML file."""
        return dataclasses.asdict(self)
