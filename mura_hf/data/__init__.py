"""Datasets of radiographs: loading, cutting by patient, augmenting."""

from .augmentation import Augmentation
from .mura import FEATURES, load_mura
from .sampling import TwinSampler
from .splits import split_digest, split_patients
from .views import ViewDataset

__all__ = ["FEATURES", "Augmentation", "TwinSampler", "ViewDataset", "load_mura", "split_digest", "split_patients"]
