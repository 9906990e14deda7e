"""Out-of-distribution (OOD) detection: fits a checkpoint's detector and measures how often it flags studies."""

import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset, Image
from torch.utils.data import ConcatDataset, DataLoader
from torch.utils.data import Dataset as TorchDataset
from tqdm.auto import tqdm
from transformers import AutoModelForImageClassification

from ..common import read_training
from ..data import Augmentation, ViewDataset
from ..data.views import group_studies
from ..errors import CheckpointError, DatasetError
from ..inference import StudyPredictor
from ..metrics import mean_with_interval
from ..models import BODY_PARTS, MuraImageProcessor
from ..models.golden_mura import digest_weights
from ..phantoms import render_phantom
from ..radiographs import READABLE_FORMATS, find_kind, read_radiograph
from ..retrieval import OOD_FILE, OODDetector, feature_means
from ..retrieval.ood_detection import FALSE_ALARM_RATE
from .calibration import add_to_training_record
from .splits import body_part_of, groups_of, image_source, is_outside, rows_in_scope, rows_out_of_scope, spread_indices

MAX_TRAIN_VIEWS = 5_000
"""More views of train would hardly change the covariance of a few hundred channels."""

MAX_CLOSE_UPS = 1_000

N_IMAGES = 63
"""Number of images of each kind that is generated or shipped; a multiple of the number of body parts."""

UNRELATED = Path(__file__).parents[1] / "resources" / "unrelated"
"""Folder with a sheet of pictures of each kind, drawn by `scripts/make_unrelated.py`."""

UNRELATED_KINDS = ("text", "texture", "chest", "skull")
"""Kinds of pictures that are not radiographs of an upper limb."""

SHEET_COLUMNS, SHEET_ROWS = 9, 7
"""Pictures of a sheet, which are squares."""

FIRST_SEED = 7_000_000
"""Seed of the first image of each kind."""

_CLOSE_UP = " close-up"
_OUTSIDE = "other regions of the body"
_MAX_FOLDER_IMAGES = 250


def fit_ood_detector(
    folder: str | Path, train: Dataset, calib: Dataset, *, batch_size: int = 32, cpu: bool = False
) -> dict[str, Any]:
    """Fits the OOD detector of a checkpoint and saves it beside its weights.

    Views are grouped by region if the rows have regions, else by body part. Views that show nothing of the upper limb
    help in training but are out of scope for checkpoints of this package, so the detector flags them. If training
    enlarged parts of the views (`zoom_in`), close-ups of at most `MAX_CLOSE_UPS` views count as groups of their own.
    They vary more than whole views, so only whole views of `calib` set the threshold. A record is added to
    `training.json` if that exists; if there are too few views, it says so, and there is no detector.

    Args:
        folder: The checkpoint.
        train: The data that it was trained on.
        calib: The split that sets the threshold, which was used neither for training nor for selection.
        batch_size, cpu: See `evaluate_checkpoint`.

    Returns:
        `n_views` of train, close-ups included, `groups` (name -> number of views), the groups `outside` the scope, `n`
        views of calib, and `alarms`, the accepted share of false alarms.

    Raises:
        CheckpointError: If the model has no feature map, or one for each body part.
        DatasetError: If calib has too few views in scope.
    """
    folder, accelerator = Path(folder), Accelerator(cpu=cpu)
    train, calib = train.select(spread_indices(len(train), MAX_TRAIN_VIEWS)), rows_in_scope(calib)
    groups = groups_of(train)
    shown: list[tuple[Dataset, Augmentation | None]] = [(train, None)]
    zoom = float((read_training(folder).get("arguments") or {}).get("zoom_in", 1.0))
    if zoom > 1:
        close_up = Augmentation(flip=0, rotation=0, scale=0, zoom_in=zoom, zoom_probability=1)
        enlarged = train.select(spread_indices(len(train), MAX_CLOSE_UPS))
        groups += [group + _CLOSE_UP for group in groups_of(enlarged)]
        shown.append((enlarged, close_up))
    outside = sorted({group for group in groups if is_outside(group.removesuffix(_CLOSE_UP))})
    model = AutoModelForImageClassification.from_pretrained(folder)
    if model.NEEDS_PART:
        raise CheckpointError(
            f"{folder} has a model for each body part, and their feature maps cannot be compared, so it cannot have "
            "an out-of-distribution detector"
        )
    model = accelerator.prepare_model(model, evaluation_mode=True)
    processor = MuraImageProcessor.from_pretrained(folder)
    codes, calib_codes = (
        read_codes(model.eval(), views, batch_size, feature_means, f"Reading {name}").numpy()
        for name, views in (
            ("train", ConcatDataset([ViewDataset(rows, processor, change) for rows, change in shown])),
            ("calib", ViewDataset(calib, processor)),
        )
    )
    try:
        detector = OODDetector.fit(codes, groups, outside, calib_codes, digest_weights(folder))
    except DatasetError as error:
        if accelerator.is_main_process:
            (folder / OOD_FILE).unlink(missing_ok=True)
            add_to_training_record(folder, {"ood_detection": {"not_fitted": f"too few: {error}"}})
        raise
    record = {
        "n_views": len(codes),
        "groups": {group: groups.count(group) for group in sorted(set(groups))},
        "outside": outside,
        "n": len(detector.calib),
        "alarms": FALSE_ALARM_RATE,
    }
    if accelerator.is_main_process:
        detector.save(folder)
        add_to_training_record(folder, {"ood_detection": record, "in_distribution": record})
    return record


@torch.no_grad()
def read_codes(
    model: Any, views: TorchDataset[Any], batch_size: int, find_code: Callable[[Any], Any], progress: str
) -> torch.Tensor:
    """Codes of views that `find_code` takes from the output of a model: `[n, D]` on the CPU, or `[0]`."""
    codes = [torch.zeros(0)]
    for batch in tqdm(DataLoader(views, batch_size), desc=progress, leave=False):
        pixel_values = batch["pixel_values"].to(model.device, memory_format=torch.channels_last)
        codes.append(find_code(model.classify_views(pixel_values)).cpu())
    return torch.cat(codes)


def measure_ood_detection(
    predictor: StudyPredictor,
    rows: Dataset,
    ood_folders: Mapping[str, str | Path] | None = None,
    *,
    n_images: int = N_IMAGES,
) -> dict[str, Any]:
    """Measures how often a checkpoint flags held-out studies (false alarms) and OOD images (detections).

    Args:
        predictor: A checkpoint with an OOD detector.
        rows: A split that it has not seen. Rows out of scope are a kind of their own.
        ood_folders: Name -> folder of images that should be flagged. At most 250 are taken, evenly spaced.
        n_images: Number of images of each kind that is generated or shipped, at most 63.

    Returns:
        `alarms`: `n` studies in scope, the share `refused`, and `low` and `high` (95 % interval over patients, None if
        these are too few). `kinds`: name -> the same for images that should be flagged, each of which counts as a
        patient, except for rows out of scope: "inverted" (negatives of held-out views), "noise", each of
        `UNRELATED_KINDS`, "phantoms" unless the checkpoint was trained on phantoms, those rows, and each of
        `ood_folders`.
        `unseen_detector`, for checkpoints trained on phantoms: phantoms as another X-ray detector would show them;
        whether these should be flagged is open.

    Raises:
        DatasetError: If a folder has no images, or no row is in scope.
    """
    inside, outside = rows_in_scope(rows), rows_out_of_scope(rows)
    if not len(inside):
        raise DatasetError("no row is in the scope of the checkpoint, so false alarms cannot be counted")
    flags, patients = [], []
    for files, part, patient in tqdm(list(_studies(inside)), desc="OOD: held-out", leave=False):
        flags.append(_is_flagged(predictor, files, part))
        patients.append(patient)
    kinds = tqdm(
        ood_images(predictor, inside, outside, ood_folders, n_images=n_images).items(), desc="OOD: kinds", leave=False
    )
    owners = {_OUTSIDE: [patient for *_, patient in _studies(outside)]}
    report = {
        "alarms": _share(flags, patients),
        "kinds": {
            name: _share([_is_flagged(predictor, [image]) for image in images], owners.get(name))
            for name, images in kinds
        },
    }
    if predictor.model.config.trained_on_phantoms:
        unseen = _phantoms(n_images, "underexposed")
        report["unseen_detector"] = _share([_is_flagged(predictor, [image]) for image in unseen])
    return report


def ood_images(
    predictor: StudyPredictor,
    inside: Dataset,
    outside: Dataset,
    ood_folders: Mapping[str, str | Path] | None = None,
    *,
    n_images: int = N_IMAGES,
    first_seed: int = FIRST_SEED,
) -> dict[str, Iterable[Any]]:
    """Returns kind -> images that a checkpoint should flag; see `measure_ood_detection`.

    Negatives are made of rows in scope (`inside`); the images of all rows `outside` are a kind.
    """
    files = [study[0][0] for study in _studies(inside)]
    kinds: dict[str, Iterable[Any]] = {
        "inverted": (255 - read_radiograph(files[n]).to_uint8() for n in spread_indices(len(files), n_images)),
        "noise": (_draw_noise(first_seed + number) for number in range(n_images)),
        **{kind: islice(read_unrelated(kind), n_images) for kind in UNRELATED_KINDS},
    }
    if not predictor.model.config.trained_on_phantoms:
        kinds["phantoms"] = _phantoms(n_images, "standard", first_seed)
    if len(outside):
        kinds[_OUTSIDE] = [study[0][0] for study in _studies(outside)]
    return kinds | {name: _images_in(Path(folder)) for name, folder in (ood_folders or {}).items()}


def read_unrelated(kind: str) -> Iterator[np.ndarray]:
    """Yields the pictures of one of `UNRELATED_KINDS`, uint8 `[H, W]`."""
    sheet = read_radiograph(UNRELATED / f"{kind}.webp").to_uint8()
    for row in np.vsplit(sheet, SHEET_ROWS):
        yield from np.hsplit(row, SHEET_COLUMNS)


def _draw_noise(seed: int, side: int = 512) -> np.ndarray:
    """Draws white noise of any contrast, with grains of 1 to 8 pixels."""
    rng = np.random.default_rng(seed)
    grain = int(rng.integers(1, 9))
    coarse = rng.standard_normal((-(-side // grain), -(-side // grain)))
    levels = np.kron(rng.uniform(0.15, 0.85) + rng.uniform(0.03, 0.4) * coarse, np.ones((grain, grain)))
    return np.clip(255 * levels[:side, :side], 0, 255).astype(np.uint8)


def _phantoms(n: int, exposure: str, first_seed: int = FIRST_SEED) -> Iterator[np.ndarray]:
    """Normal phantoms with one view each; body parts take turns."""
    for number in range(n):
        part = BODY_PARTS[number % len(BODY_PARTS)]
        yield render_phantom(first_seed + number, body_part=part, view=number % 2, exposure=exposure).pixels


def _is_flagged(predictor: StudyPredictor, images: list[Any], part: str | None = None) -> bool:
    return predictor(images, body_part=part, heatmaps=False).in_distribution is False


def _share(flags: list[bool], patients: Sequence[Hashable] | None = None) -> dict[str, Any]:
    """Share of flagged studies with its interval; by default, each is of another patient."""
    share = mean_with_interval(np.array(flags, bool), range(len(flags)) if patients is None else patients)
    return {"n": len(flags), "refused": share["mean"], "low": share["low"], "high": share["high"]}


def _studies(rows: Dataset) -> Iterator[tuple[list[Any], str | None, str]]:
    """Yields files, body part and patient of each study."""
    plain = rows.cast_column("image", Image(decode=False))
    for members in group_studies(rows["study_id"]).values():
        views = [plain[index] for index in members]
        yield [image_source(view["image"]) for view in views], body_part_of(views[0]), views[0]["patient_id"]


def list_images(folder: Path) -> list[tuple[str, int, int]]:
    """Returns path, size and time of the images that `measure_ood_detection` takes from a folder."""
    return [(file, os.stat(file).st_size, os.stat(file).st_mtime_ns) for file in _images_in(folder)]


def _images_in(folder: Path) -> list[str]:
    files = sorted(str(file) for file in folder.rglob("*") if file.is_file() and find_kind(file) == "view")
    if not files:
        raise DatasetError(f"{folder} has no images ({', '.join(READABLE_FORMATS)}); name a folder of images")
    return [files[index] for index in spread_indices(len(files), _MAX_FOLDER_IMAGES)]
