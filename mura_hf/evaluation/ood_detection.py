"""Teaches a checkpoint what its training data look like, so that it can tell when not to answer.

How often a checkpoint refuses what it should, and what it should not.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset, Image
from scipy.stats import binomtest
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import AutoModelForImageClassification

from ..common import replace_file
from ..data import ViewDataset
from ..data.fracatlas import REGION_GROUPS
from ..data.views import group_studies
from ..errors import CheckpointError, DatasetError
from ..inference import StudyPredictor
from ..metrics import bootstrap_mean
from ..models import BODY_PARTS, MuraImageProcessor
from ..models.golden_mura import digest_weights
from ..phantoms import UNRELATED_KINDS, render_phantom, render_unrelated
from ..radiographs import read_radiograph
from ..retrieval import OODDetector, feature_means
from ..retrieval.ood_detection import FALSE_ALARM_RATE
from .prediction_cache import file_of, spread

MOST_VIEWS = 5_000
"""Of train, spread evenly; more would move the covariance of a few hundred channels by little."""

_SCOPE = REGION_GROUPS["upper limb"]
_ANY = "any"


def learn_distribution(
    folder: str | Path, train: Dataset, calib: Dataset, *, batch_size: int = 32, cpu: bool = False
) -> dict[str, Any]:
    """Writes `in_distribution.safetensors` beside a checkpoint's weights, and how that went into its `training.json`,
    where there is one.

    Views are grouped by body part, or by region where the rows tell regions. What shows nothing of the upper limb was
    a help in training, but is not what checkpoints of this package are for: it counts as strange.

    Args:
        folder: The checkpoint.
        train: What it was trained on.
        calib: The split that sets the threshold, which neither training nor selection has seen.
        batch_size: Views a step.
        cpu: Whether to stay on the CPU.

    Returns:
        `n_views` of train that were looked at, `groups` (name -> views), those `outside`, `n` views of calib,
        `alarms` (the share of studies like these that is accepted to be taken for strange).

    Raises:
        CheckpointError: If the model has no feature map, or one for each body part.
        DatasetError: If calib has too few views that show what the checkpoint is for.
    """
    folder, accelerator = Path(folder), Accelerator(cpu=cpu)
    train = train.select(spread(len(train), MOST_VIEWS))
    groups = groups_of(train)
    outside = sorted({group for group in groups if is_outside(group)})
    calib = in_scope(calib)
    raw = AutoModelForImageClassification.from_pretrained(folder)
    if raw.NEEDS_PART:
        raise CheckpointError(
            f"{folder} has a model for each body part, whose feature maps do not compare: it cannot tell whether a "
            "study is like those of training"
        )
    model = accelerator.prepare_model(raw, evaluation_mode=True)
    processor = MuraImageProcessor.from_pretrained(folder)
    codes, calib_codes = (
        read_codes(model.eval(), ViewDataset(rows, processor), accelerator.device, batch_size, f"Reading {name}")
        for name, rows in (("train", train), ("calib", calib))
    )
    fitted = OODDetector.fit(codes, groups, outside, calib_codes, digest_weights(folder))
    record = {
        "n_views": len(codes),
        "groups": {group: groups.count(group) for group in sorted(set(groups))},
        "outside": outside,
        "n": len(fitted.calib),
        "alarms": FALSE_ALARM_RATE,
    }
    if accelerator.is_main_process:
        fitted.save(folder)
        file = folder / "training.json"
        if file.is_file():
            training = {**json.loads(file.read_text()), "in_distribution": record}
            replace_file(file, (json.dumps(training, indent=2) + "\n").encode())
    return record


def groups_of(rows: Dataset) -> list[str]:
    """The group of each row: the first region of the upper limb that it shows, else the first of all, or the body part
    where rows tell no regions.
    """
    if "region" in rows.column_names and any(rows["region"]):
        shown = [(region or _ANY).split("+") for region in rows["region"]]
        return [next((word for word in words if word in _SCOPE), words[0]) for words in shown]
    return [_ANY if part is None else BODY_PARTS[part] for part in rows["body_part"]]


def is_outside(group: str) -> bool:
    """Whether a group, as `groups_of` names it, shows nothing of the upper limb."""
    return group in {region for regions in REGION_GROUPS.values() for region in regions} - set(_SCOPE)


def in_scope(rows: Dataset, *, inside: bool = True) -> Dataset:
    """The rows that show something of the upper limb, or, where not `inside`, the others."""
    return rows.select([place for place, group in enumerate(groups_of(rows)) if is_outside(group) != inside])


@torch.no_grad()
def read_codes(model: Any, views: ViewDataset, device: torch.device, batch_size: int, progress: str) -> np.ndarray:
    """Codes of views from `feature_means`, float32 `[n, D]`."""
    found = []
    for batch in tqdm(DataLoader(views, batch_size), desc=progress):
        pixel_values = batch["pixel_values"].to(device, memory_format=torch.channels_last)
        found.append(feature_means(model.classify_views(pixel_values)).cpu().numpy())
    return np.concatenate(found) if found else np.zeros((0, 1), np.float32)


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
        kinds than those asked for: "inverted" (negatives of held-out views), each of `UNRELATED_KINDS`, "phantoms"
        where the checkpoint was not trained on such, and each group of rows outside its scope. `unseen_detector`:
        likewise, phantoms of the body parts as another detector would have them, for checkpoints trained on phantoms;
        whether such should be refused is open.

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
        **{kind: _foreign(kind, n_pictures, first_seed) for kind in UNRELATED_KINDS},
    }
    if not predictor.model.config.trained_on_phantoms:
        kinds["phantoms"] = _phantoms(n_pictures, "standard", first_seed)
    if len(strange):
        kinds["other regions of the body"] = [files[0] for files, *_ in _studies(strange)]
    return kinds | {name: _pictures(Path(place)) for name, place in (others or {}).items()}


def _foreign(kind: str, n: int, first_seed: int) -> Iterator[np.ndarray]:
    return (render_unrelated(first_seed + number, kind) for number in range(n))


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
