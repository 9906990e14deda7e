"""Any of the datasets that the package knows, by the folder they lie in."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import DatasetDict

from ..errors import DatasetError
from .dataset_hub import find_dataset, load_hub
from .folder import TABLE, load_folder
from .fracatlas import load_fracatlas
from .grazpedwri import load_grazpedwri
from .mura import load_mura
from .mura_files import find_tree
from .sources import SOURCES, DataSource
from .truth import has_truth


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
