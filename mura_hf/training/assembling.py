"""Families that are made of members, each trained as a model of its own."""

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
from tqdm.auto import tqdm

from ..data import ViewDataset, make_manifest, manifest_source, write_manifest
from ..data.loading import describe_positive_class
from ..errors import ConfigError, DatasetError
from ..models import (
    BODY_PARTS,
    MuraEnsembleForImageClassification,
    MuraImageProcessor,
    MuraSpecializedForImageClassification,
    check_processors,
)
from .building import build_processor
from .claiming import stands_finished
from .families import ASSEMBLED, model_class
from .keeping import (
    CHECKPOINT_FOLDER,
    FINISHED_FILE,
    MANIFEST_FILE,
    RUN_FILE,
    identity_of,
    make_record,
    save_checkpoint,
    write_identity,
)
from .member_weights import fit_member_weights
from .prediction import predict_views
from .recipe import Recipe
from .recipe_reading import load_recipe
from .selecting import told_of_metrics

ROUTER = "router"
_DEV_BATCH = 32


@dataclasses.dataclass(frozen=True)
class Member:
    """A member to be.

    Attributes:
        recipe: Its own.
        datasets: What it is trained on.
        body_part: The one that it is for; None for all.
    """

    recipe: Recipe
    datasets: DatasetDict
    body_part: str | None = None


def plan_members(recipe: Recipe, datasets: DatasetDict) -> dict[str, Member]:
    """What a recipe of members has trained, by the name of the folder.

    An ensemble has the recipes that it names; one that it names n times is trained with n seeds, counted up from the
    ensemble's, each in a folder like "film-0". A specialised model has a classifier of its own recipe for each body
    part of the data, and the router where it names one. All are cut and else seeded as the recipe at the top says.

    Raises:
        ConfigError: If a member is made of members itself.
        DatasetError: If the data have no body parts, or one whose dev lacks a class.
        CheckpointError: If members would prepare pictures differently.
    """
    cut = recipe.cut()
    if recipe.family == "ensemble":
        plan = {}
        for name, times in Counter(recipe.members).items():
            own = dataclasses.replace(load_recipe(name), **cut)
            seeds = range(recipe.seed, recipe.seed + times)
            for seed in seeds:
                folder = Path(name).stem + (f"-{seed}" if times > 1 else "")
                if folder in plan:
                    raise ConfigError(f"two members would be called {folder}; rename one of their recipes' files")
                plan[folder] = Member(dataclasses.replace(own, seed=seed), datasets)
    else:
        own = dataclasses.replace(recipe, family="classifier", router=None)
        known = sorted({part for part in datasets["train"]["body_part"] if part is not None})
        if not known:
            raise DatasetError(
                "the data do not tell body parts, so there can be no model for each; use another family"
            )
        plan = {BODY_PARTS[part]: Member(own, _of_part(datasets, part), BODY_PARTS[part]) for part in known}
        for name, member in plan.items():
            if any(set(member.datasets[split]["label"]) != {0, 1} for split in ("train", "dev")):
                raise DatasetError(
                    f"train and dev need normal and abnormal studies of every part, and {name} lacks some; use more "
                    "studies, other body parts or a larger dev_fraction"
                )
        if recipe.router is not None:
            router = dataclasses.replace(load_recipe(recipe.router), **cut)
            if not router.body_part_head:
                raise ConfigError(f"the router {recipe.router} finds no body part; set its body_part_head to true")
            plan[ROUTER] = Member(router, datasets)
    for name, member in plan.items():
        if member.recipe.family in ASSEMBLED:
            raise ConfigError(f"member {name} is made of members itself; name recipes of single models")
    check_processors({name: build_processor(member.recipe) for name, member in plan.items()})
    return plan


def train_members(
    datasets: DatasetDict,
    recipe: Recipe,
    output_dir: Path,
    *,
    train_one: Callable[..., Path],
    data_description: dict[str, Any],
    trained_on_phantoms: bool,
    cpu: bool,
    num_workers: int,
    cache_dir: str | Path | None,
) -> Path:
    """Trains the members of a recipe one after the other and puts them together.

    Each has a folder of `output_dir`, called like the recipe (and seed) or the body part. One that an earlier run
    finished with the same settings and data stays as it is; one that was begun and not finished goes on where it was.

    Args:
        datasets: All splits.
        recipe: Of an ensemble or a specialised model.
        output_dir: New, or empty but for members, or that of the same run.
        train_one: Trains a member: `(datasets, recipe, folder, data_description=...)`.
        data_description: What the data are.
        trained_on_phantoms: Whether they are synthetic.
        cpu: Whether to stay on the CPU.
        num_workers: Not used here; members read as `train_one` does.
        cache_dir: Likewise.

    Returns:
        The checkpoint's folder.

    Raises:
        DatasetError: If the folder holds something else, or a member of other settings or data.
    """
    plan = plan_members(recipe, datasets)
    accelerator = _fresh_accelerator(cpu)
    identity = identity_of(recipe, datasets, accelerator.num_processes)
    finished = stands_finished(output_dir, identity, may_hold=plan)
    accelerator.wait_for_everyone()
    if finished:
        return output_dir / CHECKPOINT_FOLDER
    if accelerator.is_main_process:
        output_dir.mkdir(parents=True, exist_ok=True)
        write_identity(output_dir / RUN_FILE, identity)
    for name, member in plan.items():
        accelerator = _fresh_accelerator(cpu)
        if accelerator.is_main_process:
            stands = (output_dir / name / FINISHED_FILE).is_file()
            tqdm.write(f"Member {name}" + (": stands already" if stands else ""))
        accelerator.wait_for_everyone()
        AcceleratorState._reset_state()  # a member may have another precision than the one before
        # Whatever a member is seeded by, the data are cut as the recipe at the top says.
        description = {**data_description, "cut": recipe.cut()}
        description |= {"body_parts": [member.body_part]} if member.body_part else {}
        train_one(member.datasets, member.recipe, output_dir / name, data_description=description)

    started = time.monotonic()
    accelerator = _fresh_accelerator(cpu)
    folders = {name: output_dir / name / CHECKPOINT_FOLDER for name in plan}
    models = {name: model_class(plan[name].recipe.family).from_pretrained(folders[name]) for name in plan}
    processors = {name: MuraImageProcessor.from_pretrained(folder) for name, folder in folders.items()}
    processor = next(iter(processors.values()))
    model: Any
    if recipe.family == "ensemble":
        weights = _fit_weights(models, datasets, processor, accelerator) if recipe.fit_member_weights else None
        model = MuraEnsembleForImageClassification.from_members(models, processors=processors, weights=weights)
    else:
        router = models.pop(ROUTER, None)
        model = MuraSpecializedForImageClassification.from_members(models, processors=processors, router=router)
    model.config.trained_on_phantoms = trained_on_phantoms
    model.config.positive_class_description = describe_positive_class(data_description)

    prepared = accelerator.prepare_model(model, evaluation_mode=True)
    views = ViewDataset(datasets["dev"], processor)
    dev = predict_views(prepared, views, accelerator, batch_size=_DEV_BATCH, progress="dev").study_metrics()
    members = {name: _told_of(folder) for name, folder in folders.items()}
    record = make_record(
        recipe,
        datasets,
        data_description,
        accelerator,
        epoch=None,
        dev=dev,
        members=members,
        member_weights=model.config.weights if recipe.family == "ensemble" else None,
        # Members may stand since long.
        seconds=round(time.monotonic() - started + sum(member["seconds"] for member in members.values()), 1),
    )
    if accelerator.is_main_process:
        tqdm.write(f"{len(plan)} members: dev studies {told_of_metrics(dev)}")
        patients = ((split, patient) for split, rows in datasets.items() for patient in rows["patient_id"])
        write_manifest(make_manifest(patients, manifest_source(data_description)), output_dir / MANIFEST_FILE)
        save_checkpoint(accelerator.unwrap_model(prepared), processor, record, output_dir / CHECKPOINT_FOLDER)
        write_identity(output_dir / FINISHED_FILE, identity)
    accelerator.wait_for_everyone()
    return output_dir / CHECKPOINT_FOLDER


def _of_part(datasets: DatasetDict, part: int) -> DatasetDict:
    """The rows of one body part."""
    return DatasetDict(
        {
            split: rows.select(np.flatnonzero(np.asarray([one == part for one in rows["body_part"]], bool)))
            for split, rows in datasets.items()
        }
    )


def _fresh_accelerator(cpu: bool) -> Accelerator:
    AcceleratorState._reset_state()
    return Accelerator(cpu=cpu)


def _fit_weights(
    models: dict[str, Any], datasets: DatasetDict, processor: MuraImageProcessor, accelerator: Accelerator
) -> dict[str, float]:
    """The members' weights, fitted on the studies of calib."""
    views = ViewDataset(datasets["calib"], processor)
    if set(datasets["calib"]["label"]) != {0, 1}:
        raise DatasetError(
            "fit_member_weights needs normal and abnormal studies in calib; use more studies or a larger "
            "calib_fraction, or set it to false"
        )
    answers: list[np.ndarray] = []
    for name, model in models.items():
        prepared = accelerator.prepare_model(model, evaluation_mode=True)
        found = predict_views(prepared, views, accelerator, batch_size=_DEV_BATCH, progress=f"calib, {name}")
        probabilities, labels = found.study_probabilities()
        answers.append(probabilities)
    return dict(zip(models, fit_member_weights(np.stack(answers), labels), strict=True))


def _told_of(folder: Path) -> dict[str, Any]:
    """What the record says of a member."""
    record = json.loads((folder / "training.json").read_text())
    told = {"recipe": record["recipe"]["name"], "seed": record["recipe"]["seed"]}
    told |= {name: record[name] for name in ("epoch", "dev", "seconds")}
    return {**told, **({"base": record["base"]} if "base" in record else {}), "settings": record["recipe"]}
