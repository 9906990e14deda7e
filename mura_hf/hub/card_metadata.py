"""The header of a model card, which the Hub reads."""

import re
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ..data.sources import SOURCES, DataSource
from ..errors import CardError
from .training_story import bases_of

_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_ON_HUB = re.compile(r"[\w.-]+/[\w.-]+")
_STRICTNESS = {"apache-2.0": 0, "cc-by-4.0": 1, "other": 2}


def sources_of(records: dict[str, Any]) -> tuple[DataSource, DataSource]:
    """What a checkpoint was trained on, and what it was measured on.

    Args:
        records: `config`, `training` and `evaluation` of it.

    Raises:
        CardError: If a record names data that are not known.
    """
    trained = records["training"]["data"]
    key = trained.get("key", "phantoms" if records["config"]["trained_on_phantoms"] else "mura")
    measured = records["evaluation"].get("data", {"key": key})
    try:
        return SOURCES[key], SOURCES[measured["key"]]
    except KeyError as error:
        raise CardError(f"a record names data that are not known: {error}; there are {', '.join(SOURCES)}") from error


def sources_of_bases(records: dict[str, Any]) -> list[DataSource]:
    """Other data that the checkpoints which it started from had seen."""
    known = [one["key"] for base in bases_of(records["training"]) for one in base["trained_on"] or []]
    own = sources_of(records)[0].key
    return [SOURCES[key] for key in dict.fromkeys(known) if key in SOURCES and key != own]


def strictest_licence(records: dict[str, Any]) -> DataSource:
    """The data, of all that went into the weights, whose licence asks for most."""
    return max([sources_of(records)[0], *sources_of_bases(records)], key=lambda one: _STRICTNESS[one.license])


def card_metadata(records: dict[str, Any], name: str) -> ModelCardData:
    """What the Hub is told.

    Args:
        records: `config`, `training` and `evaluation` of a checkpoint.
        name: Its name, as on the Hub.
    """
    phantoms, held_out = records["config"]["trained_on_phantoms"], sources_of(records)[1]
    data = "Synthetic phantoms of mura_hf" if held_out.key == "phantoms" else held_out.name
    study = records["evaluation"]["study"]["overall"]["figures"]
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type="synthetic-phantoms" if held_out.key == "phantoms" else held_out.key,
            dataset_name=f"{data}, {records['evaluation']['split']}, study level",
            dataset_split=records["evaluation"]["split"],
            metric_type=metric,
            metric_value=round(study[metric], 4),
        )
        for metric in ("auroc", "kappa", "sensitivity", "specificity")
        if study[metric] is not None
    ]
    strictest = strictest_licence(records)
    names = ("license", "license_name", "license_link")
    known: dict[str, Any] = {name: getattr(strictest, name) for name in names if getattr(strictest, name)}
    known |= _bases(records)
    dataset = records["training"]["data"].get("dataset")
    if dataset and _NAME.fullmatch(dataset):
        known["datasets"] = [dataset]
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["medical", "radiograph", "musculoskeletal", "mura"] + ["synthetic"] * phantoms,
        metrics=["roc_auc", "cohen_kappa"],
        model_name=name,
        eval_results=results,
        **known,
    )


def _bases(records: dict[str, Any]) -> dict[str, Any]:
    """What the Hub is told of the checkpoints that it started from; nothing where those have no name there."""
    names = [base["name"] for base in bases_of(records["training"]) if _ON_HUB.fullmatch(base["name"])]
    if not names:
        return {}
    return {"base_model": names[0] if len(names) == 1 else names, "base_model_relation": "finetune"}
