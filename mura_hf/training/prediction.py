"""A model over a whole split."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from accelerate import Accelerator
from scipy.special import expit
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..data import UNKNOWN_PART, ViewDataset
from ..evaluation import aggregate_studies, classification_metrics


@dataclass(frozen=True)
class SplitPredictions:
    """What a model says of each view, beside the truth; all arrays `[n]`, in the order of the dataset.

    Attributes:
        probabilities: float64, P(abnormal) of the view.
        labels: int64, 0 normal and 1 abnormal.
        study_ids: The view's study.
        patient_ids: The view's patient.
        body_parts: int64, the true part as an index; `UNKNOWN_PART` where it is not known.
        found_parts: int64, the part that the model finds; None without that head.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    study_ids: list[str]
    patient_ids: list[str]
    body_parts: np.ndarray
    found_parts: np.ndarray | None

    def by_study(self) -> dict[str, tuple[float, int, str, int]]:
        """Study id -> mean probability, label, patient and body part."""
        studies, means = aggregate_studies(self.study_ids, self.probabilities)
        first = {study: place for place, study in reversed(list(enumerate(self.study_ids)))}
        return {
            study: (float(mean), int(self.labels[row]), self.patient_ids[row], int(self.body_parts[row]))
            for study, mean in zip(studies, means, strict=True)
            for row in [first[study]]
        }

    def study_probabilities(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean probabilities and labels of the studies, float64 `[n]` and int64 `[n]`."""
        means, labels, _, _ = zip(*self.by_study().values(), strict=True)
        return np.asarray(means, np.float64), np.asarray(labels, np.int64)

    def with_probabilities(self, probabilities: np.ndarray) -> "SplitPredictions":
        """The same views with other probabilities `[n]`."""
        return replace(self, probabilities=probabilities)

    def study_metrics(self, threshold: float = 0.5) -> dict[str, float | int | None]:
        """`classification_metrics` of the studies."""
        means, labels = self.study_probabilities()
        return classification_metrics(labels, means, threshold)


def predict_views(
    model: nn.Module,
    views: ViewDataset,
    accelerator: Accelerator,
    *,
    batch_size: int = 32,
    progress: str | None = None,
) -> SplitPredictions:
    """Runs a model over every view of a split, on all processes.

    Args:
        model: `MuraForImageClassification`, prepared or not.
        views: The split, without augmentation.
        accelerator: Gathers the processes' answers.
        batch_size: Views a step and process.
        progress: Text of the progress bar; none where None.
    """
    loader = accelerator.prepare_data_loader(DataLoader(views, batch_size=batch_size))
    was_training = model.training
    model.eval()
    collected: dict[str, list[np.ndarray]] = {"index": [], "margin": [], "part": []}
    with torch.inference_mode():
        for batch in tqdm(
            loader, desc=progress, disable=progress is None or not accelerator.is_main_process, leave=False
        ):
            output = model(pixel_values=batch["pixel_values"])
            margins = output.logits.float()
            found = {"index": batch["index"], "margin": (margins[:, 1] - margins[:, 0]).contiguous()}
            if output.body_part_logits is not None:
                found["part"] = output.body_part_logits.argmax(-1)
            for name, values in accelerator.gather_for_metrics(found).items():
                collected[name].append(values.cpu().numpy())
    model.train(was_training)
    order = np.argsort(np.concatenate(collected["index"]))
    rows = views.rows
    return SplitPredictions(
        probabilities=expit(np.concatenate(collected["margin"]).astype(np.float64))[order],
        labels=np.asarray(rows["label"]),
        study_ids=list(rows["study_id"]),
        patient_ids=list(rows["patient_id"]),
        body_parts=np.asarray([UNKNOWN_PART if part is None else part for part in rows["body_part"]]),
        found_parts=np.concatenate(collected["part"])[order] if collected["part"] else None,
    )
