"""Abnormality detection in musculoskeletal radiographs, in the Hugging Face style. Not a medical device.

Importing the package registers its models, its pipeline and the names of its bundled checkpoints with transformers. It
has no other side effect. Names that need more than torch and transformers, such as Captum, are imported on first use.
"""

import functools
import importlib
from typing import TYPE_CHECKING, Any

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoProcessor,
    AutoVideoProcessor,
)  # fmt: skip
from transformers.pipelines import PIPELINE_REGISTRY

from .common import BUNDLED
from .errors import CardError, CheckpointError, ConfigError, DatasetError, HubError, MuraError, RadiographError
from .models import (
    CLASSIFIERS,
    STUDY_TASK,
    MuraBaseConfig,
    MuraConfig,
    MuraEnsembleConfig,
    MuraEnsembleForImageClassification,
    MuraForImageClassification,
    MuraForMetricLearning,
    MuraForStudyClassification,
    MuraFuseNetConfig,
    MuraFuseNetForImageClassification,
    MuraImageProcessor,
    MuraMetricLearningConfig,
    MuraModel,
    MuraPreTrainedModel,
    MuraSpecializedConfig,
    MuraSpecializedForImageClassification,
    MuraStudyClassificationPipeline,
)

if TYPE_CHECKING:
    from .data import load_folder, load_fracatlas, load_grazpedwri, load_hub, load_mura
    from .inference import StudyPrediction, StudyPredictor
    from .radiographs import Radiograph, read_radiograph
    from .retrieval import RetrievalIndex

__version__ = "0.1.0"

AutoModel.register(MuraConfig, MuraModel)
for _classifier in CLASSIFIERS.values():
    _config = _classifier.config_class
    AutoConfig.register(_config.model_type, _config)
    AutoModelForImageClassification.register(_config, _classifier)
    # Both backends give the same processor, because the input of a model must not depend on installed packages.
    AutoImageProcessor.register(
        _config, image_processor_classes={"pil": MuraImageProcessor, "torchvision": MuraImageProcessor}
    )
PIPELINE_REGISTRY.register_pipeline(
    STUDY_TASK, MuraStudyClassificationPipeline, pt_model=AutoModelForImageClassification, type="image"
)


def _name_bundled(kind: Any) -> None:
    """Lets `from_pretrained` of a class take the names of bundled checkpoints."""
    load = kind.from_pretrained.__func__

    @functools.wraps(load)
    def from_pretrained(cls: Any, pretrained_model_name_or_path: Any, *args: Any, **options: Any) -> Any:
        name = pretrained_model_name_or_path
        return load(cls, str(BUNDLED[name]) if isinstance(name, str) and name in BUNDLED else name, *args, **options)

    kind.from_pretrained = classmethod(from_pretrained)


for _kind in (
    AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, AutoProcessor, AutoVideoProcessor,
    MuraBaseConfig, MuraImageProcessor, MuraPreTrainedModel,
):  # fmt: skip
    _name_bundled(_kind)  # pipelines look for processors of every kind

_LAZY = {
    "load_folder": "data",
    "load_fracatlas": "data",
    "load_grazpedwri": "data",
    "load_hub": "data",
    "load_mura": "data",
    "StudyPrediction": "inference",
    "StudyPredictor": "inference",
    "Radiograph": "radiographs",
    "read_radiograph": "radiographs",
    "RetrievalIndex": "retrieval",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


__all__ = [
    "CardError",
    "CheckpointError",
    "ConfigError",
    "DatasetError",
    "HubError",
    "MuraConfig",
    "MuraEnsembleConfig",
    "MuraEnsembleForImageClassification",
    "MuraError",
    "MuraForImageClassification",
    "MuraForMetricLearning",
    "MuraForStudyClassification",
    "MuraFuseNetConfig",
    "MuraFuseNetForImageClassification",
    "MuraImageProcessor",
    "MuraMetricLearningConfig",
    "MuraModel",
    "MuraSpecializedConfig",
    "MuraSpecializedForImageClassification",
    "Radiograph",
    "RadiographError",
    "RetrievalIndex",
    "StudyPrediction",
    "StudyPredictor",
    "load_folder",
    "load_fracatlas",
    "load_grazpedwri",
    "load_hub",
    "load_mura",
    "read_radiograph",
]
