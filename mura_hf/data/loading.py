"""`load_data` loads any supported dataset, and `DataSource` describes it for model cards and records."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datasets import DatasetDict

from ..common import read_csv
from ..errors import DatasetError
from .folder import find_table, has_class_folders, load_folder, unsupported_folder
from .hub import find_dataset, load_hub
from .mura import ANNOTATION_FILE, find_tree, load_mura
from .open_data import load_fracatlas, load_grazpedwri

LICENSES = ("apache-2.0", "cc-by-4.0", "other")
"""Licenses of weights, from the least to the most strict; a card shows the strictest of all data behind them."""


@dataclass(frozen=True)
class DataSource:
    """Description of a dataset, as model cards need it."""

    key: str  # key in `SOURCES`
    name: str  # name on cards
    covers: str  # which studies a checkpoint trained on it is for
    positive_class_description: str  # what the positive class is, in words that follow "abnormal means"
    license: str  # one of `LICENSES`, for the card of weights trained on the data
    held_out: str  # description of `valid`
    folder: str = "my_films"  # its usual folder, for commands on cards
    has_official_valid: bool = False  # whether `valid` is the same in every copy
    has_patient_ids: bool = True  # false if there are none, or possibly none, so that near-duplicates matter
    clusters: str = "patients"  # what `patient_id` stands for, in words that follow "intervals over"
    license_name: str | None = None  # name of the license if the identifier is "other"; `license_link` links to it
    license_link: str | None = None
    credit: str | None = None  # attribution that the license requires
    citation: str | None = None  # publication to cite

    def __post_init__(self) -> None:
        if self.license not in LICENSES:
            raise ValueError(
                f"data source {self.key}: license is {self.license!r}; use one of {', '.join(LICENSES)} (with "
                "license_name and license_link if other), or add it to LICENSES by its strictness"
            )

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields for JSON records; `abnormal_means` is the old name of `positive_class_description`."""
        fields = {name: value for name, value in asdict(self).items() if name not in _NOT_RECORDED}
        return {**fields, "abnormal_means": self.positive_class_description}


_NOT_RECORDED = ("folder", "has_official_valid", "has_patient_ids")
_UPPER_LIMB = "of the upper limb (one or more views of a finger, hand, wrist, forearm, elbow, humerus or shoulder)"
_MURA_ABNORMAL = "what it means in MURA: fracture, but also hardware, degeneration, lesions, dislocation"

SOURCES = {
    source.key: source
    for source in (
        DataSource(
            key="mura",
            name="MURA v1.1",
            covers=_UPPER_LIMB,
            positive_class_description=_MURA_ABNORMAL,
            license="other",
            license_name="mura-research-use",
            license_link="https://stanfordmlgroup.github.io/competitions/mura/",
            held_out="the official valid set of MURA v1.1",
            folder="MURA-v1.1",
            has_official_valid=True,
            citation=(
                "Rajpurkar P., Irvin J., Bagul A. and others, MURA: Large Dataset for Abnormality Detection in "
                "Musculoskeletal Radiographs, arXiv 1712.06957 (2017)."
            ),
        ),
        DataSource(
            key="phantoms",
            name="phantoms",
            covers=_UPPER_LIMB,
            positive_class_description=_MURA_ABNORMAL,
            license="apache-2.0",
            held_out="the held-out phantoms",
            folder="data/phantoms",
            has_official_valid=True,
        ),
        DataSource(
            key="fracatlas",
            name="FracAtlas",
            covers="of the upper limb (one view that shows a hand, anything from a finger to the arm, or a shoulder)",
            positive_class_description=(
                "fractured, as two radiologists saw it; hardware and other findings alone count as normal"
            ),
            license="cc-by-4.0",
            held_out=(
                "held-out images of FracAtlas without near-duplicates in the training data; it names no patients, so "
                "blocks of twenty image numbers stand in for them"
            ),
            folder="FracAtlas",
            has_patient_ids=False,
            clusters="blocks of films",
            credit=(
                "Trained on FracAtlas by Abedeen I., Rahman M. A., Prottyasha F. Z., Ahmed T., Chowdhury T. M. and "
                "Shatabda S., Scientific Data 10, 521 (2023), doi 10.1038/s41597-023-02432-4, data doi "
                "10.6084/m9.figshare.22363012, CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/); the images "
                "were resized to train on."
            ),
            citation=(
                "Abedeen I. and others, FracAtlas: A Dataset for Fracture Classification, Localization and "
                "Segmentation of Musculoskeletal Radiographs, Scientific Data 10, 521 (2023)."
            ),
        ),
        DataSource(
            key="grazpedwri",
            name="GRAZPEDWRI-DX",
            covers="of a child's wrist (one or more views)",
            positive_class_description=(
                "a fracture is visible in a view of the study; other findings alone count as normal"
            ),
            license="cc-by-4.0",
            held_out="held-out patients of GRAZPEDWRI-DX",
            folder="GRAZPEDWRI-DX",
            credit=(
                "Trained on GRAZPEDWRI-DX by Nagy E., Janisch M., Hrzic F., Sorantin E. and Tschauner S., Scientific "
                "Data 9, 222 (2022), doi 10.1038/s41597-022-01328-z, data doi 10.6084/m9.figshare.14825193, CC BY 4.0 "
                "(https://creativecommons.org/licenses/by/4.0/); the images were resized to train on."
            ),
            citation=(
                "Nagy E. and others, A pediatric wrist trauma X-ray dataset (GRAZPEDWRI-DX) for machine learning, "
                "Scientific Data 9, 222 (2022)."
            ),
        ),
        DataSource(
            key="folder",
            name="a folder with metadata.csv",
            covers="like those of the folder that it was trained on",
            positive_class_description="what its labels call abnormal",
            license="other",
            license_name="as-the-data-allow",
            held_out="held-out patients of the same folder",
            has_patient_ids=False,
        ),
        DataSource(
            key="hub",
            name="a dataset with our columns",
            covers="like those of the dataset that it was trained on",
            positive_class_description="what the dataset's labels call abnormal",
            license="other",
            license_name="as-the-data-allow",
            held_out="held-out patients of the same dataset",
        ),
    )
}
"""Supported datasets by key."""

SELECTION_OPTIONS = ("body_parts", "regions", "abnormal")
"""Options of `load_data` that select a part of a dataset, or say what is abnormal in it."""

_LOADERS: dict[str, tuple[Any, set[str]]] = {
    **dict.fromkeys(("mura", "phantoms"), (load_mura, {"body_parts", "stratified"})),
    "folder": (load_folder, {"body_parts"}),
    "hub": (load_hub, {"body_parts"}),
    "fracatlas": (load_fracatlas, {"regions", "abnormal"}),
    "grazpedwri": (load_grazpedwri, {"abnormal"}),
}


def describe_positive_class(description: dict[str, Any]) -> str | None:
    """Returns what the positive class is, in words that follow "abnormal means", or None if it is unknown.

    Args:
        description: The `data` block of a record: `DataSource.to_dict()`, and `abnormal` if it was chosen. Older
            records may lack fields.
    """
    chosen = description.get("abnormal")
    if chosen:
        return f"that {' or '.join(chosen)} is visible; other findings alone count as normal"
    source = SOURCES.get(description.get("key", ""))
    recorded = description.get("positive_class_description") or description.get("abnormal_means")
    return recorded or (source.positive_class_description if source else None)


def detect_source(root: str | os.PathLike[str]) -> DataSource:
    """Detects the dataset in a folder by its files. A path that does not exist may be the name of a Hub dataset.

    Raises:
        DatasetError: If it is none of the supported datasets. The message says what it contains and what is missing.
    """
    if find_dataset(root) is not None:
        return SOURCES["hub"]
    root = Path(root)
    if find_table(root) is not None:
        return SOURCES["folder"]
    table = root / "dataset.csv"
    if table.is_file():
        try:
            columns = [name for _, row in read_csv(table.read_bytes(), limit=1) for name in row]
        except ValueError as error:
            raise DatasetError(f"{table} {error}") from error
        for column, key in (("fracture_count", "fracatlas"), ("filestem", "grazpedwri")):
            if column in columns:
                return SOURCES[key]
        raise DatasetError(
            f"{table} belongs to neither FracAtlas nor GRAZPEDWRI-DX; mura_hf/data/README.md lists what is supported"
        )
    tree = find_tree(root)
    if tree is not None:
        return SOURCES["phantoms" if (tree / ANNOTATION_FILE).is_file() else "mura"]
    if has_class_folders(root):
        return SOURCES["folder"]
    raise unsupported_folder(root)


def load_data(
    root: str | os.PathLike[str],
    *,
    body_parts: Sequence[str] | None = None,
    regions: Sequence[str] | None = None,
    abnormal: Sequence[str] | None = None,
    stratified: bool = True,
    **split_options: Any,
) -> tuple[DatasetDict, DataSource]:
    """Loads the dataset in a folder, or one of the Hub.

    Args:
        root: The folder, or a name as in `load_hub`.
        body_parts: Body parts to load, except for FracAtlas and GRAZPEDWRI-DX.
        regions: Regions of FracAtlas to load.
        abnormal: Findings that count as abnormal in FracAtlas and GRAZPEDWRI-DX. Defaults to fractures.
        stratified: See `SplitOptions`. Datasets other than MURA are always stratified.
        **split_options: Other fields of `SplitOptions`.

    Raises:
        DatasetError: If it is none of the supported datasets, or its loader finds an error.
        ValueError: If an option is invalid or does not apply to the dataset.
    """
    source = detect_source(root)
    load, known = _LOADERS[source.key]
    chosen = {"body_parts": body_parts, "regions": regions, "abnormal": abnormal}
    options: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
    if set(options) - known:
        raise ValueError(f"{', '.join(sorted(set(options) - known))} cannot be chosen for {source.name} in {root}")
    if "stratified" in known:
        options["stratified"] = stratified
    return load(root, **options, **split_options), source
