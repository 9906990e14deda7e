"""Where data come from: what a checkpoint that was trained on them must say about it.

Any of the datasets that the package knows, by the folder they lie in.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datasets import DatasetDict

from ..errors import DatasetError
from .folder import TABLE, load_folder
from .fracatlas import load_fracatlas
from .grazpedwri import load_grazpedwri
from .hub import find_dataset, load_hub
from .mura import has_truth, load_mura
from .mura_files import find_tree


@dataclass(frozen=True)
class DataSource:
    """A dataset as a card speaks of it.

    Attributes:
        key: Short name, as commands take it.
        name: Name.
        covers: Which studies a checkpoint that was trained on it is for.
        positive_class_description: What the positive class is.
        license: Identifier as the Hub knows it, of a card of weights trained on the data.
        license_name: Where that is "other".
        license_link: Beside it.
        credit: What must be said wherever the data, or what was made of them, are passed on; None where nothing must.
        citation: The work to cite beside a checkpoint; None where there is none.
        held_out: What `valid` is.
    """

    key: str
    name: str
    covers: str
    positive_class_description: str
    license: str
    held_out: str
    license_name: str | None = None
    license_link: str | None = None
    credit: str | None = None
    citation: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields for JSON records; `abnormal_means` is the old name of `positive_class_description`."""
        return {**asdict(self), "abnormal_means": self.positive_class_description}


_UPPER_LIMB = "of the upper limb (one or more views of a finger, hand, wrist, forearm, elbow, humerus or\nshoulder)"
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
        ),
        DataSource(
            key="fracatlas",
            name="FracAtlas",
            covers="of the upper limb (one view that shows a hand, anything from a finger to the arm, or a shoulder)",
            positive_class_description=(
                "fractured, as two radiologists saw it; hardware and other findings alone count as normal"
            ),
            license="cc-by-4.0",
            held_out="images of FracAtlas whose numbers lie in other blocks of twenty, since it names no patients",
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
            held_out="patients of GRAZPEDWRI-DX that were kept apart",
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
            positive_class_description="what its metadata.csv calls abnormal",
            license="other",
            license_name="as-the-data-allow",
            held_out="patients of the same folder that were kept apart",
        ),
        DataSource(
            key="hub",
            name="a dataset with our columns",
            covers="like those of the dataset that it was trained on",
            positive_class_description="what the dataset's labels call abnormal",
            license="other",
            license_name="as-the-data-allow",
            held_out="patients of the same dataset that were kept apart",
        ),
    )
}
"""Datasets that the package loads, by key."""


def describe_positive_class(description: dict[str, Any]) -> str | None:
    """What the positive class is, in words that go on from "abnormal means"; None where it is not known.

    Args:
        description: Of data, as records have it: a source's `to_dict`, with `abnormal` where that was chosen; older
            ones may lack all but `key`.
    """
    chosen = description.get("abnormal")
    if chosen:
        return f"that {' or '.join(chosen)} is visible; other findings alone count as normal"
    source = SOURCES.get(description.get("key", ""))
    recorded = description.get("positive_class_description") or description.get("abnormal_means")
    return recorded or (source.positive_class_description if source else None)


def detect_source(root: str | os.PathLike[str]) -> DataSource:
    """Tells by its files which dataset lies in a folder; what is no folder may be the name of a dataset on the Hub.

    Raises:
        DatasetError: If it is none of them.
    """
    if find_dataset(root) is not None:
        return SOURCES["hub"]
    root = Path(root)
    if (root / TABLE).is_file():
        return SOURCES["folder"]
    table = root / "dataset.csv"
    if table.is_file():
        with table.open(encoding="utf-8-sig", errors="replace") as lines:
            columns = lines.readline().strip().split(",")
        for column, key in (("fracture_count", "fracatlas"), ("filestem", "grazpedwri")):
            if column in columns:
                return SOURCES[key]
        raise DatasetError(f"{table} is that of neither FracAtlas nor GRAZPEDWRI-DX; see the README for what is known")
    return SOURCES["phantoms" if has_truth(find_tree(root)) else "mura"]


def load_data(
    root: str | os.PathLike[str],
    *,
    body_parts: Sequence[str] | None = None,
    regions: Sequence[str] | None = None,
    abnormal: Sequence[str] | None = None,
    stratified: bool = True,
    **cut: Any,
) -> tuple[DatasetDict, DataSource]:
    """Loads whichever dataset lies in a folder, or one of the Hub.

    Args:
        root: The folder, or a name as `load_hub` takes it.
        body_parts: Some of the seven; all where None. Not of FracAtlas and GRAZPEDWRI-DX.
        regions: Some of FracAtlas' regions; all where None.
        abnormal: What counts as abnormal in FracAtlas or GRAZPEDWRI-DX; fractures where None.
        stratified: As in `load_mura`, of MURA and phantoms only.
        **cut: `dev_fraction`, `calib_fraction`, `seed`, `fold` and `n_folds`, as in `load_mura`.

    Raises:
        DatasetError: If it is none of the datasets, or not whole, as its loader says.
        ValueError: If an option does not belong to the dataset, or has a value that cannot be.
    """
    source = detect_source(root)
    chosen = {"body_parts": body_parts, "regions": regions, "abnormal": abnormal}
    given: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
    loaders: dict[str, tuple[Any, set[str]]] = {
        "mura": (load_mura, {"body_parts"}),
        "phantoms": (load_mura, {"body_parts"}),
        "folder": (load_folder, {"body_parts"}),
        "hub": (load_hub, {"body_parts"}),
        "fracatlas": (load_fracatlas, {"regions", "abnormal"}),
        "grazpedwri": (load_grazpedwri, {"abnormal"}),
    }
    load, known = loaders[source.key]
    if set(given) - known:
        raise ValueError(f"{', '.join(sorted(set(given) - known))} cannot be chosen for {source.name} in {root}")
    if load is load_mura:
        given["stratified"] = stratified
    return load(root, **given, **cut), source
