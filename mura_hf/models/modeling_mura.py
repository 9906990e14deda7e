"""Models of the mura family: backbone, one view, one study."""

import threading
from typing import Any

import torch
from torch import nn

from .backbone_mura import SMALL_CNNS, create_backbone, feature_shape, load_timm_weights
from .class_activation_mura import MapLayer, find_map_layer, is_mean
from .configuration_mura import BODY_PARTS, CheckpointError, MuraConfig
from .heads_mura import GatedAttention, MuraHead, attend, check_view_mask, make_head
from .modeling_mura_base import (
    Explained,
    MuraClassifier,
    MuraImageClassifierOutput,
    MuraModelOutput,
    MuraPreTrainedModel,
    StudyOutput,
)

_LOOKING = threading.Lock()  # one thread at a time tries a network out


class MuraTimmModel(MuraPreTrainedModel):
    """A model with one backbone, which may start from timm's weights."""

    config: MuraConfig
    config_class = MuraConfig

    @classmethod
    def from_timm(cls, backbone: str, *, pretrained_cfg_overlay: dict[str, Any] | None = None, **config: Any) -> Any:
        """Builds a model whose backbone starts from timm's pretrained weights; the heads start anew.

        Args:
            backbone: Name of a timm architecture, with a weight tag if wanted (`"densenet169.tv_in1k"`).
            pretrained_cfg_overlay: As in `timm.create_model`; `{"file": path}` takes weights from a local file.
            **config: Fields of the model's config class.

        Raises:
            CheckpointError: If timm has no such architecture, no weights for it, or they cannot be had or do not fit.
        """
        model = cls(cls.config_class(backbone=backbone, **config))
        inner: Any = getattr(model, cls.base_model_prefix, model)
        load_timm_weights(inner.backbone, model.config, pretrained_cfg_overlay)
        return model


class MuraModel(MuraTimmModel):
    """A timm backbone: radiograph in, feature map and pooled code out."""

    _keys_to_ignore_on_load_unexpected = [
        r"^classifier\.",
        r"^body_part_classifier\.",
        r"^finding_classifier\.",
        r"^attention\.",
        r"^embedding\.",
    ]

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


class MuraForImageClassification(MuraTimmModel, MuraClassifier):
    """One view: normal or abnormal; the body part and the type of finding where the config asks for those heads.

    Takes whole studies too, see `MuraClassifier.forward`.
    """

    def __init__(self, config: MuraConfig):
        super().__init__(config)
        self.mura = MuraModel(config)
        size = self.mura.hidden_size
        self.dropout = nn.Dropout(config.head_dropouts[0])
        self.classifier = make_head(self._classified_size(size), config.num_labels, config)
        self.body_part_classifier = (
            MuraHead(size, len(BODY_PARTS), config.head_init) if config.body_part_head else None
        )
        types = config.finding_types
        self.finding_classifier = MuraHead(size, len(types), config.head_init) if types else None
        attentive = config.study_pooling == "gated_attention"
        self.attention = GatedAttention(size, config.attention_size) if attentive else None
        self._map_layers: list[MapLayer | None] = []  # of a network on tokens: the one, once it was looked for
        self.post_init()

    def _classified_size(self, size: int) -> int:
        """Width of what the classifier is fed."""
        return size

    def _classified(self, code: torch.Tensor) -> torch.Tensor:
        """What the classifier is fed, of pooled codes `[B, D']`."""
        return code

    def code_logits(self, code: torch.Tensor) -> torch.Tensor:
        """Logits `[B, 2]` of pooled codes `[B, D']`."""
        return self.classifier(self.dropout(code)) / self.config.temperature

    def classify(self, feature_map: torch.Tensor) -> MuraImageClassifierOutput:
        """Everything after the backbone: feature map from `MuraModel.extract` in, logits out."""
        code = self.mura.pool(feature_map)
        dropped = self.dropout(code)
        return MuraImageClassifierOutput(
            logits=self.classifier(dropped) / self.config.temperature,
            body_part_logits=None if self.body_part_classifier is None else self.body_part_classifier(dropped),
            finding_logits=None if self.finding_classifier is None else self.finding_classifier(dropped),
            feature_map=feature_map,
            pooler_output=code,
        )

    def classify_views(
        self, pixel_values: torch.Tensor, explainable: bool = False, **given: Any
    ) -> MuraImageClassifierOutput:
        """Logits of views `[B, C, H, W]`, without a loss; averaged with those of their mirror images where the config
        has `test_time_flip`, in evaluation mode.
        """
        answer = self._classify_explainable if explainable and not self.training else self._classify
        output = answer(pixel_values)
        if self.training or not self.config.test_time_flip:
            return output
        return output.mean_with(answer(pixel_values.flip(-1)))

    def _classify(self, pixel_values: torch.Tensor) -> MuraImageClassifierOutput:
        return self.classify(self.mura.extract(pixel_values))

    def _classify_explainable(self, pixel_values: torch.Tensor) -> MuraImageClassifierOutput:
        """As `_classify`; of a network on tokens, with the graph behind the layer that heatmaps are read from."""
        with _LOOKING:
            if not self._map_layers:
                self._map_layers = [self._find_map_layer()]
            layer = self._map_layers[0]
        if layer is None:
            return self._classify(pixel_values)
        with layer.cut() as held:
            output = self._classify(pixel_values)
        output.layer_outputs = (held[-1],)
        return output

    def _find_map_layer(self) -> MapLayer | None:
        config = self.config
        shape = feature_shape(self.mura.backbone, config)
        if shape is None or len(shape) != 3:
            return None
        side = config.image_size
        return find_map_layer(
            self, lambda pixels: self.score(self.mura.extract(pixels)), (config.num_channels, side, side)
        )

    def pool(
        self, view_logits: torch.Tensor, codes: torch.Tensor | None, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `MuraClassifier.pool`; with gated attention the classifier answers for the weighted mean of the codes."""
        if self.attention is None or codes is None:
            return super().pool(view_logits, codes, mask)
        code, weights = attend(self.attention(codes), codes, mask)
        logits = self.code_logits(code)
        return logits[:, 1] - logits[:, 0], weights

    def explain(self, output: MuraImageClassifierOutput) -> list[Explained]:
        """The one feature map; with that of the mirror images behind it, channel by channel, where there is one.

        Of a network on tokens, the last layer whose picture tokens matter; see `find_map_layer`.

        Raises:
            CheckpointError: If the backbone has neither, or works on tokens and the output was not asked for with
                `explainable`.
        """
        if output.layer_outputs is not None:
            (layer,) = self._map_layers
            assert layer is not None
            return [layer.explain(output.logits, output.layer_outputs)]
        feature_map = output.feature_map
        if feature_map is None or feature_map.ndim != 4:
            raise CheckpointError(
                f"backbone {self.config.backbone} works on tokens, and this output holds none for heatmaps; answer "
                "with explainable=True, or use the method occlusion where that does not help"
            )
        mirrored = output.mirrored_feature_map
        maps = [feature_map] if mirrored is None else [feature_map, mirrored]
        weights = self.code_direction() if is_mean(output.pooler_output, *maps) else None
        if mirrored is None:
            return [Explained(feature_map, self.score, channel_weights=weights)]
        both = None if weights is None else torch.cat([weights, weights]) / 2
        return [Explained(torch.cat(maps, dim=1), self._score_both, channel_weights=both)]

    def code_direction(self) -> torch.Tensor | None:
        """What z_abnormal - z_normal is the product of with a pooled code, but for a constant, `[D']`; None where the
        head is not linear.
        """
        if not isinstance(self.classifier, nn.Linear):
            return None
        weight = self.classifier.weight.detach()
        return (weight[1] - weight[0]) / self.config.temperature

    def score(self, feature_map: torch.Tensor) -> torch.Tensor:
        """z_abnormal - z_normal `[B]` of feature maps `[B, D, h, w]`."""
        logits = self.classify(feature_map).logits
        return logits[:, 1] - logits[:, 0]

    def _score_both(self, feature_maps: torch.Tensor) -> torch.Tensor:
        """As `score`, of maps `[B, 2 D, h, w]` of views and, mirrored back, of their mirror images."""
        views, mirrored = feature_maps.chunk(2, dim=1)
        return (self.score(views) + self.score(mirrored.flip(-1))) / 2

    def score_map(self, feature_map: torch.Tensor) -> torch.Tensor:
        """z_abnormal - z_normal at each place of a feature map `[B, D, h, w]`, as if that place were the whole: `[B,
        h, w]`.

        Raises:
            CheckpointError: If the backbone has no map, or weighs each place of it by itself.
        """
        if feature_map.ndim != 4 or self.config.backbone in SMALL_CNNS:
            raise CheckpointError(
                f"backbone {self.config.backbone} cannot score the places of its map one by one, as the loss on "
                "regions asks; set region_weight to 0, or choose a backbone such as resnet50 or convnext_tiny"
            )
        batch, channels, height, width = feature_map.shape
        places = feature_map.permute(0, 2, 3, 1).reshape(-1, channels, 1, 1)
        logits = self.classifier(self._classified(self.mura.pool(places))) / self.config.temperature
        return (logits[:, 1] - logits[:, 0]).view(batch, height, width)


class MuraForStudyClassification(MuraForImageClassification):
    """One study: several views in, one answer out. Has the config and the keys of `MuraForImageClassification`."""

    def forward(self, pixel_values: torch.Tensor, *args: Any, **kwargs: Any) -> StudyOutput:
        """Classifies studies; see `MuraClassifier.forward`.

        With the default pooling, the study's probability of abnormal is the mean of its views', then calibrated: with
        p that mean, the answer is `sigmoid(study_slope * logit(p) + study_intercept)`.

        Args:
            pixel_values: float `[B, V, C, H, W]`.
            *args: Of `MuraClassifier.forward`.
            **kwargs: Of `MuraClassifier.forward`.

        Raises:
            ValueError: If a study has no view, or the shapes do not belong together.
        """
        check_view_mask(pixel_values, None)
        return super().forward(pixel_values, *args, **kwargs)


__all__ = ["MuraForImageClassification", "MuraForStudyClassification", "MuraModel", "MuraTimmModel"]
