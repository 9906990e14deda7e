"""Abnormality detection in musculoskeletal radiographs, in the Hugging Face style. Not a medical device.

Importing the package registers its models and its pipeline with transformers and has no other side effect. Names that
need more than torch and transformers (datasets, Captum) are imported on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification
from transformers.pipelines import PIPELINE_REGISTRY

from .errors import CardError, CheckpointError, ConfigError, DatasetError, HubError, MuraError, RadiographError
from .models import (
    CLASSIFIERS,
    STUDY_TASK,
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
