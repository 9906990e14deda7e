"""The arguments of a training run: four dataclasses, and `TrainingConfig`, which holds one of each.

Each field carries its help text. `configs.py` reads them from YAML files and from the command line.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from ..common import did_you_mean
from ..data import Augmentation
from ..errors import ConfigError
from ..losses import build_metric_loss
from ..models import MuraForImageClassification, MuraForMetricLearning, MuraFuseNetForImageClassification

# ruff: noqa: RUF009 - `_arg` returns a dataclass field

TIMM = "timm:"
"""Prefix of `init_from` for a backbone of timm."""

FAMILIES: dict[str, Any] = {
    "classifier": MuraForImageClassification,
    "metric_learning": MuraForMetricLearning,
    "fusenet": MuraFuseNetForImageClassification,
}
"""Model class of each family that is trained as one model."""

COMPOSED = ("ensemble", "specialized")
"""Families that consist of members, which are trained one by one."""

UNJUDGED = ("embedding",)
"""Stages that do not train a classifier, so dev cannot rank their epochs."""

_POSITIVE, _NOT_NEGATIVE, _SHARE = "above 0", "0 or above", "in [0, 1)"
_RANGES = {
    _POSITIVE: lambda value: value > 0,
    _NOT_NEGATIVE: lambda value: value >= 0,
    _SHARE: lambda value: 0 <= value < 1,
    "in [0, 1]": lambda value: 0 <= value <= 1,
    "in (0, 1]": lambda value: 0 < value <= 1,
    "32 or above": lambda value: value >= 32,
}


def _arg(default: Any, help: str, must_be: str | None = None) -> Any:
    """A field with its help text and, for numbers, a key of `_RANGES`."""
    metadata = {"help": help, "must_be": must_be}
    if isinstance(default, list | dict):
        return field(default_factory=type(default), metadata=metadata)
    return field(default=default, metadata=metadata)


class _Arguments:
    """Base of the dataclasses: checks the type and the range of every field."""

    def __post_init__(self) -> None:
        _check_values(type(self), vars(self))


def _check_values(kind: type, values: Mapping[str, Any]) -> None:
    """Checks values against the annotated types and the ranges of a dataclass."""
    hints = get_type_hints(kind)
    for item in dataclasses.fields(kind):
        if item.name not in values:
            continue
        value, must_be = values[item.name], item.metadata.get("must_be")
        if not _fits(value, hints[item.name]):
            raise ConfigError(f"{item.name} is {value!r}, but must be {_describe(hints[item.name])}")
        if must_be and value is not None and not _RANGES[must_be](value):
            raise ConfigError(f"{item.name} is {value}, but must be {must_be}")


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
        'checkpoint such as mura-phantom), or "timm:NAME" for a backbone of timm. A YAML config must fit that '
        "checkpoint; on the command line, this option also takes model and preprocessing from it (fine-tuning).",
    )
    init_heads: bool = _arg(
        False, "Also load the heads of the checkpoint in `init_from` where they fit; others start anew."
    )
    model_kwargs: dict[str, Any] = _arg({}, "Further fields of the model's config, such as {head_layers: [256]}.")
    head_dropout: float | list[float] = _arg(
        0.0, "Dropout before the heads, or before each linear layer of the classifier."
    )
    body_part_head: bool = _arg(True, "Train a second head that predicts the body part.")
    image_size: int = _arg(320, "Side in pixels of the model's input.", _POSITIVE)
    resize_size: int | None = _arg(
        None,
        "Side in pixels to which images are resized before `image_size` is cropped from their center (in training "
        "anywhere, with `random_crop`). Default: `image_size`.",
    )
    resize_mode: Literal["letterbox", "squash"] = _arg(
        "letterbox", "Pad images to a square (letterbox), or distort them (squash)."
    )
    enhance: list[Any] | None = _arg(None, "Filters of `MuraImageProcessor`, in order.")
    crop_border: bool = _arg(False, "Crop the collimation border.")
    image_mean: list[float] | None = _arg(
        None, "Mean of the normalization, one per channel. Default: that of timm's weights, else ImageNet's."
    )
    image_std: list[float] | None = _arg(None, "Standard deviation of the normalization, likewise.")
    members: list[str] = _arg(
        [],
        "Configs of an ensemble's members, all trained on the split of this config. A config that is named n times "
        "is trained with n seeds, counted up from this config's.",
    )
    fit_member_weights: bool = _arg(False, "Fit the weights of an ensemble's members on calib; else equal.")
    router: str | None = _arg(
        None, "Config of a specialized model's router, which predicts the body part where it is not given."
    )

    @property
    def timm_weights(self) -> str | None:
        """Name of the timm weights the backbone starts from, if any."""
        if self.init_from is not None and self.init_from.startswith(TIMM):
            return self.init_from.removeprefix(TIMM)
        return self.backbone if self.pretrained else None

    @property
    def init_checkpoint(self) -> str | None:
        """The checkpoint the weights start from, if any."""
        return None if self.init_from is None or self.init_from.startswith(TIMM) else self.init_from


@dataclass(frozen=True)
class DataArguments(_Arguments):
    """How the data are split, and how batches are drawn from them."""

    dev_fraction: float = _arg(0.08, "Share of the training patients for dev, which selects the epoch.")
    calib_fraction: float = _arg(0.08, "Share of the training patients for calib, the calibration set.")
    stratified: bool = _arg(True, "Keep the shares of body parts and labels alike in all splits.")
    fold: int | None = _arg(None, "Cross-validation: the fold that is dev, from 0. Default: use `dev_fraction`.")
    n_folds: int = _arg(5, "Number of folds.")
    level: Literal["view", "study"] = _arg(
        "view", "A batch holds views, or whole studies, whose loss is that of the pooled probability."
    )
    sampling: Literal["shuffled", "balanced", "classes", "hard"] = _arg(
        "shuffled",
        "Order of an epoch. balanced: as many views of each label; classes: `classes_per_batch` classes with "
        "`samples_per_class` rows each in every batch; hard: rows with a high loss more often (`HardSampler`).",
    )
    classes_per_batch: int = _arg(2, "See `sampling`.")
    samples_per_class: int = _arg(16, "See `sampling`.")
    classes_over: Literal["label", "label_and_part"] = _arg(
        "label", "What defines a class for `metric_loss` and `sampling: classes`."
    )
    hard_share: float = _arg(0.5, "Share of an epoch that `sampling: hard` draws by loss.", "in [0, 1]")


@dataclass(frozen=True)
class TrainingStage(_Arguments):
    """A stage of a run. Fields that are None are as in the config; an augmentation changes single values of it.

    A stage on patches sees windows of the prepared image around the findings, so that a small finding fills much of
    its input. It is not judged on dev and ends with its last epoch. From patches to whole images: Shen et al., "Deep
    learning to improve breast cancer detection on screening mammography", Scientific Reports 9:12495 (2019). Patches
    that grow from stage to stage show more and more normal tissue at a fraction of the cost of whole views.

    Attributes:
        epochs: Passes over train.
        trains: Part of the model that is trained, one of its `STAGES`, such as "global" of a FuseNet. Default: the
            first of them.
        patch_size: Side in pixels of the patches; None for whole views. Patches need data with boxes.
        learning_rate: Peak of the learning rate.
        batch_size: Views (or studies) per batch and process.
        sampling: See `DataArguments`.
        schedule: See `TrainingArguments`.
        augmentation: Fields of `Augmentation` that differ from the config. Patches have no random crop.
    """

    epochs: int = _arg(1, "", _POSITIVE)
    trains: str | None = None
    patch_size: int | None = _arg(None, "", "32 or above")
    learning_rate: float | None = _arg(None, "", _POSITIVE)
    batch_size: int | None = _arg(None, "", _POSITIVE)
    sampling: Literal["shuffled", "balanced", "classes", "hard"] | None = None
    schedule: Literal["cosine", "constant", "step", "plateau"] | None = None
    augmentation: dict[str, Any] = _arg({}, "")


@dataclass(frozen=True)
class TrainingArguments(_Arguments):
    """Loss, optimization, selection of the epoch, and stages."""

    epochs: int = _arg(15, "Passes over train. With `stages`: each stage has its own number.", _POSITIVE)
    batch_size: int = _arg(32, "Views (studies, at study level) per batch and process.", _POSITIVE)
    accumulation: int = _arg(1, "Batches per step, whose gradients are accumulated.", _POSITIVE)
    stages: list[TrainingStage] = _arg([], "Stages of the run (see `TrainingStage`). Default: one stage.")
    train_last: int | None = _arg(
        None,
        "Train only this many of the backbone's last stages, and the heads; 0 freezes the backbone.",
        "0 or above",
    )
    seed: int = _arg(0, "Seed of the split, the weights, the order and the augmentation.")

    learning_rate: float = _arg(1e-4, "Peak of the learning rate.", _POSITIVE)
    layer_decay: float = _arg(
        1.0, "Factor of the learning rate from each layer to the layer before it; the heads have 1.", "in (0, 1]"
    )
    optimizer: Literal["adamw", "adam", "sgd"] = _arg("adamw", "Adam has torch's L2 decay, AdamW decoupled decay.")
    momentum: float = _arg(0.9, "Momentum of sgd.", _NOT_NEGATIVE)
    weight_decay: float = _arg(0.01, "Weight decay of matrices and kernels, never of biases and norms.", "0 or above")
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
        20, "Steps with a loss or gradient that is not finite are skipped; more per epoch end the run.", _NOT_NEGATIVE
    )
    precision: Literal["fp32", "bf16", "fp16"] = _arg("fp32", "bf16 and fp16 use autocast; fp16 needs a GPU.")
    channels_last: bool = _arg(True, "Keep images and kernels in channels-last memory format.")
    compile: bool = _arg(False, "Use `torch.compile`, which takes a minute or more at the start.")

    class_weighting: bool = _arg(True, "Weight the loss by the class frequencies of train.")
    label_smoothing: float = _arg(0.0, "Share of each label that is spread over both classes.", _SHARE)
    body_part_weight: float = _arg(0.3, "Weight of the body part head's loss.", _NOT_NEGATIVE)
    region_weight: float = _arg(
        0.0, "Weight of the loss on the class activation map, for data with boxes; 0 leaves it out.", _NOT_NEGATIVE
    )
    finding_weight: float = _arg(
        0.0, "Weight of the loss of the head for finding types (`finding_types` in `model_kwargs`).", _NOT_NEGATIVE
    )
    metric_loss: str | None = _arg(None, "Loss on the embeddings (family metric_learning), see mura_hf.losses.")
    metric_loss_options: dict[str, Any] = _arg({}, "Options of `metric_loss`, such as {margin: 0.2}.")
    metric_weight: float = _arg(1.0, "Weight of `metric_loss` beside the cross entropy.", _NOT_NEGATIVE)
    mixup: float = _arg(0.0, "Mix the views of a batch in pairs by Beta(mixup, mixup); 0 is off.", _NOT_NEGATIVE)
    cutmix: float = _arg(
        0.0,
        "Replace a rectangle of each view by that of another, with a share from Beta(cutmix, cutmix).",
        "0 or above",
    )

    select_by: Literal["auroc", "auprc", "kappa", "f1", "accuracy", "brier"] = _arg(
        "auroc", "Study-level figure on dev that selects the epoch."
    )
    patience: int = _arg(0, "End a stage after this many epochs without improvement; 0 never does.", _NOT_NEGATIVE)
    ema_decay: float = _arg(
        0.0, "Decay of an exponential moving average of the weights, which is then judged and kept; 0 is off.", _SHARE
    )
    average_top_k: int = _arg(
        0,
        "Keep the average of the weights of this many best epochs of the last stage; 0 or 1: the best.",
        _NOT_NEGATIVE,
    )


PARTS: dict[str, Any] = {
    "model": ModelArguments,
    "data": DataArguments,
    "augmentation": Augmentation,
    "training": TrainingArguments,
}
"""Attribute of `TrainingConfig` -> its dataclass."""

PART_OF = {item.name: part for part, kind in PARTS.items() for item in dataclasses.fields(kind)}
"""Field -> the attribute of `TrainingConfig` that holds it. Field names are unique over the four dataclasses."""


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
        _check(self)

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
        values = dict(values)
        name = values.pop("name", name)
        try:
            parts: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
            for key, value in values.items():
                if key not in PART_OF:
                    raise ConfigError(f"unknown key {key!r}{did_you_mean(key, PART_OF)}")
                parts[PART_OF[key]][key] = _make_stages(value) if key == "stages" else value
            _check_values(Augmentation, parts["augmentation"])
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
        names = ("dev_fraction", "calib_fraction", "fold", "n_folds", "stratified")
        return {"seed": self.training.seed, **{name: getattr(self.data, name) for name in names}}

    def for_stage(self, stage: TrainingStage) -> "TrainingConfig":
        """The config as it holds in one of its stages."""
        training = {
            name: getattr(stage, name)
            for name in ("epochs", "learning_rate", "batch_size", "schedule")
            if getattr(stage, name) is not None
        }
        augmentation = dict(stage.augmentation)
        if stage.patch_size is not None:
            augmentation = {"random_crop": False, "resized_crop": 1.0, **augmentation}
        for key in augmentation:
            if PART_OF.get(key) != "augmentation":
                known = (item.name for item in dataclasses.fields(Augmentation))
                raise ConfigError(f"stages: unknown augmentation {key!r}{did_you_mean(key, known)}")
        _check_values(Augmentation, augmentation)
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
        names = (name for name in _SET_BY_ARGUMENTS if name != "backbone")
        return {**{name: getattr(self.model, name) for name in names}, **self.model.model_kwargs}


_SET_BY_ARGUMENTS = ("backbone", "backbone_kwargs", "image_size", "head_dropout", "body_part_head")
_SET_BY_CALIBRATION = ("temperature", "study_slope", "study_intercept", "operating_points")
_FIXED = (
    "num_channels",
    "trained_on_phantoms",
    "positive_class_description",
    "abnormal_means",
    "id2label",
    "label2id",
)


def free_config_fields(config_class: Any) -> set[str]:
    """Fields of a model's config class that `model_kwargs` may set."""
    own = [
        kind for kind in config_class.__mro__ if issubclass(kind, PreTrainedConfig) and kind is not PreTrainedConfig
    ]
    names = {name for kind in own for name in vars(kind).get("__annotations__", {})}
    inherited = vars(PreTrainedConfig).get("__annotations__", {})
    return names - {*_SET_BY_ARGUMENTS, *_SET_BY_CALIBRATION, *_FIXED, *inherited}


def _make_stages(values: Any) -> Any:
    """Stages from a list of dicts."""
    if not isinstance(values, list):
        return values
    stages = []
    known = [item.name for item in dataclasses.fields(TrainingStage)]
    for number, stage in enumerate(values, 1):
        if isinstance(stage, dict):
            for key in stage:
                if key not in known:
                    raise ConfigError(f"stage {number}: unknown key {key!r}{did_you_mean(key, known)}")
            if "epochs" not in stage:
                raise ConfigError(f"stage {number}: epochs is missing")
            try:
                stage = TrainingStage(**stage)
            except ConfigError as error:
                raise ConfigError(f"stage {number}: {error}") from error
        stages.append(stage)
    return stages


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value has an annotated type. An int may serve as a float; a bool is no number."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if get_origin(hint) in (UnionType, Union):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if origin is list:
        return isinstance(value, list) and all(_fits(one, inner[0]) for one in value)
    if origin is dict:
        return isinstance(value, dict)
    return type(value) in ((int, float) if hint is float else (hint,))


def _describe(hint: Any) -> str:
    if get_origin(hint) in (UnionType, Union):
        return " or ".join(map(_describe, get_args(hint)))
    if get_origin(hint) is Literal:
        return f"one of {', '.join(get_args(hint))}"
    names = {float: "a number", int: "a whole number", bool: "true or false", str: "text", type(None): "null"}
    if get_origin(hint) is list:
        return f"a list ({_describe(get_args(hint)[0])} each)"
    return names.get(hint, "keys and values" if get_origin(hint) is dict else getattr(hint, "__name__", str(hint)))


def _check(config: TrainingConfig) -> None:
    """Checks that the arguments go together."""
    _check_images(config)
    _check_sampling(config)
    if config.model.family in COMPOSED:
        _check_members(config)
        return
    if config.model.members or config.model.router or config.model.fit_member_weights:
        raise ConfigError(
            f"members, router and fit_member_weights belong to the families {' and '.join(COMPOSED)}, but family is "
            f"{config.model.family}"
        )
    _check_start(config.model)
    _check_model_config(config)
    _check_losses(config)
    _check_mixing(config)
    _check_stages(config)


def _check_images(config: TrainingConfig) -> None:
    size, resized = config.model.image_size, config.model.resize_size
    if resized is not None and resized < size:
        raise ConfigError(f"resize_size is {resized}, but image_size {size} must fit into it")
    if config.augmentation.random_crop and resized in (None, size):
        raise ConfigError("random_crop needs a resize_size above image_size")


def _check_sampling(config: TrainingConfig) -> None:
    data, size = config.data, config.training.batch_size
    if data.sampling != "classes":
        return
    made = data.classes_per_batch * data.samples_per_class
    if made != size:
        raise ConfigError(
            f"sampling classes makes batches of classes_per_batch {data.classes_per_batch} x samples_per_class "
            f"{data.samples_per_class} = {made}, but batch_size is {size}; make them agree"
        )
    if data.classes_per_batch < 2:
        raise ConfigError("classes_per_batch must be 2 or above")
    if data.classes_over == "label" and data.classes_per_batch != 2:
        raise ConfigError("there are two labels: set classes_per_batch to 2, or classes_over to label_and_part")


def _check_members(config: TrainingConfig) -> None:
    model = config.model
    if model.family == "specialized":
        if model.members or model.fit_member_weights:
            raise ConfigError("a specialized model has a member of this config for each body part: leave out members")
        return
    if config.training.stages:
        raise ConfigError("an ensemble has no stages; its members' configs have theirs")
    if len(model.members) < 2:
        raise ConfigError("an ensemble needs two members or more; name a config again to train it with another seed")
    if model.router:
        raise ConfigError("an ensemble has no router; it belongs to family specialized")


def _check_start(model: ModelArguments) -> None:
    if model.init_from is not None and model.pretrained:
        raise ConfigError("init_from and pretrained both say where the backbone starts; set pretrained to false")
    if model.init_heads and model.init_checkpoint is None:
        raise ConfigError("init_heads loads heads from a checkpoint: name one in init_from, or set it to false")
    weights = model.timm_weights
    if weights is not None and weights.partition(".")[0] != model.backbone.partition(".")[0]:
        raise ConfigError(f"init_from is {weights}, but backbone is {model.backbone}: set backbone to {weights}")


def _check_model_config(config: TrainingConfig) -> None:
    """Builds the model's config."""
    family = config.model.family
    config_class = FAMILIES[family].config_class
    known = free_config_fields(config_class)
    for key in config.model.model_kwargs:
        if key in _SET_BY_ARGUMENTS:
            raise ConfigError(f"model_kwargs: {key} is an argument of its own; set it there")
        if key in _SET_BY_CALIBRATION:
            raise ConfigError(f"model_kwargs: {key} is fitted on calib after training; it cannot be set")
        if key not in known:
            hint = did_you_mean(key, known) or f"; there are {', '.join(sorted(known))}"
            raise ConfigError(f"model_kwargs: a {family} has no {key!r}{hint}")
    try:
        config_class(backbone=config.model.backbone, **config.model_config_fields())
    except (ValueError, StrictDataclassError) as error:
        raise ConfigError(f"the model cannot be built: {error}") from error


def _check_losses(config: TrainingConfig) -> None:
    family, training, model_kwargs = config.model.family, config.training, config.model.model_kwargs
    if (training.metric_loss is None) != (family != "metric_learning"):
        raise ConfigError("metric_loss and family metric_learning belong together: set both or neither")
    if training.metric_loss is not None:
        build_metric_loss({"name": training.metric_loss, **training.metric_loss_options})
    if bool(training.finding_weight) != bool(model_kwargs.get("finding_types")):
        raise ConfigError("finding_weight and finding_types (in model_kwargs) go together: set both or neither")
    if training.region_weight and family == "fusenet":
        raise ConfigError("region_weight needs a model with one branch: set it to 0, or train the global branch apart")
    if config.augmentation.random_crop and model_kwargs.get("full_resolution"):
        raise ConfigError("full_resolution shows the whole image: set random_crop to false")
    if config.data.level == "study":
        if family != "classifier":
            raise ConfigError(f"level study needs family classifier, not {family}; use level view")
        if training.region_weight:
            raise ConfigError("region_weight is a loss of views: use level view, or set it to 0")
    elif model_kwargs.get("study_pooling", "mean") == "gated_attention":
        raise ConfigError("study_pooling gated_attention is learned over the views of a study: set level to study")


def _check_mixing(config: TrainingConfig) -> None:
    if not (config.training.mixup or config.training.cutmix):
        return
    conflicts = {
        "level study, because studies have different numbers of views": config.data.level == "study",
        "region_weight, because a place of a mixed view belongs to two": config.training.region_weight,
        "patches, which are cut so that one finding fills them": any(s.patch_size for s in config.training.stages),
        "metric_loss, because a mixed view belongs to two classes": config.training.metric_loss,
        "family fusenet, whose crop would show parts of two views": config.model.family == "fusenet",
        "sampling hard, because the loss of a mixed view is of no single row": config.data.sampling == "hard",
    }
    for what, given in conflicts.items():
        if given:
            raise ConfigError(f"mixup and cutmix do not go with {what}; set mixup and cutmix to 0")


def _check_stages(config: TrainingConfig) -> None:
    family, stages = config.model.family, config.training.stages
    known = FAMILIES[family].STAGES
    for stage in stages:
        if stage.trains is not None and stage.trains not in known:
            raise ConfigError(f"stages: a {family} has no stage {stage.trains!r}; there are {', '.join(known)}")
        chosen = config.for_stage(stage)  # checks itself
        if stage.patch_size is not None:
            _check_patches(chosen, stage.patch_size)
        if stage.trains in UNJUDGED and (chosen.training.schedule == "plateau" or chosen.data.sampling == "hard"):
            raise ConfigError(
                f"stage {stage.trains} does not train a classifier, so it has no dev loss for schedule plateau and no "
                "loss per row for sampling hard; choose others for it"
            )
    named = [stage.trains for stage in stages if stage.patch_size is None]
    if family == "fusenet" and named and named != list(known):
        raise ConfigError(
            f"stages are {', '.join(map(str, named))}, but a fusenet is trained in the stages {', '.join(known)}, "
            "each once and in this order, because each builds on the one before"
        )
    if stages and stages[-1].patch_size is not None:
        raise ConfigError("stages: after patches there must be a stage on whole views, which dev can judge")
    if stages and stages[-1].trains in UNJUDGED:
        raise ConfigError(f"stages: after {stages[-1].trains} there must be a stage that trains the classifier")


def _check_patches(chosen: TrainingConfig, size: int) -> None:
    """Checks a stage on patches."""
    if size > chosen.model.image_size:
        raise ConfigError(f"stages: patch_size {size} must not be larger than image_size {chosen.model.image_size}")
    if chosen.data.level == "study":
        raise ConfigError("stages: patches need level view; leave out patch_size")
    if chosen.augmentation.random_crop or chosen.augmentation.resized_crop < 1:
        raise ConfigError("stages: patches are crops already; leave out random_crop and resized_crop in that stage")
    if chosen.data.sampling == "hard":
        raise ConfigError("stages: patches have no loss per view; choose another sampling than hard")
    if chosen.training.schedule == "plateau":
        raise ConfigError("stages: patches have no dev loss for schedule plateau; choose cosine")
