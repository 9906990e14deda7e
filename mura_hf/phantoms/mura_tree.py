"""`write_phantom_mura`: a folder of phantoms in the layout of MURA v1.1, with the truth about each image."""

import json
import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm.auto import tqdm

from ..common import BODY_PARTS, require_extra
from ..errors import DatasetError
from .findings import FINDINGS, MIX, UNUSUAL_FINDINGS
from .rendering import EXPOSURES, locate_finding, render_phantom

PROVENANCE_FILE = "phantoms.json"
"""File in the root of every phantom tree, which marks the images as synthetic."""

_ABNORMAL_SHARE = 0.4  # MURA v1.1 train: 38.5 % of studies, valid: 44.9 %
_VIEWS = np.array([0.1, 0.3, 0.44, 0.115, 0.03, 0.008, 0.003, 0.002, 0.001, 0.0005, 0.0005])
"""Shares of studies with 1 to 11 views; the mean, 2.73, is that of MURA's train."""
_SECOND_STUDY_SHARE = 0.15  # of patients
_PLANTED_SHARE = 0.95  # of the studies, whose marker agrees with the label if markers are planted
_CORNERS = ("x0", "y0", "x1", "y1")


@dataclass(frozen=True)
class _Study:
    split: str
    body_part: str
    patient: int
    number: int
    abnormal: bool
    finding: str  # what it shows if it is abnormal
    views: int
    seed: int
    marker: bool | None = None  # drawn for each film if None

    @property
    def folder(self) -> str:
        study = f"study{self.number}_{'positive' if self.abnormal else 'negative'}"
        return f"MURA-v1.1/{self.split}/XR_{self.body_part.upper()}/patient{self.patient:05d}/{study}"


def _plan(
    n_train: int,
    n_valid: int,
    seed: int,
    *,
    counterfactuals: bool = False,
    planted_marker: bool = False,
    body_parts: Sequence[str] = BODY_PARTS,
    mix: Mapping[str, float] = MIX,
    train_mix: Mapping[str, float] = MIX,
) -> list[tuple[_Study, ...]]:
    """Draws patient, part, label and seed of every study in order, so that they can be rendered in any order.

    Each entry is one job for a process: a study, or a counterfactual pair.
    """
    rng = np.random.default_rng([seed, 20])
    jobs: list[tuple[_Study, ...]] = []
    patient, number, parts = 0, 0, list[str]()
    for split, wanted, shares in (("train", n_train, train_mix), ("valid", n_valid, mix)):
        planned = 0
        while planned < wanted:
            # Parts come in shuffled rounds, so that small trees contain all of them.
            parts = parts or [str(part) for part in rng.permutation(body_parts)]
            same_patient = rng.random() < _SECOND_STUDY_SHARE and planned > 0 and number < 3
            patient, number = (patient, number + 1) if same_patient else (patient + 1, 1)
            paired = counterfactuals and split == "train" and wanted - planned > 1
            # With a normal counterfactual each, two of three patients must be abnormal for the same share of studies.
            share = _ABNORMAL_SHARE / (1 - _ABNORMAL_SHARE) if paired else _ABNORMAL_SHARE
            abnormal, finding = bool(rng.random() < share), _draw_finding(shares, rng.random())
            views = int(rng.choice(len(_VIEWS), p=_VIEWS / _VIEWS.sum())) + 1
            study_seed = int(np.random.SeedSequence([seed, len(jobs)]).generate_state(1)[0])
            study = _Study(split, parts.pop(), patient, number, abnormal, finding, views, study_seed)
            job: tuple[_Study, ...] = (study,)
            if paired and abnormal:
                first = bool(rng.random() < 0.5)  # the number must not reveal the label
                job = (replace(study, abnormal=first), replace(study, abnormal=not first, number=number + 1))
                number += 1
            if planted_marker:
                agrees = np.random.default_rng([study_seed, 21]).random() < _PLANTED_SHARE
                job = tuple(replace(one, marker=one.abnormal == bool(agrees)) for one in job)
            jobs.append(job)
            planned += len(job)
    return jobs


def _draw_finding(shares: Mapping[str, float], u: float) -> str:
    """Finding whose interval of [0, 1) contains `u`."""
    place = int(np.searchsorted(np.cumsum(list(shares.values())), u, side="right"))
    return list(shares)[min(place, len(shares) - 1)]


def _write_studies(root: Path, size: int, exposure: str, studies: tuple[_Study, ...]) -> list[dict[str, object]]:
    """Renders a study, or a counterfactual pair, and returns one row per image, study by study."""
    cv2.setNumThreads(1)
    rows: dict[tuple[int, int], dict[str, object]] = {}
    for study in studies:
        (root / study.folder).mkdir(parents=True, exist_ok=True)
    for view in range(studies[0].views):  # view by view, because a pair shares its shadows
        for place, study in enumerate(studies):
            chosen: dict[str, Any] = {"body_part": study.body_part, "view": view, "size": size}
            finding = study.finding if study.abnormal else None
            phantom = render_phantom(study.seed, finding=finding, marker=study.marker, exposure=exposure, **chosen)
            decoy = None if study.abnormal else locate_finding(study.seed, study.finding, **chosen)
            name = f"{study.folder}/image{view + 1}.png"
            if not cv2.imwrite(str(root / name), phantom.pixels):
                raise DatasetError(f"{root / name} could not be written; check free space and permissions")
            height, width = phantom.pixels.shape
            rows[place, view] = {
                "path": name,
                "finding": phantom.finding,
                "seed": study.seed,
                "height": height,
                "width": width,
                **dict(zip(_CORNERS, phantom.box or (None,) * 4, strict=True)),
                **dict(zip((f"decoy_{name}" for name in _CORNERS), decoy or (None,) * 4, strict=True)),
            }
    return [rows[key] for key in sorted(rows)]


def write_phantom_mura(
    root: str | Path,
    n_studies: int,
    seed: int = 0,
    *,
    valid_fraction: float = 0.2,
    size: int = 512,
    counterfactuals: bool = False,
    planted_marker: bool = False,
    body_parts: Sequence[str] | None = None,
    findings: Sequence[str] | None = None,
    train_shares: Mapping[str, float] | None = None,
    exposure: str = "standard",
    workers: int = 1,
    progress: bool = True,
) -> Path:
    """Writes synthetic studies as `root/MURA-v1.1/...` with MURA's four headerless CSV files.

    It also writes `findings.parquet` (one row per image: path, finding, seed, height, width, the box x0, y0, x1, y1 in
    pixels of a visible finding, and for normal images a decoy box, where it would have been) and `phantoms.json` (the
    options). No patient is in both train and valid.

    Args:
        root: New or empty folder.
        n_studies: Number of studies in train and valid together.
        seed: The same seed gives the same bytes for any number of workers.
        valid_fraction: Share of the studies in valid.
        size: Pixels on the long side.
        counterfactuals: Whether each abnormal study of train has a counterfactual, the same patient without the
            finding, as another study (except the last one if there is no space for two), at the same share of abnormal
            studies. Training is faster with such pairs.
        planted_marker: Whether a side marker reveals the label, as a positive control for shortcut detection: in 19 of
            20 studies only abnormal films have one, in the others only normal films.
        body_parts: Some of `BODY_PARTS`; all if None.
        findings: Some of `FINDINGS` and `UNUSUAL_FINDINGS`, in equal shares; those of `MIX` in its shares if None.
        train_shares: Finding -> its share of the abnormal studies of train, to learn a rare finding from more cases
            while valid stays unchanged. The other findings share the rest.
        exposure: One of `EXPOSURES`.
        workers: Number of processes.
        progress: Whether to show a progress bar.

    Returns:
        The folder `root/MURA-v1.1`, which `load_mura` reads.

    Raises:
        DatasetError: If the folder is not empty, or a file cannot be written.
        ValueError: If `n_studies` is below 2, `valid_fraction` is outside of (0, 1), a body part, finding or exposure
            is unknown, or shares do not add up.
    """
    require_extra("train", "pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    root = Path(root)
    if n_studies < 2 or not 0 < valid_fraction < 1:
        given = f"{n_studies}, {valid_fraction}"
        raise ValueError(f"n_studies must be 2 or more and valid_fraction between 0 and 1, not {given}")
    _check_known("body part", body_parts, BODY_PARTS)
    _check_known("finding", findings, (*FINDINGS, *UNUSUAL_FINDINGS))
    _check_known("exposure", [exposure], tuple(EXPOSURES))
    if root.exists() and any(root.iterdir()):
        raise DatasetError(f"{root} is not empty; name a new folder for the phantoms, or remove this one")
    n_valid = min(max(round(n_studies * valid_fraction), 1), n_studies - 1)
    mix = MIX if findings is None else {kind: 1 / len(findings) for kind in findings}
    parts = BODY_PARTS if body_parts is None else tuple(body_parts)
    jobs = _plan(
        n_studies - n_valid, n_valid, seed,
        counterfactuals=counterfactuals, planted_marker=planted_marker, body_parts=parts,
        mix=mix, train_mix=_shifted(mix, train_shares) if train_shares else mix
    )  # fmt: skip
    rows: list[dict[str, object]] = []
    render = partial(_write_studies, root, size, exposure)
    spawn = multiprocessing.get_context("spawn")
    bar = tqdm(total=n_studies, desc="Rendering phantoms", unit="study", disable=not progress)
    with bar, ProcessPoolExecutor(workers, mp_context=spawn) if workers > 1 else nullcontext() as pool:
        rendered = pool.map(render, jobs, chunksize=4) if pool else map(render, jobs)
        for job, done in zip(jobs, rendered, strict=True):
            rows += done
            bar.update(len(job))

    tree = root / "MURA-v1.1"
    for split in ("train", "valid"):
        images = [str(row["path"]) for row in rows if str(row["path"]).startswith(f"MURA-v1.1/{split}/")]
        labelled = [f"{study.folder}/,{int(study.abnormal)}" for job in jobs for study in job if study.split == split]
        (tree / f"{split}_image_paths.csv").write_text("".join(f"{path}\n" for path in images))
        (tree / f"{split}_labeled_studies.csv").write_text("".join(f"{line}\n" for line in labelled))
    kinds = {"path": pa.string(), "finding": pa.string(), "seed": pa.int64()}
    sizes = ["height", "width", *(prefix + name for prefix in ("", "decoy_") for name in _CORNERS)]
    schema = pa.schema(kinds | dict.fromkeys(sizes, pa.int32()))
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), tree / "findings.parquet")
    made: dict[str, Any] = {
        "n_studies": n_studies, "seed": seed, "valid_fraction": valid_fraction, "size": size,
        "twins": counterfactuals, "views_tell": False,  # an option of earlier versions
    }  # fmt: skip
    unusual: dict[str, Any] = {
        "body_parts": body_parts and list(body_parts), "findings": findings and list(findings),
        "train_shares": train_shares and dict(train_shares), "planted_marker": planted_marker,
        "exposure": exposure != "standard" and exposure,
    }  # fmt: skip
    made |= {name: value for name, value in unusual.items() if value}
    (tree / PROVENANCE_FILE).write_text(json.dumps(made, indent=2) + "\n")
    return tree


def _shifted(mix: Mapping[str, float], shares: Mapping[str, float]) -> dict[str, float]:
    """Sets the shares of some findings; the others share the rest in their proportions."""
    _check_known("finding", list(shares), tuple(mix))
    rest, others = round(1 - sum(shares.values()), 12), sum(share for kind, share in mix.items() if kind not in shares)
    if rest < 0 or min(shares.values()) < 0 or (not others and rest > 1e-9):
        raise ValueError(f"shares of findings in train must be 0 or more and add up to at most 1: {dict(shares)}")
    return {kind: shares.get(kind, rest * share / others if others else 0.0) for kind, share in mix.items()}


def _check_known(what: str, chosen: Sequence[str] | None, known: Sequence[str]) -> None:
    """Raises `ValueError` if a choice is unknown or empty."""
    unknown = sorted(set(chosen or ()) - set(known))
    if isinstance(chosen, str) or unknown or (chosen is not None and not chosen):
        raise ValueError(f"unknown {what} {', '.join(unknown) or chosen!r}; known are {', '.join(known)}")


def phantom_record(root: str | Path) -> dict[str, object] | None:
    """Options that the tree of phantoms in `root` (`MURA-v1.1`, or its parent) was made with; None for others."""
    inside = Path("MURA-v1.1")
    for folder in (Path(), inside, inside / inside):  # as load_mura looks for the tree
        file = Path(root) / folder / PROVENANCE_FILE
        if file.is_file():
            return json.loads(file.read_text())
    return None
