"""The loss of a batch: targets, mixing of views, and the sum of all losses of a config."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset
from torch.nn import functional

from ..common import BODY_PARTS
from ..data import UNKNOWN_PART
from ..data.views import group_studies
from ..errors import DatasetError
from ..losses import class_weights, region_loss, weighted_cross_entropy
from .arguments import TrainingConfig

UNKNOWN_FINDING = -1
"""Target of rows without a finding type; ignored by the loss."""

SHARE = "share"
"""Key of a mixed batch: scalar, the share of a view's own pixels; the rest is its partner's."""

_PAIRED = ("labels", "body_parts", "index")


@dataclass(frozen=True)
class Targets:
    """What the losses need from train besides the batch."""

    weights: torch.Tensor | None  # float32 `[2]`, weights of normal and abnormal; None for equal weights
    # int64 `[n]`, finding type of each row of train (study, at study level) as an index into `finding_types` of
    # the model, `UNKNOWN_FINDING` for others; None without that head
    findings: torch.Tensor | None


def read_targets(config: TrainingConfig, rows: Dataset, device: torch.device) -> Targets:
    """Computes class weights from the class frequencies of train, and reads finding types if their head is trained.

    Raises:
        DatasetError: If the data have none of the finding types of the config.
        ValueError: If a class is missing and classes are weighted.
    """
    labels, first = rows["label"], list(range(len(rows)))
    if config.data.level == "study":
        first = [members[0] for members in group_studies(rows["study_id"]).values()]
    weights = None
    if config.training.class_weighting:
        weights = class_weights(torch.tensor([labels[row] for row in first])).to(device)
    if not config.training.finding_weight:
        return Targets(weights, None)
    findings = rows["finding"] if "finding" in rows.column_names else []
    types = {kind: number for number, kind in enumerate(config.model.model_kwargs["finding_types"])}
    if not set(findings) & set(types):
        known = sorted({str(kind) for kind in findings if kind}) or ["none"]
        raise DatasetError(
            f"the config trains a head for the finding types {', '.join(types)}, but the data have "
            f"{', '.join(known)}; set finding_weight to 0, or finding_types to those of the data"
        )
    return Targets(weights, torch.tensor([types.get(findings[row], UNKNOWN_FINDING) for row in first]).to(device))


def batch_loss(
    output: Any,
    batch: dict[str, torch.Tensor],
    config: TrainingConfig,
    targets: Targets,
    *,
    trains: str,
    metric_loss: Any | None,
    accelerator: Accelerator,
    model: torch.nn.Module,
) -> torch.Tensor:
    """The loss of a batch, a scalar: class-weighted cross entropy, and further losses of the config.

    Args:
        output: Output of the model, for views or for studies.
        batch: A batch of the loader, or of `mix_batch`; in that case the losses of labels are mixed likewise.
        config: Config of the stage.
        targets: From `read_targets`.
        trains: Stage of the model; "embedding" has the loss on embeddings only, "classifier" does not have it.
        metric_loss: Loss on embeddings, `(embeddings [B, E], classes [B])` to a scalar, or None.
        accelerator: Its autocast is used.
        model: The unwrapped model, which computes the class activation map.
    """
    if metric_loss is not None and trains == "embedding":
        return metric_loss(output.embeddings, _metric_classes(config, batch))
    loss = _label_loss(output, batch, config, targets)
    if SHARE in batch:
        share = batch[SHARE]
        loss = share * loss + (1 - share) * _label_loss(output, _partners(batch), config, targets)
    if config.training.region_weight:
        with accelerator.autocast():
            scores = model.score_map(output.feature_map)  # type: ignore[operator]
        loss = loss + config.training.region_weight * region_loss(scores, batch["regions"], batch["regions_known"])
    if metric_loss is not None and trains != "classifier":
        loss = loss + config.training.metric_weight * metric_loss(output.embeddings, _metric_classes(config, batch))
    return loss


def class_logits(output: Any) -> torch.Tensor:
    """Logits of normal and abnormal `[B, 2]`: of studies if the output is for studies, else of views."""
    return output.study_logits if hasattr(output, "study_logits") else output.logits


def _label_loss(output: Any, batch: dict[str, torch.Tensor], config: TrainingConfig, targets: Targets) -> torch.Tensor:
    training, logits = config.training, class_logits(output)
    loss = weighted_cross_entropy(logits, batch["labels"], targets.weights, label_smoothing=training.label_smoothing)
    if output.body_part_logits is not None:
        loss = loss + training.body_part_weight * _known_loss(output.body_part_logits, batch["body_parts"])
    if targets.findings is not None:
        findings = targets.findings[batch["index"]]
        loss = loss + training.finding_weight * _known_loss(output.finding_logits, findings)
    return loss


def _metric_classes(config: TrainingConfig, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Classes of the loss on embeddings, int64 `[B]`."""
    if config.data.classes_over == "label":
        return batch["labels"]
    return batch["labels"] * (len(BODY_PARTS) + 1) + batch["body_parts"] - UNKNOWN_PART


def _known_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy over known targets; 0 with a gradient if none is known."""
    assert UNKNOWN_PART == UNKNOWN_FINDING
    summed = functional.cross_entropy(logits.float(), targets, ignore_index=UNKNOWN_PART, reduction="sum")
    return summed / (targets != UNKNOWN_PART).sum().clamp_min(1)


def draw_share(config: TrainingConfig, position: Sequence[int]) -> float:
    """Draws the share of a view itself, in [0, 1], in the mixed views of a batch.

    Args:
        config: Config with `mixup` above 0.
        position: Numbers that identify the batch in the run, such as step, batch and process. Together with the seed
            they determine the draw, so that a resumed run mixes as one that was not interrupted.
    """
    rng = np.random.default_rng([config.training.seed, *position, 2])
    rng.random(3)  # of a method of former versions
    return float(rng.beta(config.training.mixup, config.training.mixup))


def mix_batch(
    batch: dict[str, torch.Tensor], config: TrainingConfig, position: Sequence[int]
) -> dict[str, torch.Tensor]:
    """Mixes the views of a batch in pairs: the first with the last, the second with the last but one, and so on.

    Source: Zhang et al., "mixup: Beyond empirical risk minimization", arXiv 1710.09412. As in timm's `Mixup` in batch
    mode, a batch has one share.

    Args:
        batch: Batch of a loader, with `pixel_values` `[B, C, H, W]`.
        config: See `mixup`.
        position: See `draw_share`.

    Returns:
        The batch itself if nothing is mixed, else a batch with mixed `pixel_values` and `SHARE`. Labels are those of
        the views themselves.
    """
    if not config.training.mixup:
        return batch
    views, share = batch["pixel_values"], draw_share(config, position)
    mixed = views.flip(0).lerp(views, share)
    return {**batch, "pixel_values": mixed, SHARE: torch.tensor(share, device=views.device)}


def _partners(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The batch with labels and rows of each view's partner."""
    return {**batch, **{name: batch[name].flip(0) for name in _PAIRED}}
