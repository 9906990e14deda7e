"""The loss of a step."""

from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset
from torch.nn import functional

from ..data import UNKNOWN_PART
from ..errors import DatasetError
from ..losses import class_weights, region_loss, weighted_cross_entropy
from ..models import BODY_PARTS
from .mixing import SHARE, partners
from .recipe import Recipe

UNKNOWN_FINDING = -1


@dataclass(frozen=True)
class Truth:
    """What a recipe's losses need to know of train besides the batch.

    Attributes:
        weights: float32 `[2]` of normal and abnormal; None where they weigh the same.
        findings: int64 `[n]`, by row of train (by study at study level): the type of finding as an index into the
            recipe's `finding_types`, `UNKNOWN_FINDING` where there is none or it is none of them; None where not used.
    """

    weights: torch.Tensor | None
    findings: torch.Tensor | None


def read_truth(recipe: Recipe, rows: Dataset, device: torch.device) -> Truth:
    """Class weights from the shares of train, and types of findings where the recipe trains that head.

    Raises:
        DatasetError: If the data do not know the types that the recipe names.
        ValueError: If a class is missing, and classes are to be weighted.
    """
    first = list(range(len(rows)))
    findings = rows["finding"] if recipe.finding_weight and "finding" in rows.column_names else None
    if recipe.level == "study":
        numbers: dict[str, int] = {}
        for row, study in enumerate(rows["study_id"]):
            numbers.setdefault(study, row)
        first = list(numbers.values())
    labels = rows["label"]
    weights = (
        class_weights(torch.tensor([labels[row] for row in first])).to(device) if recipe.class_weighting else None
    )
    if not recipe.finding_weight:
        return Truth(weights, None)
    types = {kind: number for number, kind in enumerate(recipe.model["finding_types"])}
    if findings is None or not set(findings) & set(types):
        known = sorted({str(kind) for kind in findings or [] if kind}) or ["none"]
        raise DatasetError(
            f"the recipe trains a head for the types {', '.join(types)}, and the data know {', '.join(known)}; set "
            "finding_weight to 0, or finding_types to what the data know"
        )
    return Truth(weights, torch.tensor([types.get(findings[row], UNKNOWN_FINDING) for row in first]).to(device))


def batch_loss(
    output: Any,
    batch: dict[str, torch.Tensor],
    recipe: Recipe,
    truth: Truth,
    *,
    trains: str,
    metric: Any | None,
    accelerator: Accelerator,
    model: torch.nn.Module,
) -> torch.Tensor:
    """The loss of a batch: class-weighted cross entropy, and what the recipe adds to it.

    Args:
        output: Of the model: of views, or of studies at study level.
        batch: As the loader gives it, or as `mix_batch` made it; then what the labels cost is mixed as the views are.
        recipe: As it holds in the stage.
        truth: Of `read_truth`.
        trains: The model's stage; "embedding" takes the loss on embeddings alone, "classifier" leaves it out.
        metric: Loss on embeddings: `(embeddings [B, E], classes [B])` to a scalar; None without one.
        accelerator: Whose autocast holds.
        model: Bare; gives the class activation map.

    Returns:
        Scalar.
    """
    if metric is not None and trains == "embedding":
        return metric(output.embeddings, _classes(recipe, batch))
    loss = _label_loss(output, batch, recipe, truth)
    if SHARE in batch:
        share = batch[SHARE]
        loss = share * loss + (1 - share) * _label_loss(output, partners(batch), recipe, truth)
    if recipe.region_weight:
        with accelerator.autocast():
            scores = model.score_map(output.feature_map)  # type: ignore[operator]
        loss = loss + recipe.region_weight * region_loss(scores, batch["regions"], batch["regions_known"])
    if metric is not None and trains != "classifier":
        loss = loss + recipe.metric_weight * metric(output.embeddings, _classes(recipe, batch))
    return loss


def _label_loss(output: Any, batch: dict[str, torch.Tensor], recipe: Recipe, truth: Truth) -> torch.Tensor:
    """What the heads cost by the labels of a batch."""
    logits = answer(output)
    loss = weighted_cross_entropy(logits, batch["labels"], truth.weights, label_smoothing=recipe.label_smoothing)
    if output.body_part_logits is not None:
        loss = loss + recipe.body_part_weight * _known_loss(output.body_part_logits, batch["body_parts"])
    if truth.findings is not None:
        loss = loss + recipe.finding_weight * _known_loss(output.finding_logits, truth.findings[batch["index"]])
    return loss


def answer(output: Any) -> torch.Tensor:
    """Logits of normal and abnormal `[B, 2]`: a study's where the output is of studies, else a view's."""
    return output.study_logits if hasattr(output, "study_logits") else output.logits


def _classes(recipe: Recipe, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """What makes rows alike, int64 `[B]`."""
    if recipe.classes_over == "label":
        return batch["labels"]
    return batch["labels"] * (len(BODY_PARTS) + 1) + batch["body_parts"] - UNKNOWN_PART


def _known_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy over what is known; 0 with a gradient where nothing is."""
    assert UNKNOWN_PART == UNKNOWN_FINDING
    summed = functional.cross_entropy(logits.float(), targets, ignore_index=UNKNOWN_PART, reduction="sum")
    return summed / (targets != UNKNOWN_PART).sum().clamp_min(1)
