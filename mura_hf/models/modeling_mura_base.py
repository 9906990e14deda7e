"""What the models give back.

Base of all models: strict loading from safetensors, and what every one that classifies can do.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import ModelOutput

from .backbone_mura import keep_frozen_norms_still
from .configuration_mura import CheckpointError, MuraBaseConfig
from .heads_mura import MuraHead, MuraHeadNorm, check_view_mask, place_views, pool_views


@dataclass
class MuraModelOutput(ModelOutput):
    """Output of `MuraModel`.

    Attributes:
        last_hidden_state: The feature map `[B, D, h, w]` that is pooled (`[B, N, D]` tokens for networks without one).
        pooler_output: The pooled code `[B, D']`.
    """

    last_hidden_state: torch.Tensor = None  # type: ignore[assignment]
    pooler_output: torch.Tensor = None  # type: ignore[assignment]


@dataclass
class MuraImageClassifierOutput(ModelOutput):
    """Output of every model that classifies, for views.

    Attributes:
        loss: Scalar, where labels were given.
        logits: `[B, 2]` for normal and abnormal, divided by the temperature.
        body_part_logits: `[B, 7]`, where the checkpoint has that head.
        finding_logits: `[B, F]`, types of finding given that there is one, where the checkpoint has that head.
        feature_map: As `MuraModelOutput.last_hidden_state`; None where several backbones are at work.
        pooler_output: The pooled code `[B, D']`; None likewise.
        mirrored_feature_map: Of the views' mirror images, mirrored back, where the config has `test_time_flip`. Then
            the other fields but `feature_map` are means over both.
        layer_outputs: Of networks on tokens, where the answer is to be explained: what the layer gave that heatmaps
            are read from, and for mirror images after that; leaves of the graph of `logits`.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor = None  # type: ignore[assignment]
    body_part_logits: torch.Tensor | None = None
    finding_logits: torch.Tensor | None = None
    feature_map: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    mirrored_feature_map: torch.Tensor | None = None
    layer_outputs: tuple[torch.Tensor, ...] | None = None

    def mean_with(self, mirrored: Any) -> Any:
        """The mean of this output and of that for the views' mirror images; what has places stays apart."""
        apart = ("feature_map", "mirrored_feature_map", "layer_outputs")
        graph = self.layer_outputs is not None  # which must not end here
        with (
            torch.inference_mode(torch.is_inference_mode_enabled() and not graph),
            torch.set_grad_enabled(torch.is_grad_enabled() or graph),
        ):
            means = {name: (value + mirrored[name]) / 2 for name, value in self.items() if name not in apart}
        other = mirrored.feature_map
        back = other.flip(-1) if other is not None and other.ndim == 4 else None  # tokens have no left and right
        return type(self)(
            **means,
            feature_map=self.feature_map,
            mirrored_feature_map=back,
            layer_outputs=self.layer_outputs and self.layer_outputs + mirrored.layer_outputs,
        )


@dataclass
class StudyOutput(ModelOutput):
    """Output of every model that classifies, for studies; padded views hold zeros.

    Attributes:
        loss: Scalar, where labels were given.
        study_logits: `[B, 2]`, log-probabilities of normal and abnormal after study calibration.
        pooled_logit: `[B]`, log-odds of abnormal before study calibration.
        view_logits: `[B, V, 2]`.
        single_view_logit: `[B, V]`, log-odds of abnormal, calibrated, of a study that has this view alone.
        view_weights: `[B, V]`, each view's share in the study's answer; a study's shares sum to 1.
        body_part_logits: `[B, 7]`, log of the views' mean probability of each part, where the checkpoint has that
            head.
        finding_logits: `[B, F]`, log of the views' mean probability of each type of finding, weighted as the views
            are, where the checkpoint has that head.
        feature_map: `[B, V, ...]`, each view's feature map; None where several backbones are at work.
        pooler_output: `[B, V, D']`, each view's pooled code; None likewise.
        views: What was found for the true views, one after the other.
    """

    loss: torch.Tensor | None = None
    study_logits: torch.Tensor = None  # type: ignore[assignment]
    pooled_logit: torch.Tensor = None  # type: ignore[assignment]
    view_logits: torch.Tensor = None  # type: ignore[assignment]
    single_view_logit: torch.Tensor = None  # type: ignore[assignment]
    view_weights: torch.Tensor = None  # type: ignore[assignment]
    body_part_logits: torch.Tensor | None = None
    finding_logits: torch.Tensor | None = None
    feature_map: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    views: MuraImageClassifierOutput | None = None


class Explained(NamedTuple):
    """A feature map that an answer rests on, for heatmaps.

    Attributes:
        feature_map: `[n, D, h, w]`.
        score: From such a map to what is explained, z_abnormal - z_normal `[n]`, all else held.
        rows: int64 `[n]`, the views that it is about, as places in the batch; all of them where None.
        boxes: float `[n, 4]`, left, top, right and bottom of what the map shows, in shares of the picture's sides; the
            whole picture where None.
        weight: Share of this map in the heatmap.
        channel_weights: `[D]`, where the score is the map's mean over its places, weighted with them, and a constant;
            None where it is not so simple.
    """

    feature_map: torch.Tensor
    score: Callable[[torch.Tensor], torch.Tensor]
    rows: torch.Tensor | None = None
    boxes: torch.Tensor | None = None
    weight: float = 1.0
    channel_weights: torch.Tensor | None = None


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
            single_view_logit=self.adjust(view_logits[..., 1] - view_logits[..., 0]) * mask,
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


__all__ = [
    "Explained",
    "MuraClassifier",
    "MuraImageClassifierOutput",
    "MuraModelOutput",
    "MuraPreTrainedModel",
    "StudyOutput",
]
