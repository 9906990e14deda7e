"""Models of the mura family: backbone, one view, one study."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from .backbone_mura import create_backbone, load_timm_weights
from .configuration_mura import BODY_PARTS, MuraConfig
from .errors_mura import CheckpointError
from .outputs_mura import MuraImageClassifierOutput, MuraModelOutput, StudyOutput

_HEADS = ("classifier.", "body_part_classifier.")


class MuraHead(nn.Linear):
    """A linear head on the pooled code."""


class MuraPreTrainedModel(PreTrainedModel):
    """Base of the family: strict loading from safetensors, timm weights on request."""

    config: MuraConfig
    config_class = MuraConfig
    base_model_prefix = "mura"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _no_split_modules = ["MuraModel"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # timm initialises its own layers well when it builds them, so only our heads are set here. Buffers that no
        # checkpoint stores come back empty from the meta device and must be computed again.
        if isinstance(module, MuraHead):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
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
            wrong = {what: [key for key in keys if not key.startswith(_HEADS)] for what, keys in wrong.items()}
        if any(wrong.values()):
            told = "; ".join(
                f"{what}: {', '.join(keys[:4])}" + ", ..." * (len(keys) > 4) for what, keys in wrong.items() if keys
            )
            raise CheckpointError(
                f"{pretrained_model_name_or_path} does not fit {cls.__name__} with backbone "
                f"{model.config.backbone} ({told}). "
                "Use the class and config that it was saved with; heads alone may start anew, with "
                "ignore_mismatched_sizes=True."
            )
        return (model, info) if wants_info else model

    @classmethod
    def from_timm(cls, backbone: str, *, pretrained_cfg_overlay: dict[str, Any] | None = None, **config: Any) -> Any:
        """Builds a model whose backbone starts from timm's pretrained weights; the heads start anew.

        Args:
            backbone: Name of a timm architecture, with a weight tag if wanted (`"densenet169.tv_in1k"`).
            pretrained_cfg_overlay: As in `timm.create_model`; `{"file": path}` takes weights from a local file.
            **config: Fields of `MuraConfig`.

        Raises:
            CheckpointError: If timm has no such architecture, no weights for it, or they cannot be had or do not fit.
        """
        model = cls(MuraConfig(backbone=backbone, **config))
        inner: Any = getattr(model, cls.base_model_prefix, model)
        load_timm_weights(inner.backbone, model.config, pretrained_cfg_overlay)
        return model


class MuraModel(MuraPreTrainedModel):
    """A timm backbone: radiograph in, feature map and pooled code out."""

    _keys_to_ignore_on_load_unexpected = [r"^classifier\.", r"^body_part_classifier\."]

    def __init__(self, config: MuraConfig):
        super().__init__(config)
        self.backbone = create_backbone(config)
        self.hidden_size = int(getattr(self.backbone, "head_hidden_size", None) or self.backbone.num_features)
        self.post_init()

    def extract(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """The last feature map, `[B, D, h, w]` whatever the backbone's own layout; tokens stay `[B, N, D]`."""
        features = self.backbone.forward_features(pixel_values)
        if not isinstance(features, torch.Tensor):
            raise CheckpointError(
                f"backbone {self.config.backbone} gives several feature tensors, which these models cannot "
                "pool; choose one with a single stream, such as densenet169, convnext_tiny or vit_small_patch16_224"
            )
        return features.permute(0, 3, 1, 2) if features.ndim == 4 and self._channels_come_last else features

    def pool(self, feature_map: torch.Tensor) -> torch.Tensor:
        """The pooled code `[B, D']` of a feature map from `extract`."""
        if feature_map.ndim == 4 and self._channels_come_last:
            feature_map = feature_map.permute(0, 2, 3, 1)
        return self.backbone.forward_head(feature_map, pre_logits=True)

    @property
    def _channels_come_last(self) -> bool:
        return getattr(self.backbone, "output_fmt", "NCHW") == "NHWC"

    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> MuraModelOutput:
        """Runs the backbone on `pixel_values` `[B, C, H, W]`."""
        feature_map = self.extract(pixel_values)
        return MuraModelOutput(last_hidden_state=feature_map, pooler_output=self.pool(feature_map))


class MuraForImageClassification(MuraPreTrainedModel):
    """One view: normal or abnormal, and the body part where the config asks for that head."""

    def __init__(self, config: MuraConfig):
        super().__init__(config)
        self.mura = MuraModel(config)
        self.dropout = nn.Dropout(config.head_dropout)
        self.classifier = MuraHead(self.mura.hidden_size, config.num_labels)
        self.body_part_classifier = MuraHead(self.mura.hidden_size, len(BODY_PARTS)) if config.body_part_head else None
        self.post_init()

    def classify(self, feature_map: torch.Tensor) -> MuraImageClassifierOutput:
        """Everything after the backbone: feature map from `MuraModel.extract` in, logits out."""
        code = self.mura.pool(feature_map)
        dropped = self.dropout(code)
        return MuraImageClassifierOutput(
            logits=self.classifier(dropped) / self.config.temperature,
            body_part_logits=None if self.body_part_classifier is None else self.body_part_classifier(dropped),
            feature_map=feature_map,
            pooler_output=code,
        )

    def score_map(self, feature_map: torch.Tensor) -> torch.Tensor:
        """z_abnormal - z_normal at each place of a feature map `[B, D, h, w]`, as if that place were the whole: `[B,
        h, w]`.
        """
        batch, channels, height, width = feature_map.shape
        places = feature_map.permute(0, 2, 3, 1).reshape(-1, channels, 1, 1)
        logits = self.classifier(self.mura.pool(places)) / self.config.temperature
        return (logits[:, 1] - logits[:, 0]).view(batch, height, width)

    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        body_parts: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> MuraImageClassifierOutput:
        """Classifies views.

        Args:
            pixel_values: float `[B, C, H, W]`.
            labels: int64 `[B]`, 0 normal and 1 abnormal; then `loss` is their cross entropy.
            body_parts: int64 `[B]`, indices into `BODY_PARTS`, -1 where not known; their cross entropy is added to the
                loss.

        Raises:
            ValueError: If body parts are given to a model without that head.
        """
        output = self.classify(self.mura.extract(pixel_values))
        output.loss = _joint_loss(output.logits, labels, output.body_part_logits, body_parts)
        return output


class MuraForStudyClassification(MuraForImageClassification):
    """One study: several views in, one answer out. Has the config and the keys of `MuraForImageClassification`."""

    def forward(  # type: ignore[override]
        self,
        pixel_values: torch.Tensor,
        view_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        body_parts: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> StudyOutput:
        """Classifies studies.

        The study's probability of abnormal is the mean of its views', then calibrated: with p that mean, the answer is
        `sigmoid(study_slope * logit(p) + study_intercept)`, computed from logarithms throughout.

        Args:
            pixel_values: float `[B, V, C, H, W]`.
            view_mask: bool `[B, V]`, False for padding; all True where not given.
            labels: int64 `[B]`, 0 normal and 1 abnormal.
            body_parts: int64 `[B]`, indices into `BODY_PARTS`.

        Raises:
            ValueError: If a study has no view, or the shapes do not belong together.
        """
        if pixel_values.ndim != 5:
            raise ValueError(
                f"pixel_values must be [studies, views, channels, height, width], not {list(pixel_values.shape)}"
            )
        studies, views = pixel_values.shape[:2]
        if view_mask is None:
            view_mask = torch.ones(studies, views, dtype=torch.bool, device=pixel_values.device)
        mask = view_mask.to(torch.bool)
        if mask.shape != (studies, views) or not bool(mask.any(1).all()):
            raise ValueError("view_mask must be [studies, views] with at least one view in each study")
        output = self.classify(self.mura.extract(pixel_values[mask]))
        view_logits = _scatter(output.logits, mask)
        weights = mask.to(view_logits.dtype)
        weights = weights / weights.sum(1, keepdim=True)
        log_weights = weights.log()[..., None]
        pooled = torch.logsumexp(view_logits.log_softmax(-1) + log_weights, dim=1)
        logit = self.config.study_slope * (pooled[:, 1] - pooled[:, 0]) + self.config.study_intercept
        study_logits = torch.stack([nn.functional.logsigmoid(-logit), nn.functional.logsigmoid(logit)], dim=1)
        parts = None
        if output.body_part_logits is not None:
            parts = torch.logsumexp(_scatter(output.body_part_logits, mask).log_softmax(-1) + log_weights, dim=1)
        return StudyOutput(
            loss=_joint_loss(study_logits, labels, parts, body_parts),
            study_logits=study_logits,
            view_logits=view_logits,
            view_weights=weights,
            body_part_logits=parts,
            feature_map=_scatter(output.feature_map, mask),
            pooler_output=_scatter(output.pooler_output, mask),
        )


def _scatter(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Values of the true views `[n, ...]` at their places `[B, V, ...]`, zeros elsewhere."""
    placed = values.new_zeros((*mask.shape, *values.shape[1:]))
    placed[mask] = values
    return placed


def _joint_loss(
    logits: torch.Tensor,
    labels: torch.Tensor | None,
    body_part_logits: torch.Tensor | None,
    body_parts: torch.Tensor | None,
) -> torch.Tensor | None:
    loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
    if body_parts is None:
        return loss
    if body_part_logits is None:
        raise ValueError(
            "body_parts were given, but the model has no body-part head; set body_part_head=True in its config"
        )
    # Views whose part is none of the seven, or not known, have a negative number and teach nothing.
    summed = nn.functional.cross_entropy(body_part_logits, body_parts, ignore_index=-1, reduction="sum")
    part_loss = summed / (body_parts >= 0).sum().clamp_min(1)
    return part_loss if loss is None else loss + part_loss


__all__ = ["MuraForImageClassification", "MuraForStudyClassification", "MuraModel", "MuraPreTrainedModel"]
