"""What follows a training: calibration, detector and head for regions, evaluation, comparison with its start."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import DatasetDict

from ..errors import CheckpointError, DatasetError, MuraError
from ..models import LABELS
from ..training import forget_processes
from .calibration import calibrate_checkpoint
from .evaluation import compare_checkpoints, evaluate_checkpoint, write_golden_check
from .ood_detection import fit_ood_detector
from .region_head import fit_region_head, single_regions


@dataclass
class FinalizeResult:
    """What was fitted and measured after training."""

    calibration: dict[str, Any]  # from `calibrate_checkpoint`
    region_head: dict[str, Any] | None = None  # from `fit_region_head`; None if it was skipped
    ood_detector: dict[str, Any] | None = None  # from `fit_ood_detector`; None if it was skipped
    evaluation: dict[str, Any] | None = None  # from `evaluate_checkpoint`; None if it was skipped
    skipped: list[str] = field(default_factory=list)  # sentences that say what was skipped, and why


def fit_checkpoint(
    folder: str | Path,
    datasets: DatasetDict,
    *,
    start: str | Path | None = None,
    default_operating_point: str | None = None,
    batch_size: int = 32,
    cpu: bool = False,
) -> FinalizeResult:
    """Calibrates a checkpoint, and fits its detector and, if the data know regions of the body, a head for them.

    Steps that the data do not allow are skipped. See `finalize_checkpoint` for the arguments and
    `calibrate_checkpoint` for `default_operating_point`.
    """
    options: dict[str, Any] = {"batch_size": batch_size, "cpu": cpu}
    calibration = calibrate_checkpoint(
        folder, datasets["calib"], start=start, default_operating_point=default_operating_point, **options
    )
    result = FinalizeResult(calibration)
    if len(single_regions(datasets.get("train"))) > 1:
        try:
            result.region_head = fit_region_head(folder, datasets["train"], **options)
        except (CheckpointError, DatasetError) as error:
            result.skipped.append(f"No head for the region of the body: {error}.")
    try:
        if "train" not in datasets:
            raise DatasetError("the data have no train split")
        result.ood_detector = fit_ood_detector(folder, datasets["train"], datasets["calib"], **options)
    except (CheckpointError, DatasetError) as error:
        result.skipped.append(f"No out-of-distribution detection: {error}.")
    return result


def finalize_checkpoint(
    folder: str | Path,
    datasets: DatasetDict,
    *,
    data: dict[str, Any] | None = None,
    start: str | Path | None = None,
    batch_size: int = 32,
    cpu: bool = False,
) -> FinalizeResult:
    """Fits what belongs to a new checkpoint (`fit_checkpoint`), evaluates it on `valid` and writes its golden check.

    Steps that the data do not allow are skipped. The calling process works alone: after distributed training, call
    this from the main process once the others left.

    Args:
        folder: The checkpoint.
        datasets: The splits that it was trained with.
        data: Description of the data for `evaluation.json`, from `describe_source`.
        start: Folder of the checkpoint whose backbone and heads training started from: it is compared with that one,
            and keeps its calibration if `calib` is too small for a new one. None without one.
        batch_size, cpu: See `evaluate_checkpoint`.
    """
    forget_processes()
    options: dict[str, Any] = {"batch_size": batch_size, "cpu": cpu}
    result = fit_checkpoint(folder, datasets, start=start, **options)
    if len(datasets["valid"]):
        result.evaluation = evaluate_checkpoint(
            folder, datasets["valid"], "valid", train=datasets.get("train"), data=data, **options
        )
        if missing := [LABELS[label] for label in sorted({0, 1} - set(datasets["valid"]["label"]))]:
            result.skipped.append(f"valid has no {missing[0]} study, so metrics such as AUROC are undefined.")
        elif start is not None:
            rows = datasets["valid"]
            try:
                result.evaluation = compare_checkpoints(folder, start, rows, rows, **options)
            except MuraError as error:
                result.skipped.append(f"Not compared with its start: {error}.")
    else:
        result.skipped.append("Not evaluated: the data have no valid split. A card needs an evaluation.")
        write_golden_check(folder)
    return result
