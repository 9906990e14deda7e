"""`render_card`: a model card from a checkpoint's records alone, or an error that names the record that is missing."""

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Undefined, UndefinedError

from ..common import BUNDLED
from ..data.loading import LICENSES, SOURCES, DataSource, describe_positive_class
from ..errors import CardError
from ..evaluation import describe_verdict
from ..evaluation.shortcuts import MIN_EXCLUDING
from ..metrics import MIN_CLUSTERS
from ..models import BODY_PARTS, MuraBaseConfig
from ..models.backbone_mura import IMAGENET_CREDIT
from ..models.golden_mura import digest_weights
from ..retrieval import FOLDER, read_record
from ..training import config_names
from .export import ONNX_FOLDER, STUDY_FILE, TIMM_FOLDER, index_is_exported, onnx_files, timm_files
from .training_section import bases_of, model_rows, training_command, training_section

BLOCKS = {
    "about": "What it is",
    "use": "Intended use",
    "usage": "How to use",
    "model": "Model",
    "data": "Data",
    "training": "Training",
    "results": "Results",
    "parts": "Body parts",
    "operating_points": "Operating points",
    "calibration": "Calibration",
    "explanations": "Heatmaps",
    "ood_detection": "Out-of-distribution detection",
    "retrieval": "Similar studies",
    "shortcuts": "Shortcuts",
    "limits": "Limits",
    "environment": "Versions and time",
    "licence": "Licence",
    "citation": "Citation",
}
"""Blocks in the order of the card: template `card_blocks/NAME.md` -> heading. The first one is shown without it."""

_TEMPLATES = Path(__file__).parent / "card_blocks"
_RECORDS = ("config", "preprocessor_config", "training", "evaluation")
_REQUIRED = """
config.operating_points preprocessor_config.resize_mode training.data.name training.data.split_digest
training.data.studies training.selected_by training.device training.versions evaluation.threshold_chosen
evaluation.study.overall.figures.auroc evaluation.curves.roc evaluation.curves.precision_recall evaluation.baselines
"""
"""Values that may not be null or empty, although the templates could render without them."""

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_DATASET_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_UNCALIBRATED = {"temperature": 1, "study_slope": 1, "study_intercept": 0}
_PHANTOM_OPTIONS = {
    "twins": False, "views_tell": False, "planted_marker": False, "body_parts": None, "findings": None,
    "exposure": None, "train_shares": None,
}  # fmt: skip
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
    "constant": "a constant: the share of abnormal studies in train",
    "view_count": "the number of views alone",
}


def render_card(folder: str | Path, name: str, *, pictures: str = "") -> str:
    """Renders the card of a checkpoint.

    Args:
        folder: Checkpoint with its records.
        name: Its name on the Hub, or the name of a bundled checkpoint.
        pictures: Prefix for the file names of plots that are not beside the card.

    Returns:
        Markdown with a YAML header.

    Raises:
        CardError: If a record is missing, does not fill a block of the card, lacks a value that the card shows, or
            belongs to other weights; the message names it.
        CheckpointError: If an export beside the checkpoint is incomplete or belongs to other weights.
    """
    folder = Path(folder)
    records = _read_records(folder)
    environment = load_templates()
    texts: list[str] = []
    place = "the card"
    try:
        _check_values(records)
        _check_fit(records, folder)
        metadata = card_metadata(records, name)
        records["training"] = {"remarks": [], **records["training"]}
        values = {**_collect_values(records, folder, name), "pictures": pictures, **records}
        for block, title in BLOCKS.items():
            place = f'the block "{title}" of the card'
            text = environment.get_template(f"{block}.md").render(values).strip()
            if not text:
                raise CardError(f"{place} of {folder} is empty")
            texts.append(f"## {title}\n\n{text}" if texts else text)
    except (UndefinedError, LookupError, TypeError, AttributeError) as error:
        raise CardError(
            f"{place} of {folder} lacks a value in one of its records ({error}); run scripts/evaluate.py, and if that "
            "does not help, train it again"
        ) from error
    return "\n\n".join([f"---\n{metadata.to_yaml()}\n---", f"# {name}", *texts]) + "\n"


class _Templates(Environment):
    """Templates in which a value that is not defined or null is an error."""

    def __init__(self) -> None:
        loader = FileSystemLoader(_TEMPLATES)
        super().__init__(
            loader=loader, undefined=StrictUndefined, finalize=self.check, trim_blocks=True, lstrip_blocks=True
        )
        self.attribute = ""  # that was read last

    def getattr(self, obj: Any, attribute: str) -> Any:
        self.attribute = attribute
        return super().getattr(obj, attribute)

    def check(self, value: Any) -> Any:
        """Raises if a value that is to be shown is None."""
        if value is None:
            raise UndefinedError(f"{self.attribute!r} is null")
        return value


def load_templates() -> Environment:
    """Returns the templates of cards."""
    environment = _Templates()
    environment.filters |= {
        "figure": _format_figure,
        "change": _format_change,
        "percent": lambda share: f"{100 * share:.0f} %",
    }
    return environment


def _read_records(folder: Path) -> dict[str, Any]:
    records: dict[str, Any] = {}
    for name in _RECORDS:
        file = folder / f"{name}.json"
        try:
            records[name] = json.loads(file.read_text())
        except FileNotFoundError as error:
            raise CardError(
                f"{folder} has no {file.name}, which the card is rendered from; train, then run scripts/evaluate.py"
            ) from error
        except json.JSONDecodeError as error:
            raise CardError(f"{file} is not valid JSON ({error}); make it again") from error
    return records


def _check_values(records: dict[str, Any]) -> None:
    """Raises if a required value is missing, null or empty."""
    for path in _REQUIRED.split():
        value: Any = records
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if value is None or value in ("", {}, []):
            raise UndefinedError(f"{path} is missing, null or empty")


def _check_fit(records: dict[str, Any], folder: Path) -> None:
    """Raises if the evaluation belongs to another split, other weights, thresholds, calibration or index."""
    config, evaluation = records["config"], records["evaluation"]
    rerun = "run scripts/evaluate.py"
    if evaluation.get("split") != "valid":
        raise CardError(
            f"{folder}: evaluation.json is about {evaluation.get('split')!r}; a card shows valid, so {rerun} on it"
        )
    if evaluation.get("weights_sha256") != digest_weights(folder):
        raise CardError(f"{folder}: evaluation.json belongs to other weights; {rerun} on these")
    points = {name: point["threshold"] for name, point in evaluation["operating_points"].items()}
    calibrated = evaluation.get("calibration") == _calibration(records) and points == config["operating_points"]
    threshold, limits = _default_limits(config)
    by_earlier_version = "bands" not in evaluation and config.get("bands") is None
    if not calibrated or not (by_earlier_version or evaluation.get("bands", {}).get("limits") == limits):
        raise CardError(f"{folder} was calibrated after evaluation.json was written; {rerun} again")
    if evaluation["threshold"] != threshold:
        raise CardError(
            f"{folder}: evaluation.json was made at a threshold of {evaluation['threshold']:g}, but the checkpoint's "
            f"default is {threshold:g}; {rerun} again"
        )
    measured = evaluation.get("retrieval")
    if (folder / FOLDER).is_dir() and (
        measured is None or read_record(folder / FOLDER).build != measured["index"]["build"]
    ):
        raise CardError(f"{folder}: evaluation.json is not about the index in {FOLDER}/; {rerun} again")


def _default_limits(config: dict[str, Any]) -> tuple[float, dict[str, float]]:
    """Default threshold of a config, and the cut points of its bands."""
    fields = ("operating_points", "default_operating_point", "bands")
    settings = MuraBaseConfig(**{name: config.get(name) for name in fields})
    _, threshold = settings.find_threshold()
    return threshold, dict(zip(("low", "suspected"), settings.find_band_limits(threshold), strict=True))


def _calibration(records: dict[str, Any]) -> dict[str, float]:
    return {name: records["config"].get(name, neutral) for name, neutral in _UNCALIBRATED.items()}


def sources_of(records: dict[str, Any]) -> tuple[DataSource, DataSource]:
    """Data that a checkpoint was trained on, and data that it was evaluated on, in the words of that time."""
    trained = records["training"]["data"]
    key = trained.get("key", "phantoms" if records["config"]["trained_on_phantoms"] else "mura")
    evaluated = records["evaluation"].get("data", {"key": key})
    try:
        recorded = {name: evaluated[name] for name in ("held_out", "clusters") if name in evaluated}
        return SOURCES[key], replace(SOURCES[evaluated["key"]], **recorded)
    except KeyError as error:
        raise CardError(f"a record names unknown data: {error}; known are {', '.join(SOURCES)}") from error


def _base_keys(records: dict[str, Any]) -> list[str]:
    """Keys of all data that the weights which it started from were trained on."""
    keys = [one["key"] for base in bases_of(records["training"]) for one in base["trained_on"] or []]
    return list(dict.fromkeys(keys))


def _base_sources(records: dict[str, Any]) -> list[DataSource]:
    """Other data that the checkpoints which it started from were trained on."""
    own = sources_of(records)[0].key
    return [SOURCES[key] for key in _base_keys(records) if key in SOURCES and key != own]


def _strictest_licence(records: dict[str, Any]) -> DataSource:
    """Data with the strictest licence of all that the weights depend on."""
    return max([sources_of(records)[0], *_base_sources(records)], key=lambda one: LICENSES.index(one.license))


def card_metadata(records: dict[str, Any], name: str) -> ModelCardData:
    """YAML header of a card from the records of a checkpoint."""
    phantoms, held_out = records["config"]["trained_on_phantoms"], sources_of(records)[1]
    synthetic = held_out.key == "phantoms"
    split, figures = records["evaluation"]["split"], records["evaluation"]["study"]["overall"]["figures"]
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type="synthetic-phantoms" if synthetic else held_out.key,
            dataset_name=f"{'Synthetic phantoms of mura_hf' if synthetic else held_out.name}, {split}, study level",
            dataset_split=split,
            metric_type=metric,
            metric_value=round(figures[metric], 4),
        )
        for metric in ("auroc", "kappa", "sensitivity", "specificity")
        if figures[metric] is not None
    ]
    strictest = _strictest_licence(records)
    names = ("license", "license_name", "license_link")
    optional: dict[str, Any] = {key: getattr(strictest, key) for key in names if getattr(strictest, key)}
    bases = [base["name"] for base in bases_of(records["training"]) if _HUB_NAME.fullmatch(base["name"])]
    if bases:
        optional |= {"base_model": bases[0] if len(bases) == 1 else bases, "base_model_relation": "finetune"}
    dataset = records["training"]["data"].get("dataset")
    if dataset and _DATASET_NAME.fullmatch(dataset):
        optional["datasets"] = [dataset]
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["medical", "radiograph", "musculoskeletal", "mura"] + ["synthetic"] * phantoms,
        metrics=["roc_auc", "cohen_kappa"],
        model_name=name,
        eval_results=results,
        **optional,
    )


def _collect_values(records: dict[str, Any], folder: Path, name: str) -> dict[str, Any]:
    """Values for the templates in addition to the records."""
    config, training = records["config"], records["training"]
    source, held_out = sources_of(records)
    bases = _base_sources(records)
    data, made_with = training["data"], training["data"].get("made_with")  # options of phantoms
    regions = data.get("regions", "all")
    _, limits = _default_limits(config)
    return {
        "name": name,
        "bundled": name in BUNDLED and folder.resolve() == BUNDLED[name].resolve(),
        "on_hub": "/" in name,  # where the picture of mistakes is not pushed
        "source": source,
        "held_out": held_out,
        "base_sources": bases,
        "imagenet_credit": IMAGENET_CREDIT if "imagenet" in _base_keys(records) else None,
        "strictest": _strictest_licence(records),
        "cited": list(dict.fromkeys(one.citation for one in [source, *bases, held_out] if one.citation)),
        "covers": source.covers if regions == "all" else f"of {' or '.join(regions)} (one view)",
        "positive_class_description": describe_positive_class({"key": source.key, **data}),
        **_example_input(records),
        "model": model_rows(records),
        "needs_part": config["model_type"] == "mura_specialized" and not config.get("router"),
        "section": training_section(training),
        "command": training_command(training),
        "config_is_known": dict(pairwise(training.get("options", []))).get("--config") in config_names(),
        "calibrated": _calibration(records) != _UNCALIBRATED,
        "limits": limits if limits["low"] < limits["suspected"] else None,
        "verdict": describe_verdict(records["evaluation"]),
        "min_clusters": MIN_CLUSTERS,
        "min_excluding": MIN_EXCLUDING,
        "clusters": held_out.clusters,
        "figures": _FIGURES,
        "baseline_names": _BASELINES,
        "index_is_exported": index_is_exported(folder),
        "exports": _list_exports(folder),
        "made_with": {**_PHANTOM_OPTIONS, **made_with} if made_with else None,
    }


_POOLED = {"mean": "views.mean(0)", "max": "views.max(0)", "noisy_or": "1 - (1 - views).prod(0)"}
"""Probability of a study from those of its views `[V, M]`, for the card's example in Python."""


def _list_exports(folder: Path) -> dict[str, Any]:
    """The exports beside a checkpoint: `rows` of files with what was measured, and what the examples need."""
    rows: list[dict[str, Any]] = []
    found: dict[str, Any] = {"rows": rows, "graph": False, "timm": False}
    if onnx_files(folder):
        study = json.loads((folder / ONNX_FOLDER / STUDY_FILE).read_text(encoding="utf-8"))
        smaller = {name: one for name, one in study.get("smaller_files", {}).items() if one["kept"]}
        whole = {"largest_change": study.get("probability_difference")}
        for one in smaller.values():
            whole["auroc"] = one["auroc"] - one["auroc_change"]
        parts = {f"{part}.onnx": one for part, one in study.get("graphs", {}).items()}
        measured = {"model.onnx": whole, **smaller, **parts}
        for file in onnx_files(folder)[1:]:
            values = {**measured.get(file.name, {}), "milliseconds": study.get("milliseconds", {}).get(file.name)}
            rows.append({**values, "name": f"{ONNX_FOLDER}/{file.name}", "bytes": file.stat().st_size})
        poolings = {member["pooling"] for member in study.get("members", [])}
        found |= {
            "graph": "graphs" not in study,
            "pooled": _POOLED.get(poolings.pop()) if len(poolings) == 1 else None,
            "detector": bool(study.get("ood_thresholds")),
        }
    if timm_files(folder):
        settings = json.loads((folder / TIMM_FOLDER / "config.json").read_text(encoding="utf-8"))
        file = folder / TIMM_FOLDER / "model.safetensors"
        values = settings["mura_hf"]["comparison"] or {}
        rows.append({**values, "name": f"{TIMM_FOLDER}/{file.name}", "bytes": file.stat().st_size})
        found["timm"] = True
    return found


def _example_input(records: dict[str, Any]) -> dict[str, str]:
    """`files` of a study like those of training, as arguments in Python, and its body part `part`."""
    data, members = records["training"]["data"], records["config"].get("members") or {}
    parts = [part for part in BODY_PARTS if part in records["evaluation"]["study"] or part in members]
    single = sum(data["views"].values()) <= sum(data["studies"].values())
    return {
        "files": '"radiograph.png"' if single else '"frontal.png", "lateral.png"',
        "part": "wrist" if "wrist" in parts or not parts else parts[0],
    }


def _format_figure(value: float | None, interval: Any = None) -> str:
    """Three decimals, and the interval if known."""
    if value is None:
        return "not defined"
    if not _is_known(interval):
        return f"{value:.3f}"
    return f"{value:.3f} ({interval[0]:.3f}{' to ' if interval[0] < 0 else '-'}{interval[1]:.3f})"


def _format_change(value: float | None, interval: Any = None) -> str:
    """Sign and three decimals, and the interval if known."""
    if value is None:
        return "none"
    return f"{value:+.3f}" + (f" ({interval[0]:+.3f} to {interval[1]:+.3f})" if _is_known(interval) else "")


def _is_known(interval: Any) -> bool:
    """Whether there is an interval. Too few patients or studies give none."""
    return not isinstance(interval, Undefined) and interval is not None and None not in interval
