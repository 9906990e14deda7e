"""What follows training: calibration and OOD detection from `calib`, then evaluation on `valid`."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState
from datasets import Dataset, DatasetDict

from ..errors import CheckpointError, DatasetError
from ..models import LABELS
from .calibration import calibrate_checkpoint
from .evaluation import evaluate_checkpoint
from .golden import write_golden_check
from .ood_detection import fit_ood_detector

_PROCESS_GROUP_VARIABLES = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT",
    "TORCHELASTIC_RUN_ID",
)  # fmt: skip


@dataclass
class FinalizeResult:
    """What was measured after training."""

    calibration: dict[str, Any] | None = None  # from `calibrate_checkpoint`; None if it was skipped
    evaluation: dict[str, Any] | None = None  # from `evaluate_checkpoint`; None if it was skipped
    skipped: list[str] = field(default_factory=list)  # sentences that say what was skipped, and why


def finalize_checkpoint(
    folder: str | Path,
    datasets: DatasetDict,
    *,
    data: dict[str, Any] | None = None,
    batch_size: int = 32,
    cpu: bool = False,
) -> FinalizeResult:
    """Calibrates a new checkpoint, fits its OOD detector, evaluates it on `valid` and writes its golden check.

    Steps that the data do not allow are skipped. The calling process works alone: after distributed training, call
    this from the main process once the others have left.

    Args:
        folder: The checkpoint.
        datasets: The splits that it was trained with.
        data: Description of the data for `evaluation.json`, from `describe_source`.
        batch_size: Number of views per step.
        cpu: Whether to stay on the CPU.
    """
    for name in _PROCESS_GROUP_VARIABLES:
        os.environ.pop(name, None)
    AcceleratorState._reset_state(reset_partial_state=True)
    options: dict[str, Any] = {"batch_size": batch_size, "cpu": cpu}
    result = FinalizeResult()
    if missing := _missing_labels(datasets["calib"]):
        result.skipped.append(
            f"Not calibrated: calib has no {missing} study. Give more studies or a larger calib_fraction, or run "
            "scripts/calibrate.py later."
        )
    else:
        result.calibration = calibrate_checkpoint(folder, datasets["calib"], **options)
    try:
        if "train" not in datasets:
            raise DatasetError("the data have no train split")
        fit_ood_detector(folder, datasets["train"], datasets["calib"], **options)
    except (CheckpointError, DatasetError) as error:
        result.skipped.append(f"No out-of-distribution detection: {error}.")
    if len(datasets["valid"]):
        result.evaluation = evaluate_checkpoint(
            folder, datasets["valid"], "valid", train=datasets.get("train"), data=data, **options
        )
        if missing := _missing_labels(datasets["valid"]):
            result.skipped.append(f"valid has no {missing} study, so metrics such as AUROC are undefined.")
    else:
        result.skipped.append("Not evaluated: the data have no valid split. A card needs an evaluation.")
        write_golden_check(folder)
    return result


def _missing_labels(rows: Dataset) -> str | None:
    """Names the labels that no row has; None if both are present."""
    absent = {0, 1} - set(rows["label"])
    return " and no ".join(LABELS[label] for label in sorted(absent)) or None
