"""How often a checkpoint refuses what it should, and what it should not."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Image
from scipy.stats import binomtest
from tqdm.auto import tqdm

from ..data.studies import group_studies
from ..errors import DatasetError
from ..evaluation import bootstrap_mean
from ..inference import StudyPredictor
from ..models import BODY_PARTS
from ..phantoms import FOREIGN_KINDS, render_foreign, render_phantom
from ..radiographs import read_radiograph
from .in_distribution import in_scope
from .picking import file_of, spread

N_PICTURES = 63
"""Of each made kind; as many of every body part where it shows one."""

_FIRST_SEED = 7_000_000
_ENDINGS = (".png", ".jpg", ".jpeg", ".dcm")


def measure_refusal(
    predictor: StudyPredictor,
    rows: Dataset,
    others: Mapping[str, str | Path] | None = None,
    *,
    n_pictures: int = N_PICTURES,
    progress: bool = True,
) -> dict[str, Any]:
    """Counts refusals: of held-out studies like those of training, and of pictures that are nothing like them.

    Args:
        predictor: The checkpoint; it must be able to tell.
        rows: A split that it has not seen. Rows that show nothing of the upper limb are a kind of their own.
        others: Name of a further kind -> folder of its pictures, of which up to 250 are taken, spread evenly.
        n_pictures: Of each kind that is made here.
        progress: Whether to show a progress bar.

    Returns:
        `alarms`: `n` studies like those of training, `refused` (a share), `low` and `high` (95 %, bootstrap over
        patients). `kinds`: name -> the same for pictures that should be refused, the interval after Wilson. Other
        kinds than those asked for: "inverted" (negatives of held-out views), each of `FOREIGN_KINDS`, "phantoms" where
        the checkpoint was not trained on such, and each group of rows outside its scope. `unseen_detector`: likewise,
        phantoms of the body parts as another detector would have them, for checkpoints trained on phantoms; whether
        such should be refused is open.

    Raises:
        DatasetError: If a folder holds no picture, or no row is what the checkpoint is for.
    """
    fine, strange = in_scope(rows), in_scope(rows, inside=False)
    if not len(fine):
        raise DatasetError("no row shows what the checkpoint is for, so false alarms cannot be counted")
    studies = list(_studies(fine))
    flags = [
        _refused(predictor, files, part)
        for files, part, _ in tqdm(studies, desc="Refusals: held-out", disable=not progress)
    ]
    patients = np.asarray([patient for *_, patient in studies])
    low, high = bootstrap_mean(np.asarray(flags, float), patients)
    if low == high:  # resamples of equal answers tell nothing: as if each patient had answered once
        n = len(set(patients))
        interval = _wilson(n * all(flags), n)
        low, high = float(interval.low), float(interval.high)
    phantoms = predictor.model.config.trained_on_phantoms
    report: dict[str, Any] = {
        "alarms": {"n": len(flags), "refused": float(np.mean(flags)), "low": low, "high": high},
        "kinds": {},
    }
    kinds = strange_pictures(predictor, fine, strange, others, n_pictures=n_pictures)
    for name, pictures in tqdm(kinds.items(), desc="Refusals: strange", disable=not progress):
        report["kinds"][name] = _count(predictor, pictures)
    if phantoms:
        report["unseen_detector"] = _count(predictor, _phantoms(n_pictures, "underexposed"))
    return report


def strange_pictures(
    predictor: StudyPredictor,
    fine: Dataset,
    strange: Dataset,
    others: Mapping[str, str | Path] | None = None,
    *,
    n_pictures: int = N_PICTURES,
    first_seed: int = _FIRST_SEED,
) -> dict[str, Iterable[Any]]:
    """Kind -> pictures that a checkpoint should refuse; see `measure_refusal`.

    Args:
        predictor: The checkpoint.
        fine: Rows like those of its training, for negatives.
        strange: Rows that show nothing of the upper limb.
        others: Name of a further kind -> folder of its pictures.
        n_pictures: Of each kind that is made here.
        first_seed: Of those.
    """
    chosen = [files[0] for files, *_ in _studies(fine)]
    places = spread(len(chosen), n_pictures)
    kinds: dict[str, Iterable[Any]] = {
        "inverted": (_invert(chosen[place]) for place in places),
        **{kind: _foreign(kind, n_pictures, first_seed) for kind in FOREIGN_KINDS},
    }
    if not predictor.model.config.trained_on_phantoms:
        kinds["phantoms"] = _phantoms(n_pictures, "standard", first_seed)
    if len(strange):
        kinds["other regions of the body"] = [files[0] for files, *_ in _studies(strange)]
    return kinds | {name: _pictures(Path(place)) for name, place in (others or {}).items()}


def _foreign(kind: str, n: int, first_seed: int) -> Iterator[np.ndarray]:
    return (render_foreign(first_seed + number, kind) for number in range(n))


def _refused(predictor: StudyPredictor, files: list[Any], part: str | None = None) -> bool:
    return predictor(files, body_part=part, heatmaps=False).in_distribution is False


def _count(predictor: StudyPredictor, pictures: Iterable[Any]) -> dict[str, Any]:
    flags = [_refused(predictor, [picture]) for picture in pictures]
    interval = _wilson(sum(flags), len(flags))
    return {
        "n": len(flags),
        "refused": float(np.mean(flags)),
        "low": float(interval.low),
        "high": float(interval.high),
    }


def _wilson(k: int, n: int) -> Any:
    return binomtest(k, n).proportion_ci(method="wilson")


def _studies(rows: Dataset) -> Iterator[tuple[list[Any], str | None, str]]:
    """Files, body part and patient of each study."""
    plain = rows.cast_column("image", Image(decode=False))
    for members in group_studies(rows["study_id"]).values():
        views = [plain[place] for place in members]
        files = [file_of(view["image"]) for view in views]
        part = views[0]["body_part"]
        yield files, None if part is None else BODY_PARTS[part], views[0]["patient_id"]


def _invert(file: Any) -> np.ndarray:
    return 255 - read_radiograph(file).to_uint8()


def _phantoms(n: int, exposure: str, first_seed: int = _FIRST_SEED) -> Iterator[np.ndarray]:
    """Normal phantoms of all parts in turn, one view each."""
    for number in range(n):
        part = BODY_PARTS[number % len(BODY_PARTS)]
        yield render_phantom(first_seed + number, body_part=part, view=number % 2, exposure=exposure).pixels


def describe_pictures(folder: Path) -> list[tuple[str, int, int]]:
    """Path, size and time of the pictures of a folder that count for `measure_refusal`."""
    found = [(file, os.stat(file)) for file in _pictures(folder)]
    return [(file, status.st_size, status.st_mtime_ns) for file, status in found]


def _pictures(folder: Path) -> list[str]:
    files = sorted(str(file) for file in folder.rglob("*") if file.suffix.lower() in _ENDINGS)
    if not files:
        raise DatasetError(f"{folder} holds no picture ({', '.join(_ENDINGS)}); name a folder of pictures")
    return [files[place] for place in spread(len(files), 250)]
