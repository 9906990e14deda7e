"""What follows training: calibration on `calib`, then evaluation on `valid`."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState
from datasets import Dataset, DatasetDict

from ..errors import CheckpointError, DatasetError
from ..models import LABELS
from .calibration import calibrate_checkpoint
from .evaluation import evaluate_checkpoint
from .ood_detection import learn_distribution
from .prediction_cache import make_golden

_OF_A_GROUP = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT",
    "TORCHELASTIC_RUN_ID",
)  # fmt: skip


@dataclass(frozen=True)
class Finish:
    """What was measured after training.

    Attributes:
        calibration: As `calibrate_checkpoint` gives it; None where that was left out.
        evaluation: As `evaluate_checkpoint` gives it; None where that was left out.
        left_out: Sentences about what was left out, and why.
    """

    calibration: dict[str, float] | None
    evaluation: dict[str, Any] | None
    left_out: list[str]


def finish_checkpoint(
    folder: str | Path,
    datasets: DatasetDict,
    *,
    data: dict[str, Any] | None = None,
    batch_size: int = 32,
    cpu: bool = False,
) -> Finish:
    """Calibrates a fresh checkpoint on `calib`, teaches it when not to answer, measures it on `valid` and writes its
    golden check; what the data do not allow is left out.

    The process works alone: where several trained, the main one may call this after they have parted.

    Args:
        folder: The checkpoint.
        datasets: Splits that it was trained with.
        data: What they are, for `evaluation.json`.
        batch_size: Views a step.
        cpu: Whether to stay on the CPU.
    """
    for name in _OF_A_GROUP:
        os.environ.pop(name, None)
    AcceleratorState._reset_state(reset_partial_state=True)
    left_out: list[str] = []
    calibration = evaluation = None
    lacks = _lacking(datasets["calib"])
    if lacks:
        left_out.append(
            f"Not calibrated: calib has no {lacks} study. Give more studies or a larger calib_fraction, or run "
            "scripts/calibrate.py later."
        )
    else:
        calibration = calibrate_checkpoint(folder, datasets["calib"], batch_size=batch_size, cpu=cpu)
    try:
        if "train" not in datasets:
            raise DatasetError("the data have no train")
        learn_distribution(folder, datasets["train"], datasets["calib"], batch_size=batch_size, cpu=cpu)
    except (CheckpointError, DatasetError) as error:
        left_out.append(f"It cannot tell when not to answer: {error}.")
    if not len(datasets["valid"]):
        left_out.append("Not evaluated: the data have no valid, and without figures there is no card.")
        make_golden(folder)
    else:
        evaluation = evaluate_checkpoint(
            folder, datasets["valid"], "valid", train=datasets.get("train"), data=data, batch_size=batch_size, cpu=cpu
        )
        lacks = _lacking(datasets["valid"])
        if lacks:
            left_out.append(f"valid has no {lacks} study, so that figures such as AUROC are not defined.")
    return Finish(calibration, evaluation, left_out)


def _lacking(rows: Dataset) -> str | None:
    """The labels that no row has, in words; None where both are there."""
    absent = {0, 1} - set(rows["label"])
    return " and no ".join(LABELS[label] for label in sorted(absent)) or None
