"""What the Hub stores: configuration, image processor and models. These files also travel with exported
checkpoints.
"""

from .configuration_mura import BODY_PARTS, LABELS, MuraConfig
from .image_processing_mura import MuraImageProcessor
from .modeling_mura import MuraForImageClassification, MuraForStudyClassification, MuraModel
from .modeling_mura_base import MuraClassifier
from .outputs_mura import Explained, MuraImageClassifierOutput, MuraModelOutput, StudyOutput

__all__ = [
    "BODY_PARTS",
    "LABELS",
    "Explained",
    "MuraClassifier",
    "MuraConfig",
    "MuraForImageClassification",
    "MuraForStudyClassification",
    "MuraImageClassifierOutput",
    "MuraImageProcessor",
    "MuraModel",
    "MuraModelOutput",
    "StudyOutput",
]
