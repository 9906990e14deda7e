"""The arguments of a training run: four dataclasses, and `TrainingConfig`, which holds one of each.

Each field carries its help text. `configs.py` reads them from YAML files and from the command line, `validation.py`
checks them.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..common import did_you_mean
from ..data import Augmentation, SplitOptions
from ..errors import ConfigError
from .validation import IMAGENET, SET_BY_ARGUMENTS, TIMM, check_config, check_values

# ruff: noqa: RUF009 - `_arg` returns a dataclass field

_POSITIVE, _NOT_NEGATIVE, _SHARE = "above 0", "0 or above", "in [0, 1)"


def _arg(default: Any, help: str = "", must_be: str | None = None) -> Any:
    """A field with its help text and, for numbers, a key of `RANGES`."""
    metadata = {"help": help, "must_be": must_be}
    if isinstance(default, list | dict):
        return field(default_factory=type(default), metadata=metadata)
    return field(default=default, metadata=metadata)


class _Arguments:
    """Base of the dataclasses: checks the type and the range of every field."""

    def __post_init__(self) -> None:
        check_values(type(self), vars(self))


@dataclass(frozen=True)
class ModelArguments(_Arguments):
    """What is trained: the model, the weights it starts from, and how its images are prepared."""

    family: Literal["classifier", "metric_learning", "fusenet", "ensemble", "specialized"] = _arg(
        "classifier",
        "Kind of model. An ensemble consists of the configs in `members`; a specialized model has one classifier of "
        "this config for each body part.",
    )
    backbone: str = _arg("densenet169", 'timm architecture, or a network of ours such as "cnn2".')
    backbone_kwargs: dict[str, Any] | None = _arg(None, "Further arguments of `timm.create_model`.")
    pretrained: bool = _arg(True, "Start the backbone from timm's weights, which are downloaded.")
    init_from: str | None = _arg(
        None,
        "Where the weights start: a checkpoint (a folder, a Hub name with @revision if wanted, or a bundled "
        'checkpoint such as mura-phantom), "timm:NAME" for a backbone of timm, or "imagenet:NAME" for one whose '
        "ImageNet weights come in a package (extra imagenet): tf_efficientnet_lite0, 1 or 2. A YAML config must fit "
        "that checkpoint; on the command line, this option also takes model and preprocessing from it (fine-tuning).",
    )
    init_heads: bool = _arg(False, "Also load the heads of `init_from` where they fit; others start anew.")
    model_kwargs: dict[str, Any] = _arg({}, "Further fields of the model's config, such as {head_layers: [256]}.")
    head_dropout: float | list[float] = _arg(0.0, "Dropout before the heads (or each linear layer).")
    body_part_head: bool = _arg(True, "Train a second head that predicts the body part.")
    image_size: int = _arg(320, "Side in pixels of the model's input.", _POSITIVE)
    resize_size: int | None = _arg(
        None,
        "Side to which images are resized before `image_size` is cropped from the center (with `random_crop`, in "
        "training, from anywhere). Default: `image_size`.",
    )
    resize_mode: Literal["letterbox", "squash"] = _arg(
        "letterbox", "Pad to a square (letterbox), or distort (squash)."
    )
    enhance: list[Any] | None = _arg(None, "Filters of `MuraImageProcessor`, in order.")
    image_mean: list[float] | None = _arg(None, "Mean per channel. Default: that of timm's weights, or ImageNet's.")
    image_std: list[float] | None = _arg(None, "Standard deviation per channel, likewise.")
    members: list[str] = _arg(
        [],
        "Configs of an ensemble's members, all trained on the split of this config. A config that is named n times "
        "is trained with n seeds, counted up from this config's.",
    )
    fit_member_weights: bool = _arg(False, "Fit the weights of an ensemble's members on calib; else equal.")
    router: str | None = _arg(None, "Config of a specialized model's router for unknown body parts.")

    @property
    def timm_weights(self) -> str | None:
        """timm's name of the weights the backbone starts from, if any."""
        if self.init_from is not None and self.init_from.startswith((TIMM, IMAGENET)):
            return self.init_from.partition(":")[2]
        return self.backbone if self.pretrained else None

    @property
    def has_packaged_weights(self) -> bool:
        """Whether `timm_weights` come from an installed package (see `models.backbone_mura.imagenet_file`)."""
        return self.init_from is not None and self.init_from.startswith(IMAGENET)

    @property
    def init_checkpoint(self) -> str | None:
        """The checkpoint the weights start from, if any."""
        return self.init_from if self.timm_weights is None else None


@dataclass(frozen=True)
class DataArguments(_Arguments):
    """How the data are split, and how batches are drawn from them."""

    dev_fraction: float = _arg(0.08, "Share of the training patients for dev, which selects the epoch.")
    calib_fraction: float = _arg(0.08, "Share of the training patients for calib, the calibration set.")
    valid_fraction: float = _arg(0.2, "Share of all patients for valid, unless the data have one.", _SHARE)
    stratified: bool = _arg(True, "Keep the shares of body parts and labels alike in all splits.")
    group_duplicates: bool = _arg(True)  # see `SplitOptions`
    fold: int | None = _arg(None, "Cross-validation: the fold that is dev, from 0. Default: use `dev_fraction`.")
    n_folds: int = _arg(5, "Number of folds.")
    level: Literal["view", "study"] = _arg(
        "view", "A batch holds views, or whole studies, whose loss is that of the pooled probability."
    )
    sampling: Literal["shuffled", "balanced", "classes"] = _arg(
        "shuffled",
        "Order of an epoch. balanced: as many views of each label; classes: `classes_per_batch` classes with "
        "`samples_per_class` rows each in every batch.",
    )
    classes_per_batch: int = _arg(2, "See `sampling`.")
    samples_per_class: int = _arg(16, "See `sampling`.")
    classes_over: Literal["label", "label_and_part"] = _arg(
        "label", "Classes of `metric_loss` and `sampling: classes`."
    )


@dataclass(frozen=True)
class TrainingStage(_Arguments):
    """A stage of a run. Fields that are None are as in the config; an augmentation changes single values of it.

    A stage on patches sees windows of the prepared image around the findings, so that a small finding fills much of
    its input. It is not evaluated on dev and ends with its last epoch. From patches to whole images: Shen et al.,
    "Deep learning to improve breast cancer detection on screening mammography", Scientific Reports 9:12495 (2019).
    Patches that grow from stage to stage show more and more normal tissue at a fraction of the cost of whole views.

    Attributes:
        epochs: Passes over train.
        trains: Part of the model that is trained, one of its `STAGES`, such as "global" of a FuseNet. Default: the
            first of them.
        patch_size: Side in pixels of the patches; None for whole views. Patches need data with boxes.
        learning_rate: Peak of the learning rate.
        batch_size: Views (or studies) per batch and process.
        sampling: See `DataArguments`.
        schedule: See `TrainingArguments`.
        train_last: See `TrainingArguments`.
        augmentation: Fields of `Augmentation` that differ from the config. Patches have no random crop.
    """

    epochs: int = _arg(1, must_be=_POSITIVE)
    trains: str | None = None
    patch_size: int | None = _arg(None, must_be="32 or above")
    learning_rate: float | None = _arg(None, must_be=_POSITIVE)
    batch_size: int | None = _arg(None, must_be=_POSITIVE)
    sampling: Literal["shuffled", "balanced", "classes"] | None = None
    schedule: Literal["cosine", "constant", "step", "plateau"] | None = None
    train_last: int | None = _arg(None, must_be=_NOT_NEGATIVE)
    augmentation: dict[str, Any] = _arg({})


@dataclass(frozen=True)
class TrainingArguments(_Arguments):
    """Loss, optimization, selection of the epoch, and stages."""

    epochs: int = _arg(15, "Passes over train. With `stages`: each stage has its own number.", _POSITIVE)
    batch_size: int = _arg(32, "Views (studies, at study level) per batch and process.", _POSITIVE)
    accumulation: int = _arg(1, "Batches per step, whose gradients are accumulated.", _POSITIVE)
    stages: list[TrainingStage] = _arg([], "Stages of the run (see `TrainingStage`). Default: one stage.")
    train_last: int | None = _arg(
        None,
        "Train only this many last stages of the backbone, and the heads; 0 freezes the whole backbone.",
        _NOT_NEGATIVE,
    )
    seed: int = _arg(0, "Seed of the split, the weights, the order and the augmentation.")

    learning_rate: float = _arg(1e-4, "Peak of the learning rate.", _POSITIVE)
    layer_decay: float = _arg(1.0, "Factor of the learning rate from each layer to the one before.", "in (0, 1]")
    optimizer: Literal["adamw", "adam", "sgd"] = _arg("adamw", "Adam has torch's L2 decay, AdamW decoupled decay.")
    momentum: float = _arg(0.9, "Momentum of sgd.", _NOT_NEGATIVE)
    weight_decay: float = _arg(0.01, "Weight decay of matrices and kernels, never of biases and norms.", _NOT_NEGATIVE)
    warmup_fraction: float = _arg(0.05, "Share of a stage's steps of linear warmup.", _SHARE)
    schedule: Literal["cosine", "constant", "step", "plateau"] = _arg(
        "cosine",
        "Learning rate after warmup. cosine: to 0; step: times `gamma` every `step_epochs`; plateau: times "
        "`plateau_factor` when the dev loss has not fallen for more than `plateau_patience` epochs.",
    )
    step_epochs: int = _arg(3, "See `schedule`.", _POSITIVE)
    gamma: float = _arg(0.3, "See `schedule`.", _POSITIVE)
    plateau_patience: int = _arg(1, "See `schedule`.", _NOT_NEGATIVE)
    plateau_factor: float = _arg(0.1, "See `schedule`.", _POSITIVE)
    max_gradient_norm: float = _arg(1.0, "Clip gradients to this norm; 0 does not clip.", _NOT_NEGATIVE)
    max_skipped_steps: int = _arg(
        20, "Skip steps whose loss or gradient is not finite; more in an epoch than this end the run.", _NOT_NEGATIVE
    )
    precision: Literal["fp32", "bf16", "fp16"] = _arg("fp32", "bf16 and fp16 use autocast; fp16 needs a GPU.")
    compile: bool = _arg(False, "Use `torch.compile`, which takes a minute or more at the start.")

    class_weighting: bool = _arg(True, "Weight the loss by the class frequencies of train.")
    label_smoothing: float = _arg(0.0, "Share of each label that is spread over both classes.", _SHARE)
    body_part_weight: float = _arg(0.3, "Weight of the body part head's loss.", _NOT_NEGATIVE)
    region_weight: float = _arg(0.0, "Weight of the loss on the class activation map (needs boxes).", _NOT_NEGATIVE)
    finding_weight: float = _arg(0.0, "Weight of the loss on `finding_types` (in `model_kwargs`).", _NOT_NEGATIVE)
    metric_loss: str | None = _arg(None, "Loss on the embeddings (family metric_learning), see mura_hf.losses.")
    metric_loss_options: dict[str, Any] = _arg({}, "Options of `metric_loss`, such as {margin: 0.2}.")
    metric_weight: float = _arg(1.0, "Weight of `metric_loss` beside the cross entropy.", _NOT_NEGATIVE)
    mixup: float = _arg(0.0, "Mix the views of a batch in pairs by Beta(mixup, mixup); 0 is off.", _NOT_NEGATIVE)

    select_by: Literal["auroc", "auprc", "kappa", "f1", "accuracy", "brier"] = _arg(
        "auroc", "Study-level figure on dev that selects the epoch."
    )
    patience: int = _arg(0, "End a stage after this many epochs without improvement; 0 never does.", _NOT_NEGATIVE)
    ema_decay: float = _arg(0.0, "Decay of a moving average of the weights, which is kept; 0: off.", _SHARE)
    average_top_k: int = _arg(0, "Average the weights of this many best epochs; 0 or 1: the best.", _NOT_NEGATIVE)
    start_share: float = _arg(0.0, "Share of the weights before the last stage in those that are kept.", _SHARE)


PARTS: dict[str, Any] = {
    "model": ModelArguments,
    "data": DataArguments,
    "augmentation": Augmentation,
    "training": TrainingArguments,
}
"""Attribute of `TrainingConfig` -> its dataclass."""

PART_OF = {item.name: part for part, kind in PARTS.items() for item in dataclasses.fields(kind)}
"""Field -> the attribute of `TrainingConfig` that holds it. Field names are unique over the four dataclasses."""

_FORMER = {
    "hard_share": 0.5, "resized_crop": 1.0, "resized_crop_aspect": 4 / 3, "erasing": 0.0, "erasing_holes": 4,
    "erasing_side": 0.2, "cutmix": 0.0, "channels_last": True, "crop_border": False,
}  # fmt: skip
"""Fields of former versions, which configs may still hold with their defaults."""


@dataclass(frozen=True)
class TrainingConfig:
    """All arguments of a run.

    Attributes:
        name: Name of the config.
        model: Model and preprocessing.
        data: Splits and sampling.
        augmentation: Augmentation of the training images.
        training: Loss, optimization, selection and stages.
        folders: Where configs named in `members` and `router` are searched, besides the package.

    Raises:
        ConfigError: If values contradict each other; the message says which, and what to do.
    """

    name: str = "custom"
    model: ModelArguments = field(default_factory=ModelArguments)
    data: DataArguments = field(default_factory=DataArguments)
    augmentation: Augmentation = field(default_factory=Augmentation)
    training: TrainingArguments = field(default_factory=TrainingArguments)
    folders: tuple[Path, ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        check_config(self)

    @classmethod
    def from_dict(
        cls, values: Mapping[str, Any], *, name: str = "custom", where: str | None = None
    ) -> "TrainingConfig":
        """Builds a config from flat keys, as a YAML file has them.

        Args:
            values: Value by field name. Missing fields have their defaults.
            name: Name of the config, unless `values` has a `name`.
            where: Prefix of error messages, such as the file.

        Raises:
            ConfigError: If a key is unknown, a value has the wrong type or range, or values contradict each other.
        """
        parts: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
        try:
            for key, value in values.items():
                if key == "name":
                    name = value
                elif key in _FORMER and value == _FORMER[key]:
                    continue
                elif key not in PART_OF:
                    raise ConfigError(f"unknown key {key!r}{did_you_mean(key, PART_OF)}")
                else:
                    parts[PART_OF[key]][key] = _make_stages(value) if key == "stages" else value
            check_values(Augmentation, parts["augmentation"])
            return cls(name=name, **{part: PARTS[part](**given) for part, given in parts.items()})
        except (ConfigError, ValueError, TypeError) as error:
            raise ConfigError(f"{where}: {error}" if where else str(error)) from error

    def to_dict(self) -> dict[str, Any]:
        """Flat plain values: `name` and all fields; the inverse of `from_dict`."""
        flat = {key: value for part in PARTS for key, value in dataclasses.asdict(getattr(self, part)).items()}
        stages = [{key: value for key, value in stage.items() if value not in (None, {})} for stage in flat["stages"]]
        return {"name": self.name, **flat, "stages": stages}

    def replace(self, **changes: Any) -> "TrainingConfig":
        """A config with some fields changed, by their flat names (and `name`)."""
        fresh = TrainingConfig.from_dict({**self.to_dict(), **changes})
        return dataclasses.replace(fresh, folders=self.folders)

    def split_options(self) -> dict[str, Any]:
        """The options of `load_data` that split the data."""
        names = [item.name for item in dataclasses.fields(SplitOptions) if item.name != "seed"]
        return {"seed": self.training.seed, **{name: getattr(self.data, name) for name in names}}

    def for_stage(self, stage: TrainingStage) -> "TrainingConfig":
        """The config as it holds in one of its stages."""
        names = ("epochs", "learning_rate", "batch_size", "schedule", "train_last")
        training = {name: getattr(stage, name) for name in names if getattr(stage, name) is not None}
        augmentation = dict(stage.augmentation)
        if stage.patch_size is not None:
            augmentation = {"random_crop": False, **augmentation}
        for key in augmentation:
            if PART_OF.get(key) != "augmentation":
                known = (item.name for item in dataclasses.fields(Augmentation))
                raise ConfigError(f"stages: unknown augmentation {key!r}{did_you_mean(key, known)}")
        check_values(Augmentation, augmentation)
        try:
            changed = dataclasses.replace(self.augmentation, **augmentation)
        except ValueError as error:
            raise ConfigError(f"stages: {error}") from error
        return dataclasses.replace(
            self,
            data=dataclasses.replace(self.data, sampling=stage.sampling or self.data.sampling),
            augmentation=changed,
            training=dataclasses.replace(self.training, **training, stages=[]),
        )

    def with_epochs(self, epochs: int | None = None, patch_epochs: int | None = None) -> "TrainingConfig":
        """A config with other numbers of epochs.

        Args:
            epochs: Epochs on whole views, in each stage on them; unchanged if None.
            patch_epochs: Epochs of each stage on patches; 0 leaves these stages out, None does not change them.

        Raises:
            ConfigError: If the config is an ensemble, whose members' configs have their own epochs.
        """
        if self.model.family == "ensemble":
            raise ConfigError(
                f"{self.name} is an ensemble; its members' configs set the number of epochs: change "
                f"{', '.join(self.model.members)}"
            )
        stages = []
        for stage in self.training.stages:
            chosen = epochs if stage.patch_size is None else patch_epochs
            if chosen != 0:
                stages.append(stage if chosen is None else dataclasses.replace(stage, epochs=chosen))
        own = self.training.epochs if epochs is None or stages else epochs
        return dataclasses.replace(self, training=dataclasses.replace(self.training, stages=stages, epochs=own))

    def model_config_fields(self) -> dict[str, Any]:
        """Fields of the model's config, without the backbone's name."""
        fields = {name: getattr(self.model, name) for name in SET_BY_ARGUMENTS if name != "backbone"}
        return {**fields, **self.model.model_kwargs}


def _make_stages(values: Any) -> Any:
    """Stages from a list of dicts."""
    if not isinstance(values, list):
        return values
    known, stages = [item.name for item in dataclasses.fields(TrainingStage)], []
    for number, stage in enumerate(values, 1):
        if isinstance(stage, dict):
            try:
                for key in stage:
                    if key not in known:
                        raise ConfigError(f"unknown key {key!r}{did_you_mean(key, known)}")
                if "epochs" not in stage:
                    raise ConfigError("epochs is missing")
                stage = TrainingStage(**stage)
            except ConfigError as error:
                raise ConfigError(f"stage {number}: {error}") from error
        stages.append(stage)
    return stages
