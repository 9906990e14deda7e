"""Datasets of radiographs: loading, cutting by patient, keeping pixels, augmenting."""

from .augmentation import Augmentation
from .cache import PixelCache, build_pixel_cache
from .columns import FEATURES
from .manifest import SplitManifest, make_manifest, read_manifest, write_manifest
from .mura import load_mura
from .sampling import TwinSampler
from .splits import split_digest, split_patients
from .verification import Verification, verify_mura
from .views import ViewDataset

__all__ = [
    "FEATURES",
    "Augmentation",
    "PixelCache",
    "SplitManifest",
    "TwinSampler",
    "Verification",
    "ViewDataset",
    "build_pixel_cache",
    "load_mura",
    "make_manifest",
    "read_manifest",
    "split_digest",
    "split_patients",
    "verify_mura",
    "write_manifest",
]
