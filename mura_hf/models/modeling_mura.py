"""The `mura` family: a backbone with heads, for one view or a study."""

import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from .backbone_mura import SMALL_CNNS, check_feature_map, create_backbone, feature_shape, load_timm_weights
from .class_activation_mura import MapLayer, find_map_layer, is_mean
from .configuration_mura import BODY_PARTS, CheckpointError, MuraConfig
from .heads_mura import MuraHead, make_attention, make_head
from .modeling_mura_base import (
    HEAD_PATTERN,
    ExplainedMap,
    MuraClassifier,
    MuraImageClassifierOutput,
    MuraModelOutput,
    MuraPreTrainedModel,
)

_MAP_LAYER_LOCK = threading.Lock()  # one thread at a time searches a network for its map layer


class MuraTimmModel(MuraPreTrainedModel):
    """Base of models whose backbones share one architecture and can start from timm's weights."""

    config: MuraConfig
    config_class = MuraConfig

    @classmethod
    def from_timm(
        cls,
        backbone: str,
        *,
        pretrained: bool = True,
        pretrained_cfg_overlay: dict[str, Any] | None = None,
        **config: Any,
    ) -> Any:
        """Builds a model with a pretrained backbone and new heads.

        Args:
            backbone: Name of a timm architecture, optionally with a weight tag (`"densenet169.tv_in1k"`).
            pretrained: Whether to load timm's weights; with False, nothing is downloaded.
            pretrained_cfg_overlay: As in `timm.create_model`; `{"file": path}` reads weights from a local file.
            **config: Fields of the model's config class.

        Raises:
            CheckpointError: If the architecture is unknown, or its weights cannot be read or do not fit.
        """
        model = cls(cls.config_class(backbone=backbone, **config))
        if pretrained:
            first, *others = model.backbones()
            load_timm_weights(first, model.config, pretrained_cfg_overlay)
            for other in others:
                other.load_state_dict(first.state_dict())
        return model


class MuraModel(MuraTimmModel):
    """A backbone without heads: returns the feature map and the pooled code of a radiograph."""

    _keys_to_ignore_on_load_unexpected = [rf"^{HEAD_PATTERN}\."]
    compiled: Callable[[torch.Tensor], torch.Tensor | None] | None = None
    """Computes features in place of the backbone where no gradient is needed; None leaves it to the backbone."""

    def __init__(self, config: MuraConfig):
        super().__init__(config)
        self.backbone = create_backbone(config)
        self.hidden_size = int(getattr(self.backbone, "head_hidden_size", None) or self.backbone.num_features)
        self.map_attention = None
        if config.map_pooling == "attention":
            check_feature_map(self.backbone, config, "map_pooling attention")
            self.map_attention = MuraHead(self.backbone.num_features, 1, config.head_init)
        self.post_init()

    def extract(self, pixel_values: torch.Tensor, hidden_states: list[torch.Tensor] | None = None) -> torch.Tensor:
        """Returns the last feature map, `[B, D, h, w]` whatever the layout of the backbone; tokens are `[B, N, D]`.

        The feature maps of all stages are appended to `hidden_states`.

        Raises:
            CheckpointError: If the backbone returns several tensors.
            ValueError: If it does not return the features of its stages.
        """
        if hidden_states is None:
            features = None if self.compiled is None or torch.is_grad_enabled() else self.compiled(pixel_values)
            if features is None:
                features = self.backbone.forward_features(pixel_values)
        elif hasattr(self.backbone, "forward_intermediates"):
            features, stages = self.backbone.forward_intermediates(pixel_values)
            hidden_states += stages
        else:
            raise ValueError(f"backbone {self.config.backbone} has no hidden states; leave output_hidden_states out")
        if not isinstance(features, torch.Tensor):
            raise CheckpointError(
                f"backbone {self.config.backbone} returns several feature tensors, which these models cannot pool; "
                "choose one with a single output, such as densenet169, convnext_tiny or vit_small_patch16_224"
            )
        return features.permute(0, 3, 1, 2) if features.ndim == 4 and self._channels_last else features

    def pool(self, feature_map: torch.Tensor) -> torch.Tensor:
        """Returns the pooled code of a feature map from `extract`: `[B, D']`, where D' is `hidden_size`."""
        feature_map = self.attend(feature_map)
        if feature_map.ndim == 4 and self._channels_last:
            feature_map = feature_map.permute(0, 2, 3, 1)
        return self.backbone.forward_head(feature_map, pre_logits=True)

    def attend(self, feature_map: torch.Tensor) -> torch.Tensor:
        """Returns the mean `[B, D, 1, 1]` of a map `[B, D, h, w]` weighted by attention, or the map itself without
        attention pooling. The backbone's own pooling then sees one position.
        """
        if self.map_attention is None:
            return feature_map
        positions = feature_map.flatten(2)
        weights = self.map_attention(positions.mT).softmax(1)
        return (positions @ weights)[..., None]

    @property
    def _channels_last(self) -> bool:
        return getattr(self.backbone, "output_fmt", "NCHW") == "NHWC"

    def forward(
        self,
        pixel_values: torch.Tensor,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> MuraModelOutput | tuple[Any, ...]:
        """Runs the backbone on `pixel_values` `[B, C, H, W]`; options as in `MuraClassifier.forward`."""
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        stages: list[torch.Tensor] | None = [] if wanted else None
        feature_map = self.extract(pixel_values, stages)
        output = MuraModelOutput(feature_map, self.pool(feature_map), None if stages is None else tuple(stages))
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()


class MuraForImageClassification(MuraTimmModel, MuraClassifier):
    """Classifies a view as normal or abnormal; optional heads predict body part, type of finding and region.

    It also takes whole studies; see `MuraClassifier.forward`.
    """

    def __init__(self, config: MuraConfig):
        super().__init__(config)
        self.mura = MuraModel(config)
        size = self.mura.hidden_size
        self.dropout = nn.Dropout(config.head_dropouts[0])
        # MuraForMetricLearning classifies an embedding of the code.
        self.classifier = make_head(getattr(config, "embedding_size", size), config.num_labels, config)
        parts = len(BODY_PARTS) if config.body_part_head else 0
        self.body_part_classifier = MuraHead(size, parts, config.head_init) if parts else None
        types = len(config.finding_types or [])
        self.finding_classifier = MuraHead(size, types, config.head_init) if types else None
        regions = len(config.regions or [])
        self.region_classifier = MuraHead(size, regions, config.head_init) if regions else None
        self.attention = make_attention(size, config)
        self._map_layers: list[MapLayer | None] = []  # for networks on tokens: the map layer, once it was searched for
        self.post_init()

    def _classifier_input(self, code: torch.Tensor) -> torch.Tensor:
        """What the classifier takes: the code, or an embedding of it."""
        return code

    def code_logits(self, code: torch.Tensor) -> torch.Tensor:
        """Returns logits `[B, 2]` of pooled codes `[B, D']`."""
        return self.classifier(self.dropout(self._classifier_input(code))) / self.config.temperature

    def classify(self, feature_map: torch.Tensor) -> MuraImageClassifierOutput:
        """Runs everything after the backbone on a feature map from `MuraModel.extract`."""
        code = self.mura.pool(feature_map)
        dropped, classified = self.dropout(code), self._classifier_input(code)
        is_code = classified is code
        logits = self.classifier(dropped if is_code else self.dropout(classified))
        return MuraImageClassifierOutput(
            logits=logits / self.config.temperature,
            body_part_logits=None if self.body_part_classifier is None else self.body_part_classifier(dropped),
            finding_logits=None if self.finding_classifier is None else self.finding_classifier(dropped),
            region_logits=None if self.region_classifier is None else self.region_classifier(code),
            feature_map=feature_map,
            pooler_output=code,
            embeddings=None if is_code else classified,
        )

    def classify_views(
        self,
        pixel_values: torch.Tensor,
        explainable: bool = False,
        hidden_states: list[torch.Tensor] | None = None,
        **given: Any,
    ) -> MuraImageClassifierOutput:
        """As `MuraClassifier.classify_views`; `test_time_flip` averages over mirror images in evaluation mode."""
        layer = self._map_layer() if explainable and not self.training else None
        output = self._classify(pixel_values, layer, hidden_states)
        if self.training or not self.config.test_time_flip:
            return output
        return output.mean_with(self._classify(pixel_values.flip(-1), layer))

    def _classify(
        self, pixel_values: torch.Tensor, layer: MapLayer | None, hidden_states: list[torch.Tensor] | None = None
    ) -> MuraImageClassifierOutput:
        with nullcontext() if layer is None else layer.cut() as outputs:
            output = self.classify(self.mura.extract(pixel_values, hidden_states))
        if outputs is not None:
            output.layer_outputs = (outputs[-1],)
        return output

    def _map_layer(self) -> MapLayer | None:
        """The layer that heatmaps are computed from, for networks on tokens."""
        with _MAP_LAYER_LOCK:
            if not self._map_layers:
                config, found = self.config, None
                if len(feature_shape(self.mura.backbone, config) or ()) == 3:
                    shape = (config.num_channels, config.image_size, config.image_size)
                    found = find_map_layer(self, lambda pixels: self.score(self.mura.extract(pixels)), shape)
                self._map_layers = [found]
            return self._map_layers[0]

    def explain(self, output: MuraImageClassifierOutput) -> list[ExplainedMap]:
        """Returns the feature map, concatenated with that of the mirrored views if there is one.

        For networks on tokens, the map is taken from the layer that `find_map_layer` finds.

        Raises:
            CheckpointError: If there is no map; networks on tokens need an output computed with `explainable`.
        """
        if output.layer_outputs is not None:
            (layer,) = self._map_layers
            assert layer is not None
            return [layer.explain(output.logits, output.layer_outputs)]
        feature_map = output.feature_map
        if feature_map is None or feature_map.ndim != 4:
            raise CheckpointError(
                f"backbone {self.config.backbone} works on tokens, and this output holds no map for heatmaps; predict "
                "with explainable=True, or use the method occlusion if that does not help"
            )
        mirrored = output.mirrored_feature_map
        maps = [feature_map] if mirrored is None else [feature_map, mirrored]
        # The part of the gradient that passes through the attention weights has mean 0 over the positions of the map,
        # so Grad-CAM has the same closed form as for a plain mean.
        pooled = [self.mura.attend(values) for values in maps]
        weights = self.code_direction() if is_mean(output.pooler_output, *pooled) else None
        if mirrored is None:
            return [ExplainedMap(feature_map, self.score, channel_weights=weights)]
        both = None if weights is None else torch.cat([weights, weights]) / 2
        return [ExplainedMap(torch.cat(maps, dim=1), self._score_both, channel_weights=both)]

    def code_direction(self) -> torch.Tensor | None:
        """Returns the gradient `[D']` of z_abnormal - z_normal with respect to the code; None for a nonlinear head."""
        if not isinstance(self.classifier, nn.Linear):
            return None
        weight = self.classifier.weight.detach()
        return (weight[1] - weight[0]) / self.config.temperature

    def score(self, feature_map: torch.Tensor) -> torch.Tensor:
        """Returns z_abnormal - z_normal `[B]` of feature maps `[B, D, h, w]`."""
        logits = self.classify(feature_map).logits
        return logits[:, 1] - logits[:, 0]

    def _score_both(self, feature_maps: torch.Tensor) -> torch.Tensor:
        """Mean score of views and their mirror images; their maps are concatenated, the latter mirrored back."""
        views, mirrored = feature_maps.chunk(2, dim=1)
        return (self.score(views) + self.score(mirrored.flip(-1))) / 2

    def score_map(self, feature_map: torch.Tensor) -> torch.Tensor:
        """Returns z_abnormal - z_normal `[B, h, w]` for each position of a map, as if that were the whole map.

        Raises:
            CheckpointError: If the backbone has no map, or its pooling has weights for each position.
        """
        if feature_map.ndim != 4 or self.config.backbone in SMALL_CNNS:
            raise CheckpointError(
                f"backbone {self.config.backbone} cannot score single positions of its map, which the region loss "
                "needs; set region_weight to 0, or choose a backbone such as resnet50 or convnext_tiny"
            )
        batch, channels, height, width = feature_map.shape
        positions = feature_map.permute(0, 2, 3, 1).reshape(-1, channels, 1, 1)
        logits = self.classifier(self._classifier_input(self.mura.pool(positions))) / self.config.temperature
        return (logits[:, 1] - logits[:, 0]).view(batch, height, width)


class MuraForStudyClassification(MuraForImageClassification):
    """Classifies studies of several views. It has the config and the weights of `MuraForImageClassification`.

    By default, with p the mean of the views' probabilities of abnormal, the probability of the study is
    `sigmoid(study_slope * logit(p) + study_intercept)`.
    """

    STUDIES_ONLY = True
