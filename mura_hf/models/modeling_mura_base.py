"""Base of all models: outputs, strict loading from safetensors, and the classification of views and studies."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import ModelOutput

from .backbone_mura import freeze_norm_statistics
from .configuration_mura import CheckpointError, MuraBaseConfig
from .heads_mura import (
    MuraHead,
    MuraHeadNorm,
    check_view_mask,
    mean_log_probabilities,
    pool_codes,
    pool_views,
    scatter_views,
)


@dataclass
class MuraModelOutput(ModelOutput):
    """Output of `MuraModel`.

    Attributes:
        last_hidden_state: The feature map `[B, D, h, w]` that is pooled (`[B, N, D]` for networks on tokens).
        pooler_output: The pooled code `[B, D']`.
        hidden_states: Feature maps of all stages of the backbone `[B, D, h, w]`, with `output_hidden_states`.
    """

    last_hidden_state: torch.Tensor = None  # type: ignore[assignment]
    pooler_output: torch.Tensor = None  # type: ignore[assignment]
    hidden_states: tuple[torch.Tensor, ...] | None = None


@dataclass
class MuraImageClassifierOutput(ModelOutput):
    """Output of a classifier for single views.

    Attributes:
        loss: Scalar, if labels were given.
        logits: `[B, 2]` for normal and abnormal, divided by the temperature.
        body_part_logits: `[B, 7]`, if the checkpoint has this head.
        finding_logits: `[B, F]` for the type of a finding, given that there is one, if the checkpoint has this head.
        region_logits: `[B, R]` for the `regions` of the config, if the checkpoint has this head.
        feature_map: As `MuraModelOutput.last_hidden_state`; None for models with several backbones.
        pooler_output: The pooled code `[B, D']`; None for models with several backbones.
        mirrored_feature_map: Feature map of the mirrored views, mirrored back, with `test_time_flip`. The other
            fields, except `feature_map`, are then means over both.
        layer_outputs: For networks on tokens, if `explainable`: output of the layer that heatmaps are computed from,
            then that for the mirrored views. They are leaves of the graph of `logits`.
        embeddings: `[B, E]`, not normalized, of models for metric learning.
        hidden_states: As in `MuraModelOutput`; those of all backbones, one after the other.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor = None  # type: ignore[assignment]
    body_part_logits: torch.Tensor | None = None
    finding_logits: torch.Tensor | None = None
    region_logits: torch.Tensor | None = None
    feature_map: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    mirrored_feature_map: torch.Tensor | None = None
    layer_outputs: tuple[torch.Tensor, ...] | None = None
    embeddings: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None

    def mean_with(self, mirrored: Any) -> Any:
        """Averages this output with that of the mirrored views; spatial fields are kept side by side."""
        spatial = ("feature_map", "mirrored_feature_map", "layer_outputs")
        keep_graph = self.layer_outputs is not None
        with (
            torch.inference_mode(torch.is_inference_mode_enabled() and not keep_graph),
            torch.set_grad_enabled(torch.is_grad_enabled() or keep_graph),
        ):
            means = {name: (value + mirrored[name]) / 2 for name, value in self.items() if name not in spatial}
        other = mirrored.feature_map
        return type(self)(
            **means,
            feature_map=self.feature_map,
            # Tokens have no left and right.
            mirrored_feature_map=other.flip(-1) if other is not None and other.ndim == 4 else None,
            layer_outputs=self.layer_outputs and self.layer_outputs + mirrored.layer_outputs,
        )


@dataclass
class StudyOutput(ModelOutput):
    """Output of a classifier for studies. Values of padded views are zero.

    Attributes:
        loss: Scalar, if labels were given.
        study_logits: `[B, 2]`, log-probabilities of normal and abnormal after study calibration.
        pooled_logit: `[B]`, log-odds of abnormal before study calibration.
        view_logits: `[B, V, 2]`.
        single_view_logit: `[B, V]`, calibrated log-odds of abnormal of a study that has only this view.
        view_weights: `[B, V]`, share of each view in the result of its study; shares sum to 1.
        body_part_logits: `[B, 7]`, log of the mean probability over the views, if the checkpoint has this head.
        finding_logits: `[B, F]`, as `body_part_logits`, but weighted with `view_weights`.
        region_logits: `[B, R]`, as `body_part_logits`.
        feature_map: `[B, V, ...]`; None for models with several backbones.
        pooler_output: `[B, V, D']`; None for models with several backbones.
        views: Output for the unpadded views, concatenated.
        hidden_states: As in `MuraImageClassifierOutput`, each `[B, V, ...]`.
    """

    loss: torch.Tensor | None = None
    study_logits: torch.Tensor = None  # type: ignore[assignment]
    pooled_logit: torch.Tensor = None  # type: ignore[assignment]
    view_logits: torch.Tensor = None  # type: ignore[assignment]
    single_view_logit: torch.Tensor = None  # type: ignore[assignment]
    view_weights: torch.Tensor = None  # type: ignore[assignment]
    body_part_logits: torch.Tensor | None = None
    finding_logits: torch.Tensor | None = None
    region_logits: torch.Tensor | None = None
    feature_map: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    views: MuraImageClassifierOutput | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


class ExplainedMap(NamedTuple):
    """A feature map and how the result depends on it, for heatmaps.

    Attributes:
        feature_map: `[n, D, h, w]`.
        score: Function from such a map to z_abnormal - z_normal, `[n]`, with everything else held constant.
        rows: int64 `[n]`, positions of the views in the batch; None for all views.
        boxes: float `[n, 4]`, left, top, right and bottom of the area that the map covers, as fractions of the image
            sides; None for the whole image.
        weight: Weight of this map in the heatmap.
        channel_weights: `[D]`, if the score is a constant plus the spatial mean of the map weighted with these; None
            otherwise.
    """

    feature_map: torch.Tensor
    score: Callable[[torch.Tensor], torch.Tensor]
    rows: torch.Tensor | None = None
    boxes: torch.Tensor | None = None
    weight: float = 1.0
    channel_weights: torch.Tensor | None = None


# Names of modules, as a pattern.
HEAD_PATTERN = "(classifier|body_part_classifier|finding_classifier|region_classifier|attention|embedding)"


class MuraPreTrainedModel(PreTrainedModel):
    """Base of all models, with strict loading from safetensors."""

    config: MuraBaseConfig
    config_class = MuraBaseConfig
    base_model_prefix = "mura"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _no_split_modules = ["MuraModel"]
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # Trainer would pass a number of items, which the losses here do not divide by

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # timm initializes its own layers when it builds them. Buffers that no checkpoint stores come back empty from
        # the meta device and must be computed again.
        if isinstance(module, MuraHead | MuraHeadNorm):
            module.initialize()
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()  # type: ignore[operator]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        """Loads a checkpoint. All weights must be present, and none may be left over.

        Takes the arguments of `PreTrainedModel.from_pretrained`. With `ignore_mismatched_sizes=True`, heads may be
        missing, left over or of another shape; they are initialized again.

        Raises:
            CheckpointError: If weights are missing, left over or of another shape, or there is no safetensors file.
        """
        name = pretrained_model_name_or_path
        if kwargs.get("use_safetensors") is False:
            raise CheckpointError(f"{name}: mura checkpoints are loaded from safetensors files only")
        wants_info = kwargs.pop("output_loading_info", False)
        kwargs |= {"use_safetensors": True, "output_loading_info": True}
        try:
            model, info = super().from_pretrained(name, *model_args, **kwargs)
        except RuntimeError as error:
            if "size mismatch" not in str(error) and "mismatched" not in str(error):
                raise
            raise CheckpointError(f"{name} does not fit {cls.__name__}: {error}") from error
        wrong = []
        for what in ("missing", "unexpected", "mismatched"):
            keys = sorted(key if isinstance(key, str) else key[0] for key in info[f"{what}_keys"])
            if kwargs.get("ignore_mismatched_sizes"):  # for heads only: nothing initializes weights of the backbone
                keys = [key for key in keys if not re.search(rf"(^|\.){HEAD_PATTERN}\.", key)]
            if keys:
                wrong.append(f"{what}: {', '.join(keys[:4])}" + ", ..." * (len(keys) > 4))
        if wrong:
            raise CheckpointError(
                f"{name} does not fit {cls.__name__} with its config ({'; '.join(wrong)}). Use the class and config "
                "that it was saved with. With ignore_mismatched_sizes=True, heads alone may be initialized again."
            )
        return (model, info) if wants_info else model

    def _set_gradient_checkpointing(self, enable: bool = True, **options: Any) -> None:
        # timm recomputes the activations of its backbones in its own way, without the options of transformers.
        for backbone in self.backbones():
            try:
                backbone.set_grad_checkpointing(enable)
            except (AttributeError, AssertionError) as error:
                raise ValueError(
                    f"backbone {type(backbone).__name__} does not support gradient checkpointing; train without it"
                ) from error

    def backbones(self) -> list[Any]:
        """Returns all backbones of the model."""
        return [module for name, module in self.named_modules() if name.split(".")[-1] == "backbone"]

    def train(self, mode: bool = True) -> Any:
        """Sets training mode. Batch norms with frozen parameters stay in evaluation mode and keep their statistics."""
        super().train(mode)
        if mode:
            freeze_norm_statistics(self)
        return self


class MuraClassifier(MuraPreTrainedModel):
    """Base of all classifiers: takes views or whole studies.

    Attributes:
        STAGES: Names of the training stages that the model has.
        stage: The current stage; see `start_stage`.
        NEEDS_PART: Whether the model may need the body part as an input.
        STUDIES_ONLY: Whether `forward` takes studies only.
    """

    STAGES: tuple[str, ...] = ("all",)
    NEEDS_PART = False
    STUDIES_ONLY = False
    stage = "all"

    def __init__(self, config: MuraBaseConfig) -> None:
        if config.model_type != self.config_class.model_type:
            raise CheckpointError(
                f"a checkpoint of type {config.model_type!r} cannot be loaded as {type(self).__name__}, whose type is "
                f"{self.config_class.model_type!r}; use AutoModelForImageClassification, which selects the class that "
                "it was saved with"
            )
        super().__init__(config)

    def post_init(self) -> None:
        """See `PreTrainedModel.post_init`."""
        super().post_init()
        # MuraModel ignores heads when it is loaded. transformers would inherit that from the inner model.
        self._keys_to_ignore_on_load_unexpected: set[str] = set()

    def classify_views(
        self, pixel_values: torch.Tensor, explainable: bool = False, **given: Any
    ) -> MuraImageClassifierOutput:
        """Computes logits of views `[B, C, H, W]`, without a loss.

        With `explainable`, the output can be passed to `explain`: networks on tokens then keep the graph from the
        layer that heatmaps are computed from. `given` holds `body_parts` for models that need them, and a list
        `hidden_states` if the feature maps of all stages are to be appended to it.
        """
        raise NotImplementedError

    def code_logits(self, code: torch.Tensor) -> torch.Tensor:
        """Returns logits `[B, 2]` of pooled codes `[B, D']`."""
        raise NotImplementedError

    def explain(self, output: MuraImageClassifierOutput) -> list[ExplainedMap]:
        """Returns the feature maps that an output of `classify_views` depends on.

        Raises:
            CheckpointError: If there is no feature map.
        """
        raise NotImplementedError

    def start_stage(self, name: str) -> None:
        """Selects which parameters are trained and what `logits` are. The stage is not saved with the weights.

        Raises:
            ValueError: If the model has no such stage.
        """
        if name not in self.STAGES:
            raise ValueError(f"{type(self).__name__} has no stage {name!r}; choose one of {', '.join(self.STAGES)}")
        self.stage = name

    def forward(
        self,
        pixel_values: torch.Tensor,
        view_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        body_parts: torch.Tensor | None = None,
        findings: torch.Tensor | None = None,
        explainable: bool = False,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> MuraImageClassifierOutput | StudyOutput | tuple[Any, ...]:
        """Classifies views or studies.

        Args:
            pixel_values: float `[B, C, H, W]` for views, `[B, V, C, H, W]` for studies.
            view_mask: For studies: bool `[B, V]`, False for padding; all True by default.
            labels: int64 `[B]`, 0 normal and 1 abnormal. If given, `loss` is the cross entropy.
            body_parts: int64 `[B]`, indices into `BODY_PARTS`, -1 if unknown; adds their cross entropy to the loss.
            findings: int64 `[B]`, indices into `finding_types`, -1 if unknown or absent; as `body_parts`.
            explainable: See `classify_views`.
            output_hidden_states: Whether to return the feature maps of all stages; as the config says by default.
            return_dict: With False, returns a tuple of loss, logits and hidden states, without those that are None.
            **kwargs: Ignored.

        Raises:
            ValueError: If body parts or findings are given without a head for them, shapes do not match, or the model
                cannot return hidden states.
        """
        given: dict[str, Any] = {"explainable": explainable} if explainable else {}
        if self.NEEDS_PART:
            given["body_parts"] = body_parts
        if self.config.output_hidden_states if output_hidden_states is None else output_hidden_states:
            if self.NEEDS_PART:
                raise ValueError("hidden states differ between body parts; ask one of the members of this model")
            given["hidden_states"] = []
        if pixel_values.ndim != 5 and not self.STUDIES_ONLY:
            output: Any = self.classify_views(pixel_values, **given)
            logits = output.logits
        else:
            output = self.classify_studies(pixel_values, view_mask, **given)
            logits = output.study_logits
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        if not self.NEEDS_PART or output.body_part_logits is not None:
            loss = _add_loss(loss, output.body_part_logits, body_parts, "body_parts", "body_part_head=True")
        output.loss = _add_loss(loss, output.finding_logits, findings, "findings", "finding_types")
        if "hidden_states" in given:
            states = given["hidden_states"]
            if isinstance(output, StudyOutput):
                mask = check_view_mask(pixel_values, view_mask)
                states = [scatter_views(values, mask) for values in states]
            output.hidden_states = tuple(states)
        if self.config.return_dict if return_dict is None else return_dict:
            return output
        return tuple(value for value in (output.loss, logits, output.hidden_states) if value is not None)

    def classify_studies(
        self, pixel_values: torch.Tensor, view_mask: torch.Tensor | None = None, **given: Any
    ) -> StudyOutput:
        """Classifies studies `[B, V, C, H, W]`, without a loss; views are pooled as the config says."""
        mask = check_view_mask(pixel_values, view_mask)
        output = self.classify_views(pixel_values[mask], **given)
        view_logits = scatter_views(output.logits, mask)
        codes = None if output.pooler_output is None else scatter_views(output.pooler_output, mask)
        pooled, weights = self.pool(view_logits, codes, mask)
        return StudyOutput(
            study_logits=self.calibrate(pooled),
            pooled_logit=pooled,
            view_logits=view_logits,
            single_view_logit=self.adjust(view_logits[..., 1] - view_logits[..., 0]) * mask,
            view_weights=weights,
            body_part_logits=mean_log_probabilities(output.body_part_logits, mask),
            finding_logits=mean_log_probabilities(output.finding_logits, mask, weights),
            region_logits=mean_log_probabilities(output.region_logits, mask),
            feature_map=None if output.feature_map is None else scatter_views(output.feature_map, mask),
            pooler_output=codes,
            views=output,
        )

    def pool(
        self, view_logits: torch.Tensor, codes: torch.Tensor | None, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Pools views with logits `[B, V, 2]` and codes `[B, V, D']`, which gated attention averages and classifies.

        Returns:
            Log-odds of the studies `[B]` before calibration, and weights of the views `[B, V]`.
        """
        attention = getattr(self, "attention", None)
        if attention is None or codes is None:
            return pool_views(view_logits, mask, getattr(self.config, "study_pooling", "mean"))
        code, weights = pool_codes(attention(codes), codes, mask)
        logits = self.code_logits(code)
        return logits[:, 1] - logits[:, 0], weights

    def calibrate(self, pooled_logit: torch.Tensor) -> torch.Tensor:
        """Returns calibrated log-probabilities of normal and abnormal, `[B, 2]`, of pooled log-odds `[B]`."""
        logit = self.adjust(pooled_logit)
        return torch.stack([nn.functional.logsigmoid(-logit), nn.functional.logsigmoid(logit)], dim=1)

    def adjust(self, logit: torch.Tensor) -> torch.Tensor:
        """Applies slope and intercept of the study calibration to log-odds of any shape."""
        return self.config.study_slope * logit + self.config.study_intercept


def _add_loss(
    loss: torch.Tensor | None, logits: torch.Tensor | None, targets: torch.Tensor | None, name: str, setting: str
) -> torch.Tensor | None:
    """Adds the mean cross entropy of the known targets, which are not negative."""
    if targets is None:
        return loss
    if logits is None:
        raise ValueError(f"{name} were given, but the model has no head for them; set {setting} in its config")
    summed = nn.functional.cross_entropy(logits, targets, ignore_index=-1, reduction="sum")
    added = summed / (targets >= 0).sum().clamp_min(1)
    return added if loss is None else loss + added
