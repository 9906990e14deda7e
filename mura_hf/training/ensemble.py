"""Models that consist of members: ensembles, and specialized models with a member for each body part."""

import dataclasses
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from datasets import DatasetDict
from scipy.optimize import minimize
from tqdm.auto import tqdm

from ..common import BODY_PARTS
from ..data import ViewDataset
from ..data.loading import describe_positive_class
from ..data.views import labels_and_patients
from ..errors import ConfigError, DatasetError
from ..metrics import too_few_studies
from ..models import (
    MuraEnsembleForImageClassification,
    MuraImageProcessor,
    MuraSpecializedForImageClassification,
    check_processors,
)
from .arguments import TrainingConfig
from .checkpointing import FINISHED_FILE, RUN_FILE, identify_run, is_finished, write_identity
from .configs import config_name, load_config
from .initialization import build_processor
from .prediction import predict_views
from .records import CHECKPOINT_FOLDER, describe_metrics, make_record, save_checkpoint, write_split_manifest
from .validation import COMPOSED, FAMILIES

ROUTER = "router"
_BATCH_SIZE = 32
_EDGE = 1e-12


@dataclasses.dataclass(frozen=True)
class Member:
    """A planned member: its config, what it is trained on, and its body part (None for all)."""

    config: TrainingConfig
    datasets: DatasetDict
    body_part: str | None = None


def plan_members(config: TrainingConfig, datasets: DatasetDict) -> dict[str, Member]:
    """The members of a config by the name of their folder.

    An ensemble has the configs in `members`; one that is named n times is trained with n seeds, counted up from the
    ensemble's, in folders such as "film-0". A specialized model has a classifier of its own config for each body part
    of the data, and the router if there is one. All are split as the config says.

    Raises:
        ConfigError: If a member consists of members itself, or two members have the same name.
        DatasetError: If the data have no body parts, or the dev set of a part lacks a class.
        CheckpointError: If members have different preprocessing.
    """
    plan = (_plan_ensemble if config.model.family == "ensemble" else _plan_specialized)(config, datasets)
    for name, member in plan.items():
        if member.config.model.family in COMPOSED:
            raise ConfigError(f"member {name} consists of members itself; use configs of single models")
    check_processors({name: build_processor(member.config) for name, member in plan.items()})
    return plan


def _plan_ensemble(config: TrainingConfig, datasets: DatasetDict) -> dict[str, Member]:
    plan = {}
    for reference, times in Counter(config.model.members).items():
        for seed in range(config.training.seed, config.training.seed + times):
            own = load_config(reference, config.folders).replace(**config.split_options() | {"seed": seed})
            folder = config_name(reference) + (f"-{seed}" if times > 1 else "")
            if folder in plan:
                raise ConfigError(f"two members would be called {folder}; rename one of their configs")
            plan[folder] = Member(own, datasets)
    return plan


def _plan_specialized(config: TrainingConfig, datasets: DatasetDict) -> dict[str, Member]:
    own = config.replace(family="classifier", router=None)
    parts = sorted({part for part in datasets["train"]["body_part"] if part is not None})
    if not parts:
        raise DatasetError("the data have no body parts, so there can be no model for each; use another family")
    plan = {}
    for part in parts:
        name = BODY_PARTS[part]
        rows = DatasetDict(
            {
                split: every.select([row for row, one in enumerate(every["body_part"]) if one == part])
                for split, every in datasets.items()
            }
        )
        if any(set(rows[split]["label"]) != {0, 1} for split in ("train", "dev")):
            raise DatasetError(
                f"train and dev need normal and abnormal studies of every body part, but {name} lacks some; use more "
                "studies, other body parts or a larger dev_fraction"
            )
        plan[name] = Member(own, rows, name)
    if config.model.router is not None:
        router = load_config(config.model.router, config.folders).replace(**config.split_options())
        if not router.model.body_part_head:
            raise ConfigError(
                f"the router {config.model.router} does not predict the body part; set its body_part_head to true"
            )
        if len(parts) < 2:
            raise ConfigError(f"the data have one body part, {name}, so nothing can be routed: set router to none")
        plan[ROUTER] = Member(router, datasets)
    return plan


def train_members(
    datasets: DatasetDict,
    config: TrainingConfig,
    output_dir: Path,
    *,
    train_one: Callable[..., Path],
    data_description: dict[str, Any],
    trained_on_phantoms: bool,
    cpu: bool,
) -> Path:
    """Trains the members of a config one after the other, and combines them.

    Each has a folder in `output_dir`. A member that was finished before with the same settings and data is not
    trained again; one that was not finished continues.

    Args:
        datasets: All splits.
        config: Config of an ensemble or a specialized model.
        output_dir: New folder, or the folder of the same run; finished members may be there already.
        train_one: Trains a member: `(datasets, config, folder, data_description=...)`.
        data_description: What the data are; the other arguments are those of `train`.

    Raises:
        DatasetError: If the folder contains something else, or a member with other settings or data.
    """
    plan = plan_members(config, datasets)
    accelerator = _new_accelerator(cpu)
    identity = identify_run(config, datasets, accelerator.num_processes)
    finished = is_finished(output_dir, identity, allowed=plan)
    accelerator.wait_for_everyone()
    if finished:
        return output_dir / CHECKPOINT_FOLDER
    if accelerator.is_main_process:
        output_dir.mkdir(parents=True, exist_ok=True)
        write_identity(output_dir / RUN_FILE, identity)
    for name, member in plan.items():
        accelerator = _new_accelerator(cpu)
        if accelerator.is_main_process:
            done = (output_dir / name / FINISHED_FILE).is_file()
            tqdm.write(f"Member {name}" + (": finished already" if done else ""))
        accelerator.wait_for_everyone()
        AcceleratorState._reset_state()  # a member may have another precision than the one before
        # Members have their own seeds, but the split of the config.
        description = {**data_description, "split": config.split_options()}
        description |= {"body_parts": [member.body_part]} if member.body_part else {}
        train_one(member.datasets, member.config, output_dir / name, data_description=description)

    started = time.monotonic()
    accelerator = _new_accelerator(cpu)
    folders = {name: output_dir / name / CHECKPOINT_FOLDER for name in plan}
    model, processor = _combine(config, plan, folders, datasets, accelerator)
    model.config.trained_on_phantoms = trained_on_phantoms
    model.config.positive_class_description = describe_positive_class(data_description)

    prepared = accelerator.prepare_model(model, evaluation_mode=True)
    views = ViewDataset(datasets["dev"], processor)
    dev = predict_views(prepared, views, accelerator, batch_size=_BATCH_SIZE, progress="dev").study_metrics()
    members = {name: _summarize(folder) for name, folder in folders.items()}
    weights = model.config.weights if config.model.family == "ensemble" else None
    # Members may have been trained long before.
    seconds = round(time.monotonic() - started + sum(member["seconds"] for member in members.values()), 1)
    record = make_record(
        config, datasets, data_description, accelerator, epoch=None, dev=dev, members=members, member_weights=weights,
        seconds=seconds,
    )  # fmt: skip
    if accelerator.is_main_process:
        tqdm.write(f"{len(plan)} members: dev studies {describe_metrics(dev)}")
        write_split_manifest(datasets, data_description, output_dir)
        save_checkpoint(accelerator.unwrap_model(prepared), processor, record, output_dir / CHECKPOINT_FOLDER)
        write_identity(output_dir / FINISHED_FILE, identity)
    accelerator.wait_for_everyone()
    return output_dir / CHECKPOINT_FOLDER


def _new_accelerator(cpu: bool) -> Accelerator:
    AcceleratorState._reset_state()
    return Accelerator(cpu=cpu)


def _combine(
    config: TrainingConfig, plan: dict[str, Member], folders: dict[str, Path], datasets: DatasetDict, accelerator: Any
) -> tuple[Any, MuraImageProcessor]:
    """The combined model of trained members, and its image processor."""
    models = {name: FAMILIES[plan[name].config.model.family].from_pretrained(folders[name]) for name in plan}
    processors = {name: MuraImageProcessor.from_pretrained(folder) for name, folder in folders.items()}
    processor = next(iter(processors.values()))
    if config.model.family == "specialized":
        router = models.pop(ROUTER, None)
        combined = MuraSpecializedForImageClassification.from_members(models, processors=processors, router=router)
        return combined, processor
    weights = _fit_weights(models, datasets, processor, accelerator) if config.model.fit_member_weights else None
    return MuraEnsembleForImageClassification.from_members(models, processors=processors, weights=weights), processor


def _fit_weights(
    models: dict[str, Any], datasets: DatasetDict, processor: MuraImageProcessor, accelerator: Accelerator
) -> dict[str, float] | None:
    """Weights of the members, fitted on the studies of calib; None if these are too few."""
    if few := too_few_studies(*labels_and_patients(datasets["calib"]), "calibration"):
        if accelerator.is_main_process:
            tqdm.write(f"Weights of the members are equal, not fitted on calib: {few}")
        return None
    views = ViewDataset(datasets["calib"], processor)
    probabilities: list[np.ndarray] = []
    for name, model in models.items():
        prepared = accelerator.prepare_model(model, evaluation_mode=True)
        found = predict_views(prepared, views, accelerator, batch_size=_BATCH_SIZE, progress=f"calib, {name}")
        pooled, labels = found.study_probabilities()
        probabilities.append(pooled)
    return dict(zip(models, fit_member_weights(np.stack(probabilities), labels), strict=True))


def _summarize(folder: Path) -> dict[str, Any]:
    """What the combined record says about a member."""
    record = json.loads((folder / "training.json").read_text())
    arguments = record.get("arguments") or record["recipe"]
    summary = {"config": arguments["name"], "recipe": arguments["name"]}  # "recipe" in the first edition
    summary |= {"seed": arguments["seed"], **{name: record[name] for name in ("epoch", "dev", "seconds")}}
    summary |= {"base": record["base"]} if "base" in record else {}
    settings = {"arguments": record["arguments"]} if "arguments" in record else {}
    return {**summary, **settings, "settings": record["recipe"]}


def fit_member_weights(probabilities: np.ndarray, labels: np.ndarray) -> list[float]:
    """Convex weights that minimize the cross entropy of the weighted mean of the members' probabilities.

    The problem is convex: -mean log sum_m w_m P_m(true label), over w on the simplex.

    Args:
        probabilities: `[M, n]`, P(abnormal) of each member for each study.
        labels: int `[n]`, 0 normal and 1 abnormal.

    Returns:
        A weight for each member, none negative; their sum is 1.

    Raises:
        ValueError: If a class is missing, or there is no member.
    """
    if len(probabilities) < 1 or set(np.unique(labels)) != {0, 1}:
        raise ValueError("fitting member weights needs at least one member, and normal and abnormal studies")
    correct = np.clip(np.where(labels == 1, probabilities, 1 - probabilities), _EDGE, 1)
    n = len(correct)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        mixed = weights @ correct
        return float(-np.log(mixed).mean()), -(correct / mixed).mean(1)

    found = minimize(
        loss,
        np.full(n, 1 / n),
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * n,
        constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1, "jac": lambda weights: np.ones(n)},
        options={"ftol": 1e-12, "maxiter": 1000},
    )
    weights = np.clip(found.x, 0, None)
    return [float(weight) for weight in weights / weights.sum()]
