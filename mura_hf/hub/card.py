"""Model cards, rendered from a checkpoint's records alone."""

import json
import re
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, StrictUndefined, UndefinedError

from ..bundled import BUNDLED
from ..data.sources import SOURCES, DataSource, what_abnormal_means
from ..errors import CardError
from ..training import recipe_names
from .model_table import model_rows
from .training_command import training_command
from .training_story import bases_of, training_story

_MADE = {"twins": False, "views_tell": False, "body_parts": None, "findings": None, "exposure": None}
_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_STRICTNESS = {"apache-2.0": 0, "cc-by-4.0": 1, "other": 2}
_TEMPLATE = Path(__file__).parent / "card_template.md"
_NEUTRAL = {"temperature": 1, "study_slope": 1, "study_intercept": 0}
_RECORDS = ("config.json", "preprocessor_config.json", "training.json", "evaluation.json")


def render_card(folder: str | Path, name: str) -> str:
    """Renders the card of a checkpoint.

    Args:
        folder: The checkpoint with its records.
        name: Its name, as on the Hub, or that of one of the package's own.

    Returns:
        Markdown with a metadata header.

    Raises:
        CardError: If a record is missing or lacks a value that the card shows; the message names it.
    """
    records: dict[str, Any] = {}
    for file in _RECORDS:
        try:
            records[file.removesuffix(".json")] = json.loads((Path(folder) / file).read_text())
        except FileNotFoundError as error:
            raise CardError(
                f"{folder} has no {file}; the card is rendered from it. Train, then run scripts/evaluate.py."
            ) from error
        except json.JSONDecodeError as error:
            raise CardError(f"{Path(folder) / file} is not valid JSON ({error}); make it again") from error
    split = records["evaluation"].get("split")
    if split != "valid":
        raise CardError(
            f"{folder}: evaluation.json is about {split!r}; a card shows valid, run scripts/evaluate.py on it"
        )
    config, evaluation = records["config"], records["evaluation"]
    calibration = {name: config.get(name, neutral) for name, neutral in _NEUTRAL.items()}
    if evaluation.get("calibration", _NEUTRAL) != calibration:
        raise CardError(
            f"{folder} was calibrated after evaluation.json was written; run scripts/evaluate.py on it again"
        )
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["figure"] = _figure
    try:
        metadata = _metadata(records, name)
        records["training"] = {"remarks": [], **records["training"]}
        body = environment.from_string(_TEMPLATE.read_text()).render(
            name=name,
            bundled=name in BUNDLED and Path(folder).resolve() == BUNDLED[name].resolve(),
            source=_sources(records)[0],
            covers=_covers(records),
            base_sources=_base_sources(records),
            held_out=_sources(records)[1],
            abnormal_means=_abnormal(records),
            model=model_rows(records),
            needs_part=config["model_type"] == "mura_specialized" and not config.get("router"),
            story=training_story(records["training"]),
            command=training_command(records["training"]),
            recipe_is_known=records["training"]["recipe"]["name"] in recipe_names(),
            calibrated=calibration != _NEUTRAL,
            made_with={**_MADE, **made} if (made := _made_with(records)) else None,
            **records,
        )
    except (UndefinedError, KeyError) as error:
        raise CardError(f"a record of {folder} lacks a value that the card shows: {error}") from error
    return f"---\n{metadata.to_yaml()}\n---\n\n{body}"


def _made_with(records: dict[str, Any]) -> dict[str, Any] | None:
    """How the phantoms were made that it was trained on; None where it was trained on something else."""
    return records["training"]["data"].get("made_with")


def _sources(records: dict[str, Any]) -> tuple[DataSource, DataSource]:
    """What it was trained on, and what it was measured on."""
    trained = records["training"]["data"]
    key = trained.get("key", "phantoms" if records["config"]["trained_on_phantoms"] else "mura")
    measured = records["evaluation"].get("data", {"key": key})
    try:
        return SOURCES[key], SOURCES[measured["key"]]
    except KeyError as error:
        raise CardError(f"a record names data that are not known: {error}; there are {', '.join(SOURCES)}") from error


def _covers(records: dict[str, Any]) -> str:
    """Which studies it is for."""
    regions = records["training"]["data"].get("regions", "all")
    return _sources(records)[0].covers if regions == "all" else f"of {' or '.join(regions)} (one view)"


def _abnormal(records: dict[str, Any]) -> str | None:
    """What the positive class is."""
    return what_abnormal_means({"key": _sources(records)[0].key, **records["training"]["data"]})


def _base_sources(records: dict[str, Any]) -> list[DataSource]:
    """Other data that the checkpoint which it started from had seen."""
    known = [one["key"] for base in bases_of(records["training"]) for one in base["trained_on"] or []]
    own = _sources(records)[0].key
    return [SOURCES[key] for key in dict.fromkeys(known) if key in SOURCES and key != own]


def _base_metadata(records: dict[str, Any]) -> dict[str, Any]:
    """What the Hub is told of the checkpoints that it started from; nothing where those have no name there."""
    names = [base["name"] for base in bases_of(records["training"]) if _NAME.fullmatch(base["name"])]
    if not names:
        return {}
    return {"base_model": names[0] if len(names) == 1 else names, "base_model_relation": "finetune"}


def _figure(value: float | None, interval: list[float] | None = None) -> str:
    """A figure with three decimals and, where known, its interval."""
    if value is None:
        return "not defined"
    return f"{value:.3f}" + (f" ({interval[0]:.3f}-{interval[1]:.3f})" if interval else "")


def _metadata(records: dict[str, Any], name: str) -> ModelCardData:
    phantoms, (source, held_out) = records["config"]["trained_on_phantoms"], _sources(records)
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
    names = ("license", "license_name", "license_link")
    strictest = max([source, *_base_sources(records)], key=lambda one: _STRICTNESS[one.license])
    known: dict[str, Any] = {name: getattr(strictest, name) for name in names if getattr(strictest, name)}
    known |= _base_metadata(records)
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
