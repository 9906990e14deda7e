"""The `mura_specialized` family: one model for each body part in one checkpoint."""

from collections.abc import Mapping
from typing import Any

import torch
from huggingface_hub.dataclasses import strict

from .configuration_mura import BODY_PARTS
from .heads_mura import check_view_mask, mean_log_probabilities
from .members_mura import (
    MuraMembersConfig,
    MuraMembersModel,
    MuraMembersOutput,
    build_member,
    describe_member,
    read_member,
)
from .modeling_mura_base import ExplainedMap, MuraClassifier, MuraImageClassifierOutput, StudyOutput


@strict
class MuraSpecializedConfig(MuraMembersConfig):
    r"""
    Configuration of a specialized model, in addition to the fields of `MuraBaseConfig`.

    Args:
        members (`dict[str, dict]`):
            Configuration of the model of each body part, one or more of `BODY_PARTS`.
        router (`dict`, *optional*):
            Configuration of a model with a body-part head, which predicts the part if it is not given.
    """

    model_type = "mura_specialized"

    router: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        unknown = sorted(set(self.members or {}) - set(BODY_PARTS))
        if not self.members or unknown:
            raise ValueError(
                f"members has {', '.join(unknown) or 'no entries'}: its keys must be body parts "
                f"({', '.join(BODY_PARTS)})"
            )
        for name, values in self.members.items():
            read_member(values, f"the member for {name}")
        if self.router is not None and not read_member(self.router, "the router").body_part_head:
            raise ValueError("the router must have a body-part head; train it with body_part_head=True")

    @property
    def backbone(self) -> str:
        """Description of the members' backbones."""
        return "for each body part " + ", ".join(dict.fromkeys(m["backbone"] for m in (self.members or {}).values()))


class MuraSpecializedForImageClassification(MuraMembersModel):
    """Classifies a study with the model of its body part.

    The part is given, or predicted by the router: a model with a body-part head, averaged over all views of the study.
    """

    config: MuraSpecializedConfig
    config_class = MuraSpecializedConfig
    NEEDS_PART = True

    def __init__(self, config: MuraSpecializedConfig):
        super().__init__(config)
        self.router = None if config.router is None else build_member(config.router, "the router")
        self.post_init()

    @classmethod
    def from_members(
        cls,
        members: Mapping[str, MuraClassifier],
        processors: Mapping[str, Any] | None = None,
        router: MuraClassifier | None = None,
        **config: Any,
    ) -> "MuraSpecializedForImageClassification":
        """Combines trained models, given by body part, into one; their weights are copied.

        Args:
            members: The models.
            processors: Their image processors, and that of the "router". If given, they must be equal.
            router: Model that predicts the part if it is not given.
            **config: Further fields of `MuraSpecializedConfig`.

        Raises:
            CheckpointError: If processors differ, or a model cannot be a member.
            ValueError: If a name is not a body part, or the router has no body-part head.
        """
        described = None if router is None else describe_member(router)
        model = cls._join(members, processors, router=described, **config)
        if router is not None:
            model.router.load_state_dict(router.state_dict())
        return model

    def classify_views(
        self,
        pixel_values: torch.Tensor,
        explainable: bool = False,
        body_parts: torch.Tensor | None = None,
        **given: Any,
    ) -> MuraMembersOutput:
        """As `MuraClassifier.classify_views`.

        `body_parts` are int64 `[B]`, indices into `BODY_PARTS`; -1 if the router is to predict the part.

        Raises:
            ValueError: If a part is not given and there is no router, or there is no model for a part.
        """
        routed = self._route(pixel_values, body_parts)
        rows = self._rows(body_parts, routed)
        members = {
            part: self.members[part].classify_views(pixel_values[places], explainable) for part, places in rows.items()
        }
        return MuraMembersOutput(
            logits=_merge([output.logits for output in members.values()], rows) / self.config.temperature,
            body_part_logits=routed,
            members=members,
            rows=rows,
        )

    def classify_studies(
        self,
        pixel_values: torch.Tensor,
        view_mask: torch.Tensor | None = None,
        body_parts: torch.Tensor | None = None,
        **given: Any,
    ) -> StudyOutput:
        """Classifies studies `[B, V, C, H, W]`, without a loss; `body_parts` `[B]` as in `classify_views`."""
        mask = check_view_mask(pixel_values, view_mask)
        view_routed = self._route(pixel_values[mask], body_parts)
        routed = mean_log_probabilities(view_routed, mask)
        rows = self._rows(body_parts, routed)
        studies = {
            part: self.members[part].classify_studies(pixel_values[places], mask[places], **given)
            for part, places in rows.items()
        }

        def merged(name: str) -> torch.Tensor:
            return _merge([output[name] for output in studies.values()], rows)

        logits = merged("study_logits")
        pooled = logits[:, 1] - logits[:, 0]
        view_logits = merged("view_logits") / self.config.temperature
        numbers = mask.new_zeros(mask.shape, dtype=torch.long)  # of the unpadded views
        numbers[mask] = torch.arange(int(mask.sum()), device=mask.device)
        return StudyOutput(
            study_logits=self.calibrate(pooled),
            pooled_logit=pooled,
            view_logits=view_logits,
            single_view_logit=self.adjust(merged("single_view_logit")) * mask,
            view_weights=merged("view_weights"),
            body_part_logits=routed,
            views=MuraMembersOutput(
                logits=view_logits[mask],
                body_part_logits=view_routed,
                members={part: output.views for part, output in studies.items()},
                rows={part: numbers[places][mask[places]] for part, places in rows.items()},
            ),
        )

    def explain(self, output: MuraImageClassifierOutput) -> list[ExplainedMap]:
        """Returns the maps of each view, from the model of its body part.

        Raises:
            CheckpointError: If that model has no feature map.
        """
        assert isinstance(output, MuraMembersOutput)
        return [
            explained._replace(rows=output.rows[part])
            for part, found in output.members.items()
            for explained in self.members[part].explain(found)
        ]

    def check_part(self, part: str | None) -> None:
        """Checks that studies of a body part can be classified; None means that the part is not given.

        Raises:
            ValueError: If there is no model for the part, or no router to predict it.
        """
        if part is None and self.router is None:
            raise ValueError(
                f"this checkpoint has one model for each of {', '.join(self.members)} and no router that predicts the "
                "body part: give body_part to StudyPredictor, or to the pipeline mura-study-classification"
            )
        if part is not None and part not in self.members:
            raise ValueError(f"this checkpoint has no model for body part {part}; it has {', '.join(self.members)}")

    def _route(self, pixel_values: torch.Tensor, body_parts: torch.Tensor | None) -> torch.Tensor | None:
        """Body-part logits of views from the router; None if all parts are given."""
        if body_parts is not None and bool((body_parts >= 0).all()):
            return None
        self.check_part(None)
        assert self.router is not None
        return self.router.classify_views(pixel_values).body_part_logits

    def _rows(self, given: torch.Tensor | None, logits: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """Rows of the batch by body part: as given, or as predicted where that is -1 or missing."""
        predicted: Any = given if logits is None else logits.argmax(-1)
        parts = predicted if given is None else torch.where(given >= 0, given, predicted)
        rows = {}
        for index in sorted(set(parts.tolist())):
            part = BODY_PARTS[index]
            self.check_part(part)
            rows[part] = torch.nonzero(parts == index)[:, 0]
        return rows


def _merge(values: list[torch.Tensor], rows: dict[str, torch.Tensor]) -> torch.Tensor:
    """Puts values, one tensor for each body part in `rows`, into the order of the batch."""
    return torch.cat(values)[torch.argsort(torch.cat(list(rows.values())))]
