"""The header of a model card, which the Hub reads.

Model cards, rendered from a checkpoint's records alone.
"""

import json
import re
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined, UndefinedError

from ..common import BUNDLED
from ..data.loading import SOURCES, DataSource, describe_positive_class
from ..errors import CardError
from ..models.golden_mura import digest_weights
from ..retrieval import FOLDER, read_record
from ..training import recipe_names
from .card_gate import BLOCKS, check_records, check_text
from .export import index_travels
from .training_section import bases_of, model_rows, training_command, training_story

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


_MADE = {
    "twins": False, "views_tell": False, "planted_marker": False, "body_parts": None, "findings": None,
    "exposure": None, "train_shares": None,
}  # fmt: skip
_TEMPLATES = Path(__file__).parent / "card_blocks"
_NEUTRAL = {"temperature": 1, "study_slope": 1, "study_intercept": 0}
_RECORDS = ("config.json", "preprocessor_config.json", "training.json", "evaluation.json")
_FIGURES = {
    "auroc": "AUROC",
    "kappa": "Cohen's kappa",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "accuracy": "accuracy",
    "precision": "precision",
    "f1": "F1 of abnormal",
    "auprc": "average precision",
    "brier": "Brier score",
    "ece": "expected calibration error",
}
_BASELINES = {
    "random": "a random number",
    "constant": "the same answer for all: the share of abnormal in train",
    "view_count": "the number of views alone",
}


def render_card(folder: str | Path, name: str, *, pictures: str = "") -> str:
    """Renders the card of a checkpoint.

    Args:
        folder: The checkpoint with its records.
        name: Its name, as on the Hub, or that of one of the package's own.
        pictures: What stands in front of the names of plots, where they do not lie beside the card.

    Returns:
        Markdown with a metadata header.

    Raises:
        CardError: If a record is missing, does not fill a block of the card, or lacks a value that the card shows; the
            message names it.
    """
    records = _read(Path(folder))
    check_records(records, str(folder))
    _check_fit(records, str(folder))
    _check_index(records, Path(folder))
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"figure": _figure, "change": _change}
    texts = []
    try:
        metadata = card_metadata(records, name)
        records["training"] = {"remarks": [], **records["training"]}
        values = {**_values(records, Path(folder), name), "pictures": pictures, **records}
        for block in BLOCKS:
            text = environment.get_template(f"{block.name}.md").render(values).strip()
            check_text(block, text, str(folder))
            texts.append(text if block is BLOCKS[0] else f"## {block.title}\n\n{text}")
    except (UndefinedError, KeyError) as error:
        raise CardError(f"a record of {folder} lacks a value that the card shows: {error}") from error
    body = "\n\n".join([f"# {name}", *texts])
    return f"---\n{metadata.to_yaml()}\n---\n\n{body}\n"


def _read(folder: Path) -> dict[str, Any]:
    records: dict[str, Any] = {}
    for file in _RECORDS:
        try:
            records[file.removesuffix(".json")] = json.loads((folder / file).read_text())
        except FileNotFoundError as error:
            raise CardError(
                f"{folder} has no {file}; the card is rendered from it. Train, then run scripts/evaluate.py."
            ) from error
        except json.JSONDecodeError as error:
            raise CardError(f"{folder / file} is not valid JSON ({error}); make it again") from error
    return records


def _check_fit(records: dict[str, Any], folder: str) -> None:
    """Holds a card back whose figures are of something else than what they would stand beside."""
    config, evaluation = records["config"], records["evaluation"]
    if evaluation.get("split") != "valid":
        raise CardError(
            f"{folder}: evaluation.json is about {evaluation.get('split')!r}; a card shows valid, run "
            "scripts/evaluate.py on it"
        )
    if evaluation.get("weights_sha256") != digest_weights(folder):
        raise CardError(f"{folder}: evaluation.json is of other weights; run scripts/evaluate.py on these")
    points = {name: point["threshold"] for name, point in evaluation["operating_points"].items()}
    default = "paper" if "paper" in points else next(iter(config["operating_points"]))
    if evaluation["threshold"] != points.get(default):
        raise CardError(
            f"{folder}: evaluation.json was made with --threshold {evaluation['threshold']:g}, and a card shows what "
            "the checkpoint does by itself; run scripts/evaluate.py without it"
        )
    if evaluation.get("calibration") != _calibration(records) or points != config["operating_points"]:
        raise CardError(
            f"{folder} was calibrated after evaluation.json was written; run scripts/evaluate.py on it again"
        )


def _check_index(records: dict[str, Any], folder: Path) -> None:
    """Holds a card back whose index is not the one that was measured."""
    measured = records["evaluation"].get("retrieval")
    if not (folder / FOLDER).is_dir():  # it may have stayed where the data are
        return
    if measured is None or read_record(folder / FOLDER).build != measured["index"]["build"]:
        raise CardError(
            f"{folder}: the index in {FOLDER}/ is not the one that evaluation.json speaks of; run scripts/evaluate.py "
            "again"
        )


def _calibration(records: dict[str, Any]) -> dict[str, float]:
    return {name: records["config"].get(name, neutral) for name, neutral in _NEUTRAL.items()}


def _values(records: dict[str, Any], folder: Path, name: str) -> dict[str, Any]:
    """What the blocks show beside the records themselves."""
    config, training = records["config"], records["training"]
    source, held_out = sources_of(records)
    made = training["data"].get("made_with")  # how phantoms were made; none of other data
    strictest, bases = strictest_licence(records), sources_of_bases(records)
    regions = training["data"].get("regions", "all")
    points = config["operating_points"]
    threshold = records["evaluation"]["threshold"]
    band = [points[one] for one in ("sensitivity_95", "specificity_95") if one in points]
    crossed = len(band) < 2 or band[0] >= band[1]
    return {
        "name": name,
        "bundled": name in BUNDLED and folder.resolve() == BUNDLED[name].resolve(),
        "source": source,
        "held_out": held_out,
        "base_sources": bases,
        "strictest": strictest,
        "cited": [one.citation for one in dict.fromkeys([source, *bases, held_out]) if one.citation],
        "covers": source.covers if regions == "all" else f"of {' or '.join(regions)} (one view)",
        "positive_class_description": describe_positive_class({"key": source.key, **training["data"]}),
        "files": '"arm.png"' if source.key == "fracatlas" else '"wrist_frontal.png", "wrist_lateral.png"',
        "model": model_rows(records),
        "needs_part": config["model_type"] == "mura_specialized" and not config.get("router"),
        "story": training_story(training),
        "command": training_command(training),
        "recipe_is_known": training["recipe"]["name"] in recipe_names(),
        "calibrated": _calibration(records) != _NEUTRAL,
        "bands": None if crossed else (min(band[0], threshold), max(band[1], threshold)),
        "figures": _FIGURES,
        "baseline_names": _BASELINES,
        "index_travels": index_travels(folder),
        "made_with": {**_MADE, **made} if made else None,
    }


def _figure(value: float | None, interval: list[float] | None = None) -> str:
    """A figure with three decimals and, where known, its interval."""
    if value is None:
        return "not defined"
    return f"{value:.3f}" + (f" ({interval[0]:.3f}-{interval[1]:.3f})" if interval else "")


def _change(value: float | None, interval: list[float] | None = None) -> str:
    """A change with its sign, three decimals and, where known, its interval."""
    if value is None:
        return "none"
    return f"{value:+.3f}" + (f" ({interval[0]:+.3f} to {interval[1]:+.3f})" if interval else "")
