"""Datasets of radiographs: loading, splitting by patient, pixel cache, augmentation and sampling.

See README.md in this folder for the supported datasets.
"""

from ..common import require_extra

# ruff: noqa: E402 - the check must come before the imports that need the extra
require_extra("train", "datasets", "pyarrow", "filelock")

from .augmentation import Augmentation
from .cache import PixelCache, build_pixel_cache
from .duplicates import MIN_CORRELATION, find_duplicates, find_leaks, read_thumbnails
from .folder import load_folder
from .hub import HUB_PREFIX, load_hub
from .loading import SELECTION_OPTIONS, SOURCES, DataSource, describe_positive_class, detect_source, load_data
from .manifest import SplitManifest, make_manifest, manifest_source, read_manifest, write_manifest
from .mura import load_mura
from .open_data import OPEN_FEATURES, load_fracatlas, load_grazpedwri
from .sampling import BalancedSampler, GroupSampler, PerClassSampler
from .splits import FEATURES, SplitOptions, split_digest, split_patients, split_patients_evenly
from .verification import Verification, check_images, verify_mura
from .views import UNKNOWN_PART, StudyDataset, ViewDataset, collate_studies, prepare_view

__all__ = [
    "FEATURES",
    "HUB_PREFIX",
    "MIN_CORRELATION",
    "OPEN_FEATURES",
    "SELECTION_OPTIONS",
    "SOURCES",
    "UNKNOWN_PART",
    "Augmentation",
    "BalancedSampler",
    "DataSource",
    "GroupSampler",
    "PerClassSampler",
    "PixelCache",
    "SplitManifest",
    "SplitOptions",
    "StudyDataset",
    "Verification",
    "ViewDataset",
    "build_pixel_cache",
    "check_images",
    "collate_studies",
    "describe_positive_class",
    "detect_source",
    "find_duplicates",
    "find_leaks",
    "load_data",
    "load_folder",
    "load_fracatlas",
    "load_grazpedwri",
    "load_hub",
    "load_mura",
    "make_manifest",
    "manifest_source",
    "prepare_view",
    "read_manifest",
    "read_thumbnails",
    "split_digest",
    "split_patients",
    "split_patients_evenly",
    "verify_mura",
    "write_manifest",
]
