"""One model for each body part in one checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .configuration_mura import BODY_PARTS
from .heads_mura import check_view_mask, place_views
from .members_mura import (
    MuraSpecializedConfig,
    build_member,
    check_processors,
    copy_weights,
    describe_member,
    read_member,
)
from .modeling_mura_base import Explained, MuraClassifier, MuraImageClassifierOutput, StudyOutput


@dataclass
class MuraSpecializedOutput(MuraImageClassifierOutput):
    """A `MuraImageClassifierOutput` with what each part's model found.

    Attributes:
        members: Body part -> output for its views.
        rows: Body part -> which views these are, int64 `[n]`.
    """

    members: dict[str, Any] | None = None
    rows: dict[str, torch.Tensor] | None = None


class MuraSpecializedForImageClassification(MuraClassifier):
    """A model for each body part; a study goes to the one of its part.

    The part is given with the study, or found by the router: a model with a body-part head, whose word is asked over
    all views of the study.
    """

    config: MuraSpecializedConfig
    config_class = MuraSpecializedConfig
    NEEDS_PART = True

    def __init__(self, config: MuraSpecializedConfig):
        super().__init__(config)
        self.members = nn.ModuleDict(
            {part: build_member(read_member(values, part)) for part, values in (config.members or {}).items()}
        )
        self.router = None if config.router is None else build_member(read_member(config.router, "the router"))
        self.post_init()

    @classmethod
    def from_members(
        cls,
        members: Mapping[str, MuraClassifier],
        processors: Mapping[str, Any] | None = None,
        router: MuraClassifier | None = None,
        **config: Any,
    ) -> "MuraSpecializedForImageClassification":
        """Puts trained models together; their weights are copied.

        Args:
            members: Body part -> model.
            processors: Body part, or "router" -> its image processor; where given, they must be equal.
            router: Finds the part where it is not given.
            **config: Further fields of `MuraSpecializedConfig`.

        Raises:
            CheckpointError: If processors differ, or a model cannot be a member.
            ValueError: If a name is no body part, or the router has no body-part head.
        """
        check_processors(processors or {})
        described = {part: describe_member(member) for part, member in members.items()}
        phantoms = all(member.config.trained_on_phantoms for member in members.values())
        fields = {"trained_on_phantoms": phantoms, **config}
        found = None if router is None else describe_member(router)
        model = cls(MuraSpecializedConfig(members=described, router=found, **fields))
        for part, member in members.items():
            copy_weights(model.members[part], member)
        if router is not None:
            copy_weights(model.router, router)
        return model.eval()

    def classify_views(
        self,
        pixel_values: torch.Tensor,
        explainable: bool = False,
        body_parts: torch.Tensor | None = None,
        **given: Any,
    ) -> MuraSpecializedOutput:
        """Logits of views `[B, C, H, W]`, without a loss.

        Args:
            pixel_values: float `[B, C, H, W]`.
            explainable: As `MuraClassifier.classify_views`.
            body_parts: int64 `[B]`, indices into `BODY_PARTS`; -1 where the router is to find it.
            **given: Not used.

        Raises:
            ValueError: If a part is not given and there is no router, or it has no model.
        """
        routed = self._route(pixel_values, body_parts)
        parts = body_parts if routed is None else _fill(body_parts, routed)
        assert parts is not None
        rows = self._rows(parts)
        members = {
            part: self._member(part).classify_views(pixel_values[places], explainable=explainable)
            for part, places in rows.items()
        }
        return MuraSpecializedOutput(
            logits=_gather({part: output.logits for part, output in members.items()}, rows) / self.config.temperature,
            body_part_logits=routed,
            members=members,
            rows=rows,
        )

    def classify_studies(
        self,
        pixel_values: torch.Tensor,
        view_mask: torch.Tensor | None = None,
        explainable: bool = False,
        body_parts: torch.Tensor | None = None,
        **given: Any,
    ) -> StudyOutput:
        """Answers for studies `[B, V, C, H, W]`, without a loss; `body_parts` `[B]` as in `classify_views`."""
        mask = check_view_mask(pixel_values, view_mask)
        of_views = None if body_parts is None else body_parts[:, None].expand(mask.shape)[mask]
        found, routed = self._route(pixel_values[mask], of_views), None
        if found is not None:
            shares = (mask / mask.sum(1, keepdim=True)).to(found.dtype).log()[..., None]
            routed = torch.logsumexp(place_views(found, mask).log_softmax(-1) + shares, dim=1)
        parts = body_parts if routed is None else _fill(body_parts, routed)
        assert parts is not None
        rows = self._rows(parts)
        studies = {
            part: self._member(part).classify_studies(pixel_values[places], mask[places], explainable=explainable)
            for part, places in rows.items()
        }
        logits = _gather({part: output.study_logits for part, output in studies.items()}, rows)
        pooled = logits[:, 1] - logits[:, 0]
        numbers = mask.new_zeros(mask.shape, dtype=torch.long)
        numbers[mask] = torch.arange(int(mask.sum()), device=mask.device)
        view_logits = _gather({part: output.view_logits for part, output in studies.items()}, rows)
        view_logits = view_logits / self.config.temperature
        alone = _gather({part: output.single_view_logit for part, output in studies.items()}, rows)
        return StudyOutput(
            study_logits=self.calibrate(pooled),
            pooled_logit=pooled,
            view_logits=view_logits,
            single_view_logit=self.adjust(alone) * mask,
            view_weights=_gather({part: output.view_weights for part, output in studies.items()}, rows),
            body_part_logits=routed,
            views=MuraSpecializedOutput(
                logits=view_logits[mask],
                body_part_logits=found,
                members={part: output.views for part, output in studies.items()},
                rows={part: numbers[places][mask[places]] for part, places in rows.items()},
            ),
        )

    def explain(self, output: MuraImageClassifierOutput) -> list[Explained]:
        """Each view's maps, from the model of its part.

        Raises:
            CheckpointError: If that model has no feature map.
        """
        assert isinstance(output, MuraSpecializedOutput)
        members, rows = output.members or {}, output.rows or {}
        return [
            explained._replace(rows=rows[part])
            for part, found in members.items()
            for explained in self._member(part).explain(found)
        ]

    def check_part(self, part: str | None) -> None:
        """Makes sure that studies of a part can be answered; None stands for a part that is not given.

        Raises:
            ValueError: If there is no model for it, or nothing that finds the part.
        """
        if part is None and self.router is None:
            raise ValueError(
                f"this checkpoint has a model for each of {', '.join(self.members)} and none that finds the part: "
                "give body_part"
            )
        if part is not None and part not in self.members:
            raise ValueError(f"this checkpoint has no model for body part {part}; it has {', '.join(self.members)}")

    def _member(self, part: str) -> Any:
        return self.members[part]

    def _route(self, pixel_values: torch.Tensor, body_parts: torch.Tensor | None) -> torch.Tensor | None:
        """The router's body-part logits of views; None where every part is given."""
        if body_parts is not None and bool((body_parts >= 0).all()):
            return None
        self.check_part(None)
        assert self.router is not None
        return self.router.classify_views(pixel_values).body_part_logits

    def _rows(self, parts: torch.Tensor) -> dict[str, torch.Tensor]:
        """Body part -> the rows that belong to it."""
        rows = {}
        for index in sorted(set(parts.tolist())):
            part = BODY_PARTS[index]
            self.check_part(part)
            rows[part] = torch.nonzero(parts == index)[:, 0]
        return rows


def _fill(given: torch.Tensor | None, logits: torch.Tensor) -> torch.Tensor:
    """The parts given, and those found where none is."""
    found = logits.argmax(-1)
    return found if given is None else torch.where(given >= 0, given, found)


def _gather(values: dict[str, torch.Tensor], rows: dict[str, torch.Tensor]) -> torch.Tensor:
    """Values by part, put back into the order of the batch."""
    order = torch.cat([rows[part] for part in values])
    return torch.cat(list(values.values()))[torch.argsort(order)]


__all__ = ["MuraSpecializedForImageClassification", "MuraSpecializedOutput"]
