"""Base of all models: strict loading from safetensors, and what every one that classifies can do."""

import re
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from .configuration_mura_base import MuraBaseConfig
from .errors_mura import CheckpointError
from .freezing_mura import keep_frozen_norms_still
from .heads_mura import MuraHead, MuraHeadNorm
from .outputs_mura import Explained, MuraImageClassifierOutput, StudyOutput
from .pooling_mura import check_view_mask, place_views, pool_views

_HEADS = re.compile(r"(^|\.)(classifier|body_part_classifier|finding_classifier|attention|embedding)\.")


class MuraPreTrainedModel(PreTrainedModel):
    """Base of all models: strict loading from safetensors."""

    config: MuraBaseConfig
    config_class = MuraBaseConfig
    base_model_prefix = "mura"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _no_split_modules = ["MuraModel"]
    accepts_loss_kwargs = False  # transformers' Trainer would hand over a number of items that no loss here divides by

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # timm initialises its own layers well when it builds them, so only our heads are set here. Buffers that no
        # checkpoint stores come back empty from the meta device and must be computed again.
        if isinstance(module, MuraHead | MuraHeadNorm):
            module.start()
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()  # type: ignore[operator]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        """Loads a checkpoint; every weight must be there, and none left over.

        Takes the arguments of `PreTrainedModel.from_pretrained`. With `ignore_mismatched_sizes=True` the heads may be
        missing, left over or of another shape; they start anew.

        Raises:
            CheckpointError: If keys are missing, left over or of another shape, or there is no safetensors file.
        """
        if kwargs.get("use_safetensors") is False:
            raise CheckpointError(
                f"{pretrained_model_name_or_path}: mura checkpoints are loaded from safetensors files only"
            )
        kwargs["use_safetensors"] = True
        wants_info = kwargs.pop("output_loading_info", False)
        tolerant = kwargs.get("ignore_mismatched_sizes", False)
        try:
            model, info = super().from_pretrained(
                pretrained_model_name_or_path, *model_args, output_loading_info=True, **kwargs
            )
        except RuntimeError as error:
            if "size mismatch" not in str(error) and "mismatched" not in str(error):
                raise
            raise CheckpointError(f"{pretrained_model_name_or_path} does not fit {cls.__name__}: {error}") from error
        wrong = {
            what: sorted(key if isinstance(key, str) else key[0] for key in info[f"{what}_keys"])
            for what in ("missing", "unexpected", "mismatched")
        }
        if tolerant:  # only our heads can start anew: nothing initialises a backbone's weight that is not loaded
            wrong = {what: [key for key in keys if not _HEADS.search(key)] for what, keys in wrong.items()}
        if any(wrong.values()):
            told = "; ".join(
                f"{what}: {', '.join(keys[:4])}" + ", ..." * (len(keys) > 4) for what, keys in wrong.items() if keys
            )
            raise CheckpointError(
                f"{pretrained_model_name_or_path} does not fit {cls.__name__} with its config ({told}). "
                "Use the class and config that it was saved with; heads alone may start anew, with "
                "ignore_mismatched_sizes=True."
            )
        return (model, info) if wants_info else model

    def train(self, mode: bool = True) -> Any:
        """Sets training mode; batch norms whose parameters are frozen keep their statistics, and so stay in evaluation
        mode.
        """
        super().train(mode)
        if mode:
            keep_frozen_norms_still(self)
        return self


class MuraClassifier(MuraPreTrainedModel):
    """What every model that classifies can do: views in, or studies in.

    Attributes:
        STAGES: Names of the ways it can be trained.
        stage: The one that it is in; see `start_stage`.
        NEEDS_PART: Whether it may need to be told the body part in order to answer.
    """

    STAGES: tuple[str, ...] = ("all",)
    NEEDS_PART = False
    stage = "all"

    def __init__(self, config: MuraBaseConfig) -> None:
        if config.model_type != self.config_class.model_type:
            raise CheckpointError(
                f"a checkpoint of type {config.model_type!r} is none for {type(self).__name__}, whose type is "
                f"{self.config_class.model_type!r}; load it with AutoModelForImageClassification, which takes the "
                "class that it was saved with"
            )
        super().__init__(config)

    def post_init(self) -> None:
        """Ends the building of a model; see `PreTrainedModel.post_init`."""
        super().post_init()
        # A backbone alone leaves heads aside when it is loaded, and transformers would hand that on to what holds it.
        self._keys_to_ignore_on_load_unexpected: set[str] = set()

    def classify_views(
        self, pixel_values: torch.Tensor, explainable: bool = False, **given: Any
    ) -> MuraImageClassifierOutput:
        """Logits of views `[B, C, H, W]`, without a loss.

        Args:
            pixel_values: float `[B, C, H, W]`.
            explainable: Whether the output is to go to `explain`. Networks on tokens then keep the graph behind the
                layer that heatmaps are read from; to others it makes no difference.
            **given: Body parts, for models that need to be told.
        """
        raise NotImplementedError

    def code_logits(self, code: torch.Tensor) -> torch.Tensor:
        """Logits `[B, 2]` of pooled codes `[B, D']`."""
        raise NotImplementedError

    def explain(self, output: MuraImageClassifierOutput) -> list[Explained]:
        """The feature maps that an output of `classify_views` rests on.

        Raises:
            CheckpointError: If there is no feature map.
        """
        raise NotImplementedError

    def start_stage(self, name: str) -> None:
        """Chooses what is trained from now on, and what `logits` mean; not saved with the weights.

        Raises:
            ValueError: If the model has no such stage.
        """
        if name not in self.STAGES:
            raise ValueError(f"{type(self).__name__} has no stage {name!r}; there are {', '.join(self.STAGES)}")
        self.stage = name

    def forward(
        self,
        pixel_values: torch.Tensor,
        view_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        body_parts: torch.Tensor | None = None,
        findings: torch.Tensor | None = None,
        explainable: bool = False,
        **kwargs: Any,
    ) -> MuraImageClassifierOutput | StudyOutput:
        """Classifies views, or whole studies.

        Args:
            pixel_values: float `[B, C, H, W]` for views, `[B, V, C, H, W]` for studies.
            view_mask: For studies: bool `[B, V]`, False for padding; all True where not given.
            labels: int64 `[B]`, 0 normal and 1 abnormal; then `loss` is their cross entropy.
            body_parts: int64 `[B]`, indices into `BODY_PARTS`, -1 where not known; their cross entropy is added to the
                loss.
            findings: int64 `[B]`, indices into the config's `finding_types`, -1 where there is none or it is not
                known; their cross entropy is added to the loss.
            explainable: Whether what is found for views is to go to `explain`; see `classify_views`.
            **kwargs: Not used.

        Returns:
            `MuraImageClassifierOutput` for views, `StudyOutput` for studies.

        Raises:
            ValueError: If body parts or findings are given to a model without that head, a study has no view, or the
                shapes do not belong together.
        """
        given: dict[str, Any] = {"explainable": explainable} if explainable else {}
        if self.NEEDS_PART:
            given["body_parts"] = body_parts
        if pixel_values.ndim != 5:
            output: Any = self.classify_views(pixel_values, **given)
            logits = output.logits
        else:
            output = self.classify_studies(pixel_values, view_mask, **given)
            logits = output.study_logits
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        if not self.NEEDS_PART or output.body_part_logits is not None:
            loss = _add_loss(loss, output.body_part_logits, body_parts, "body-part head; set body_part_head=True")
        output.loss = _add_loss(loss, output.finding_logits, findings, "finding head; set finding_types")
        return output

    def classify_studies(
        self, pixel_values: torch.Tensor, view_mask: torch.Tensor | None = None, **given: Any
    ) -> StudyOutput:
        """Answers for studies `[B, V, C, H, W]`, without a loss: pools the views as the config says."""
        mask = check_view_mask(pixel_values, view_mask)
        output = self.classify_views(pixel_values[mask], **given)
        view_logits = place_views(output.logits, mask)
        codes = None if output.pooler_output is None else place_views(output.pooler_output, mask)
        pooled, weights = self.pool(view_logits, codes, mask)
        return StudyOutput(
            study_logits=self.calibrate(pooled),
            pooled_logit=pooled,
            view_logits=view_logits,
            alone_logit=self.adjust(view_logits[..., 1] - view_logits[..., 0]) * mask,
            view_weights=weights,
            body_part_logits=_mean_log(output.body_part_logits, mask, mask / mask.sum(1, keepdim=True)),
            finding_logits=_mean_log(output.finding_logits, mask, weights),
            feature_map=None if output.feature_map is None else place_views(output.feature_map, mask),
            pooler_output=codes,
            views=output,
        )

    def pool(
        self, view_logits: torch.Tensor, codes: torch.Tensor | None, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-odds of studies `[B]` before calibration, and weights of views `[B, V]`; from logits `[B, V, 2]` and
        codes `[B, V, D']`.
        """
        return pool_views(view_logits, mask, getattr(self.config, "study_pooling", "mean"))

    def calibrate(self, pooled_logit: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of normal and abnormal `[B, 2]`: `sigmoid(study_slope * logit(p) + study_intercept)`."""
        logit = self.adjust(pooled_logit)
        return torch.stack([nn.functional.logsigmoid(-logit), nn.functional.logsigmoid(logit)], dim=1)

    def adjust(self, logit: torch.Tensor) -> torch.Tensor:
        """Log-odds of studies after calibration, of any shape."""
        return self.config.study_slope * logit + self.config.study_intercept


def _mean_log(logits: torch.Tensor | None, mask: torch.Tensor, weights: torch.Tensor) -> torch.Tensor | None:
    """Log of the weighted mean of the views' probabilities `[B, K]`; None without logits."""
    if logits is None:
        return None
    log_weights = weights.to(logits.dtype).log()[..., None]
    return torch.logsumexp(place_views(logits, mask).log_softmax(-1) + log_weights, dim=1)


def _add_loss(
    loss: torch.Tensor | None, logits: torch.Tensor | None, targets: torch.Tensor | None, head: str
) -> torch.Tensor | None:
    """Adds the mean cross entropy of the targets that are known (not negative)."""
    if targets is None:
        return loss
    if logits is None:
        raise ValueError(
            f"{'body_parts' if 'body' in head else 'findings'} were given, but the model has no {head} in its config"
        )
    summed = nn.functional.cross_entropy(logits, targets, ignore_index=-1, reduction="sum")
    added = summed / (targets >= 0).sum().clamp_min(1)
    return added if loss is None else loss + added


__all__ = ["MuraClassifier", "MuraPreTrainedModel"]
