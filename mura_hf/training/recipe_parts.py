"""Parts of a recipe that have keys of their own."""

from dataclasses import dataclass, field
from typing import Any

from ..data import Augmentation
from ..errors import ConfigError

TIMM = "timm:"
"""Stands before the name of a timm backbone in `Recipe.init_from`."""

SAMPLINGS = ("shuffled", "balanced", "classes", "hard")


@dataclass(frozen=True)
class PatchStage:
    """A stage on patches around the findings, before that on whole pictures: a small finding then fills what is seen.

    From patches to whole pictures: Shen et al., "Deep learning to improve breast cancer detection on screening
    mammography", Scientific Reports 9:12495 (2019). Its rate rises over `warmup_fraction` and falls by a cosine,
    whatever the recipe's schedule.

    Attributes:
        epochs: Passes over train, a patch a view; 0 leaves the stage out.
        size: Side of a patch in pixels of the processed picture.
        batch_size: Patches a step and process.
        learning_rate: Peak of the optimiser's rate.
        augmentation: See `Augmentation`.
    """

    epochs: int = 0
    size: int = 112
    batch_size: int = 64
    learning_rate: float = 2e-3
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.size < 32 or self.batch_size < 1 or self.learning_rate <= 0:
            raise ConfigError(
                "patches: epochs must be 0 or above, size 32 or above, batch_size and learning_rate above 0"
            )
        if self.augmentation.random_crop or self.augmentation.resized_crop < 1:
            raise ConfigError("patches: they are crops already, so random_crop and resized_crop have no place there")


@dataclass(frozen=True)
class TrainingStage:
    """A stage of a run, on whole views or on patches, that trains a part of the model; what is None is as the recipe
    has it.

    Attributes:
        trains: One of the model's stages (`STAGES`), such as "global", "local" and "fusion" of FuseNet.
        epochs: Passes over train.
        learning_rate: Peak of the optimiser's rate.
        batch_size: Views (studies, at study level) a step and process.
        augmentation: See `Augmentation`.
        sampling: As `Recipe.sampling`.
        schedule: As `Recipe.schedule`.
        patch_size: Side of the patches that it trains on instead of whole views, as in `PatchStage`; such a stage is
            not judged on dev and ends with its last epoch. With patches that grow from stage to stage, a network meets
            ever more of what is no finding at a fraction of the cost of whole views, most of which are black.
    """

    trains: str
    epochs: int
    learning_rate: float | None = None
    batch_size: int | None = None
    augmentation: Augmentation | None = None
    sampling: str | None = None
    schedule: str | None = None
    patch_size: int | None = None

    def __post_init__(self) -> None:
        if self.patch_size is not None and self.patch_size < 32:
            raise ConfigError(f"stage {self.trains}: patch_size is {self.patch_size}, and must be 32 or above")
        if self.epochs < 1 or (self.batch_size or 1) < 1 or (self.learning_rate or 1) <= 0:
            raise ConfigError(f"stage {self.trains}: epochs, batch_size and learning_rate must be above 0")


@dataclass(frozen=True)
class MetricLoss:
    """A loss on embeddings.

    Attributes:
        name: One of the losses that `mura_hf.losses.build_metric_loss` knows.
        options: Its options, such as `{"margin": 0.2}`.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
