"""Configurations, image processor and models.

The files of this room are copied into exported checkpoints as remote code. They therefore import only each other,
transformers, timm and what these require.
"""

from .configuration_mura import BANDS, BODY_PARTS, LABELS, MuraBaseConfig, MuraConfig, find_body_part
from .golden_mura import GOLDEN_FILE, Golden, golden_difference, read_golden, write_golden
from .image_processing_mura import MuraImageProcessor
from .members_mura import check_processors
from .modeling_mura import MuraForImageClassification, MuraForStudyClassification, MuraModel
from .modeling_mura_base import (
    ExplainedMap,
    MuraClassifier,
    MuraImageClassifierOutput,
    MuraModelOutput,
    MuraPreTrainedModel,
    StudyOutput,
)
from .modeling_mura_ensemble import MuraEnsembleConfig, MuraEnsembleForImageClassification
from .modeling_mura_fusenet import MuraFuseNetConfig, MuraFuseNetForImageClassification
from .modeling_mura_metric_learning import MuraForMetricLearning, MuraMetricLearningConfig
from .modeling_mura_specialized import MuraSpecializedConfig, MuraSpecializedForImageClassification
from .pipeline_mura_study import STUDY_TASK, MuraStudyClassificationPipeline

CLASSIFIERS: dict[str, type[MuraClassifier]] = {
    model.config_class.model_type: model
    for model in (
        MuraForImageClassification,
        MuraForMetricLearning,
        MuraFuseNetForImageClassification,
        MuraEnsembleForImageClassification,
        MuraSpecializedForImageClassification,
    )
}
"""Classifier of each `model_type`."""

__all__ = [
    "BANDS",
    "BODY_PARTS",
    "CLASSIFIERS",
    "GOLDEN_FILE",
    "LABELS",
    "STUDY_TASK",
    "ExplainedMap",
    "Golden",
    "MuraBaseConfig",
    "MuraClassifier",
    "MuraConfig",
    "MuraEnsembleConfig",
    "MuraEnsembleForImageClassification",
    "MuraForImageClassification",
    "MuraForMetricLearning",
    "MuraForStudyClassification",
    "MuraFuseNetConfig",
    "MuraFuseNetForImageClassification",
    "MuraImageClassifierOutput",
    "MuraImageProcessor",
    "MuraMetricLearningConfig",
    "MuraModel",
    "MuraModelOutput",
    "MuraPreTrainedModel",
    "MuraSpecializedConfig",
    "MuraSpecializedForImageClassification",
    "MuraStudyClassificationPipeline",
    "StudyOutput",
    "check_processors",
    "find_body_part",
    "golden_difference",
    "read_golden",
    "write_golden",
]
