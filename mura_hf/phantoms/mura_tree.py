"""`write_phantom_mura`: a folder of phantoms in the layout of MURA v1.1, with the truth beside it."""

import json
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from ..errors import DatasetError
from .phantom import BODY_PARTS, Phantom
from .rendering import render_phantom
from .solids import SOLID_MIX, render_solid_phantom

PROVENANCE_FILE = "phantoms.json"
"""Lies in the root of every phantom tree; its presence says that the pictures are synthetic."""

_ABNORMAL_SHARE = 0.4  # MURA v1.1 train: 38.5 % of studies, valid: 44.9 %
_VIEWS = {1: 0.12, 2: 0.32, 3: 0.41, 4: 0.11, 5: 0.04}  # drawn whatever the label
_SECOND_STUDY_SHARE = 0.15  # of patients

RENDERERS: dict[str, tuple[Callable[..., Phantom], dict[str, float]]] = {
    "tubes": (render_phantom, {"metal": 0.2, "fracture": 0.8}),
    "solids": (render_solid_phantom, SOLID_MIX),
}
"""Name -> what draws a picture, and finding -> share of abnormal studies."""


@dataclass(frozen=True)
class _Study:
    split: str
    body_part: str
    patient: int
    number: int
    finding: str | None
    views: int
    seed: int
    size: int
    renderer: str

    @property
    def folder(self) -> str:
        label = "positive" if self.finding else "negative"
        return (
            f"MURA-v1.1/{self.split}/XR_{self.body_part.upper()}/patient{self.patient:05d}/study{self.number}_{label}"
        )


def _plan(n_studies: int, seed: int, valid_fraction: float, size: int, renderer: str) -> list[_Study]:
    """Draws every study's patient, part, label and seed, one after another, so that rendering may go in any order."""
    rng = np.random.default_rng([seed, 20])
    n_valid = round(n_studies * valid_fraction)
    studies: list[_Study] = []
    patient, number = 0, 0
    parts: list[str] = []
    for index in range(n_studies):
        split = "train" if index < n_studies - n_valid else "valid"
        first_of_split = index in (0, n_studies - n_valid)
        # Parts come in shuffled rounds of seven, so that small trees hold all of them.
        parts = parts or [str(part) for part in rng.permutation(BODY_PARTS)]
        same_patient = rng.random() < _SECOND_STUDY_SHARE and not first_of_split and number < 3
        patient, number = (patient, number + 1) if same_patient else (patient + 1, 1)
        abnormal, drawn = rng.random() < _ABNORMAL_SHARE, rng.random()
        finding = _pick(RENDERERS[renderer][1], drawn) if abnormal else None
        views = int(rng.choice(list(_VIEWS), p=list(_VIEWS.values())))
        study_seed = int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
        studies.append(_Study(split, parts.pop(), patient, number, finding, views, study_seed, size, renderer))
    return studies


def _pick(mix: dict[str, float], drawn: float) -> str:
    """The finding whose stretch of [0, 1) holds `drawn`."""
    edges = np.cumsum(list(mix.values()))
    return list(mix)[min(int(np.searchsorted(edges, drawn, side="right")), len(mix) - 1)]


def _write_study(root: Path, study: _Study) -> list[dict[str, object]]:
    """Renders one study into its folder and returns a row for each view."""
    cv2.setNumThreads(1)
    (root / study.folder).mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    for view in range(study.views):
        phantom = RENDERERS[study.renderer][0](
            study.seed, body_part=study.body_part, view=view, finding=study.finding, size=study.size
        )  # fmt: skip
        name = f"{study.folder}/image{view + 1}.png"
        if not cv2.imwrite(str(root / name), phantom.pixels):
            raise DatasetError(
                f"{root / name} could not be written; check that the disk has room and the folder is writable"
            )
        box = dict(zip(("x0", "y0", "x1", "y1"), phantom.box or (None,) * 4, strict=True))
        height, width = phantom.pixels.shape
        rows.append(
            {"path": name, "finding": phantom.finding, "seed": study.seed, "height": height, "width": width, **box}
        )
    return rows


_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("finding", pa.string()),
        ("seed", pa.int64()),
        ("height", pa.int32()),
        ("width", pa.int32()),
    ]
    + [(name, pa.int32()) for name in ("x0", "y0", "x1", "y1")]
)


def write_phantom_mura(
    root: str | Path,
    n_studies: int,
    seed: int = 0,
    *,
    valid_fraction: float = 0.2,
    size: int = 512,
    workers: int = 1,
    renderer: str = "tubes",
    progress: bool = True,
) -> Path:
    """Writes synthetic studies as `root/MURA-v1.1/...` with MURA's four headerless CSV files.

    Beside them lie `findings.parquet` (a row a picture: path, finding, seed, height, width and the box x0, y0, x1,
    y1 in pixels, empty where none shows) and `phantoms.json` (how the tree was made). No patient is in both train
    and valid.

    Args:
        root: Folder to write into; it must be empty or new.
        n_studies: Studies in all, train and valid together.
        seed: The same seed gives the same bytes, whatever the number of workers.
        valid_fraction: Share of the studies that goes to valid.
        size: Pixels on the long side.
        workers: Processes that render.
        renderer: One of `RENDERERS`: "tubes", on which the bundled checkpoint was trained, or "solids", which look
            more like radiographs and know more findings.
        progress: Whether to show a progress bar.

    Returns:
        The folder `root/MURA-v1.1`, which `load_mura` reads.

    Raises:
        DatasetError: If the folder holds files already, or a file cannot be written.
        ValueError: If `n_studies` is below 2, `valid_fraction` not inside (0, 1) or the renderer unknown.
    """
    root = Path(root)
    if n_studies < 2 or not 0 < valid_fraction < 1:
        raise ValueError(
            f"n_studies must be 2 or more and valid_fraction inside (0, 1), not {n_studies}, {valid_fraction}"
        )
    if renderer not in RENDERERS:
        raise ValueError(f"unknown renderer {renderer!r}; there are {', '.join(RENDERERS)}")
    if root.exists() and any(root.iterdir()):
        raise DatasetError(f"{root} is not empty; name a new folder for the phantoms, or remove this one")
    studies = _plan(n_studies, seed, valid_fraction, size, renderer)
    bar: dict[str, Any] = {
        "total": len(studies),
        "desc": "Rendering phantoms",
        "unit": "study",
        "disable": not progress,
    }
    if workers > 1:
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            done = pool.map(_write_study, [root] * len(studies), studies, chunksize=4)
            rows = [row for study in tqdm(done, **bar) for row in study]
    else:
        rows = [row for study in tqdm(studies, **bar) for row in _write_study(root, study)]

    tree = root / "MURA-v1.1"
    for split in ("train", "valid"):
        images = [str(row["path"]) for row in rows if str(row["path"]).startswith(f"MURA-v1.1/{split}/")]
        labelled = [f"{study.folder}/,{int(study.finding is not None)}" for study in studies if study.split == split]
        (tree / f"{split}_image_paths.csv").write_text("".join(f"{path}\n" for path in images))
        (tree / f"{split}_labeled_studies.csv").write_text("".join(f"{line}\n" for line in labelled))
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), tree / "findings.parquet")
    made: dict[str, Any] = {"n_studies": n_studies, "seed": seed, "valid_fraction": valid_fraction, "size": size}
    made["renderer"] = renderer
    (tree / PROVENANCE_FILE).write_text(json.dumps(made, indent=2) + "\n")
    return tree


def phantom_record(root: str | Path) -> dict[str, object] | None:
    """How a tree of phantoms was made; None where the tree is not one.

    Args:
        root: The folder `MURA-v1.1`, or the one that holds it.
    """
    for file in (Path(root) / PROVENANCE_FILE, Path(root) / "MURA-v1.1" / PROVENANCE_FILE):
        if file.is_file():
            return json.loads(file.read_text())
    return None
