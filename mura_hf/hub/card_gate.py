"""The blocks of a model card, and what each must be made of."""

import math
from dataclasses import dataclass
from typing import Any

from ..errors import CardError

_HOW = {
    "config": "train it",
    "preprocessor_config": "train it",
    "training": "train it with scripts/train.py",
    "evaluation": "run scripts/evaluate.py on valid",
}


@dataclass(frozen=True)
class CardBlock:
    """A block that no card goes without.

    Attributes:
        name: Of its template, `card_blocks/NAME.md`.
        title: Its heading.
        needs: Values of the records that it cannot be without, each `record.key.key`.
    """

    name: str
    title: str
    needs: tuple[str, ...]


METADATA = CardBlock("metadata", "Metadata", ("training.data.name", "evaluation.study.overall.figures"))
"""The header that the Hub reads; made in `card_metadata.py`."""

BLOCKS = (
    CardBlock("about", "What it is", ("config.model_type", "training.data.name")),
    CardBlock("use", "Intended use", ("training.data.name",)),
    CardBlock("usage", "How to use", ("preprocessor_config.size",)),
    CardBlock("model", "Model", ("config.operating_points", "preprocessor_config.resize_mode")),
    CardBlock("data", "Data", ("training.data.split_digest", "training.data.studies", "training.data.views")),
    CardBlock("training", "Training", ("training.recipe", "training.selected_by")),
    CardBlock(
        "results", "Results",
        ("evaluation.study.overall.figures", "evaluation.study.overall.intervals",
         "evaluation.study.overall.confusion", "evaluation.image.overall.figures", "evaluation.threshold_chosen",
         "evaluation.study.overall.figures.auroc", "evaluation.curves.roc", "evaluation.curves.precision_recall"),
    ),
    CardBlock("parts", "Body parts", ("evaluation.study",)),
    CardBlock("operating_points", "Operating points", ("evaluation.operating_points", "evaluation.prevalence")),
    CardBlock("calibration", "Calibration", ("evaluation.calibration_effect.after",)),
    CardBlock("explanations", "Where it looked", ("evaluation.explanations",)),
    CardBlock("refusal", "When it does not answer", ("training.data.name",)),
    CardBlock("shortcuts", "Shortcuts", ("evaluation.baselines",)),
    CardBlock("limits", "Limits", ("evaluation.study.overall.confusion",)),
    CardBlock("environment", "Versions and time", ("training.versions", "training.seconds", "training.device")),
    CardBlock("licence", "Licence", ("training.data.name",)),
    CardBlock("citation", "Citation", ("training.versions",)),
)  # fmt: skip
"""In the order of the card."""


def check_records(records: dict[str, Any], folder: str) -> None:
    """Holds a card back whose records do not fill every block.

    Args:
        records: Name of a record, without ".json" -> its content.
        folder: What the records are of, for the message.

    Raises:
        CardError: If a value is missing or empty; the message names the block, the value and the way out.
    """
    for block in (METADATA, *BLOCKS):
        for path in block.needs:
            if _is_empty(records, path):
                record, _, key = path.partition(".")
                raise CardError(
                    f'the block "{block.title}" of the card of {folder} would be empty: {record}.json has no {key}; '
                    f"{_HOW[record]}, and render the card again"
                )


def check_text(block: CardBlock, text: str, folder: str) -> None:
    """Holds a card back whose block came out empty.

    Raises:
        CardError: If there is nothing in the text.
    """
    if not text.strip():
        raise CardError(f'the block "{block.title}" of the card of {folder} is empty; its records hold nothing for it')


def _is_empty(records: dict[str, Any], path: str) -> bool:
    value: Any = records
    for key in path.split("."):
        if not isinstance(value, dict) or key not in value:
            return True
        value = value[key]
    return _is_nothing(value)


def _is_nothing(value: Any) -> bool:
    """Whether a value says nothing: no text, no number, or a collection of such only."""
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, dict):
        return all(map(_is_nothing, value.values()))
    if isinstance(value, list):
        return all(map(_is_nothing, value))
    return value is None or (isinstance(value, float) and not math.isfinite(value))
