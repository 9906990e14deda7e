"""Which recipes are run to stand beside studies, and at what cost.

Recipes of the studies, run on data of ours, and measured at the level of the studies' own figures.
"""

import dataclasses
import json
import math
import shutil
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import AutoModelForImageClassification

from mura_hf.common import replace_file
from mura_hf.data import UNKNOWN_PART, ViewDataset, detect_source, load_data, split_digest, split_patients_evenly
from mura_hf.data.mura_release import OFFICIAL_COUNTS
from mura_hf.errors import ConfigError, DatasetError, MuraError, TrainingStopped
from mura_hf.evaluation.evaluation import measure_levels
from mura_hf.evaluation.published import PublishedStudy, PublishedSystem, load_published
from mura_hf.evaluation.splits import describe_source
from mura_hf.metrics import random_baseline
from mura_hf.models import BODY_PARTS, MuraImageProcessor
from mura_hf.training import FINISHED_FILE, Recipe, SplitPredictions, load_recipe, predict_views, train, with_epochs


@dataclass(frozen=True)
class Budget:
    """How far the recipes are cut short.

    Attributes:
        epochs: Passes over train in each stage, those on patches at most; the recipe's own where None.
        fraction: Share of train's patients that is trained on; `dev`, `calib` and `valid` stay whole.
        image_size: Side in pixels of what the models see; the recipe's own where None.
        from_scratch: Whether weights start at random where a study started from ImageNet's.
    """

    epochs: int | None = None
    fraction: float = 1.0
    image_size: int | None = None
    from_scratch: bool = False

    def __post_init__(self) -> None:
        sizes = [one for one in (self.epochs, self.image_size) if one is not None]
        if min(sizes, default=1) < 1 or not 0 < self.fraction <= 1:
            raise ConfigError("epochs and image_size must be above 0, and fraction above 0 and at most 1")

    def told(self) -> str:
        """In words; empty where nothing is cut short."""
        parts = [
            self.epochs and f"{self.epochs} epoch{'s' * (self.epochs > 1)} in each stage",
            self.fraction < 1 and f"a share of {self.fraction:g} of train's patients",
            self.image_size and f"pictures of {self.image_size} px",
        ]
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class PlannedRun:
    """One training, or a baseline.

    Attributes:
        recipe: Its name; None for a baseline.
        baseline: "random"; None for a training.
        body_parts: What it is trained and measured on.
    """

    recipe: str | None
    baseline: str | None
    body_parts: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of its folder."""
        parts = [] if self.body_parts == tuple(BODY_PARTS) else list(self.body_parts)
        return "-".join([Path(self.recipe or self.baseline or "").stem, *parts])


def run_of(system: PublishedSystem) -> PlannedRun | None:
    """The run that stands beside a system; None where we have none."""
    if system.recipe is None and system.baseline is None:
        return None
    return PlannedRun(system.recipe, system.baseline, system.body_parts)


def plan_runs(studies: Sequence[PublishedStudy], recipes: Sequence[str] | None = None) -> list[PlannedRun]:
    """The runs of studies, each once, in their order.

    Args:
        studies: Whose systems.
        recipes: Names of some; all where None.

    Raises:
        ConfigError: If one of them is none of the studies'.
    """
    runs = [run_of(system) for study in studies for system in study.systems]
    known = dict.fromkeys(run for run in runs if run is not None)
    if recipes is None:
        return list(known)
    names = {run.recipe or run.baseline for run in known}
    if unknown := [name for name in recipes if name not in names]:
        raise ConfigError(
            f"{', '.join(unknown)}: no such recipe in what was asked for; there are "
            f"{', '.join(sorted(name for name in names if name))}"
        )
    return [run for run in known if (run.recipe or run.baseline) in recipes]


def cut_short(name: str, budget: Budget, folder: Path) -> Recipe:
    """A recipe at a budget. Recipes of its members are cut likewise, and written to a folder to be read from there."""
    recipe = load_recipe(name)
    if recipe.members:
        return dataclasses.replace(recipe, members=[_write(member, budget, folder) for member in recipe.members])
    if recipe.router is not None:
        recipe = dataclasses.replace(recipe, router=_write(recipe.router, budget, folder))
    if budget.from_scratch:
        recipe = dataclasses.replace(recipe, pretrained=False)
    if budget.epochs is not None:
        patches = dataclasses.replace(recipe.patches, epochs=min(recipe.patches.epochs, budget.epochs))
        recipe = dataclasses.replace(with_epochs(recipe, budget.epochs), patches=patches)
    if budget.image_size is not None:
        scale = budget.image_size / recipe.image_size
        larger = recipe.resize_size and math.ceil(recipe.resize_size * scale)
        patches = dataclasses.replace(recipe.patches, size=max(32, round(recipe.patches.size * scale)))
        recipe = dataclasses.replace(recipe, image_size=budget.image_size, resize_size=larger, patches=patches)
    return recipe


@cache
def starts_pretrained(name: str) -> bool:
    """Whether a recipe, or a member of it, starts from timm's weights."""
    recipe = load_recipe(name)
    return any(map(starts_pretrained, recipe.members)) if recipe.members else recipe.pretrained


def take_patients(rows: Dataset, fraction: float, seed: int) -> Dataset:
    """The rows of a share of the patients, whole, with shares of body parts and labels kept alike."""
    if fraction == 1:
        return rows
    sizes: dict[str, int] = {}
    first: dict[str, tuple[str, str]] = {}
    columns = (rows[name] for name in ("study_id", "patient_id", "body_part", "label"))
    for study, patient, part, label in zip(*columns, strict=True):
        first.setdefault(study, (patient, f"{part} {label}"))
        sizes[study] = sizes.get(study, 0) + 1
    patients, strata = zip(*first.values(), strict=True)
    places = split_patients_evenly(
        patients, strata, list(sizes.values()), {"left": 1 - fraction}, rest="taken", seed=seed
    )
    return rows.select([row for row, patient in enumerate(rows["patient_id"]) if places[patient] == "taken"])


def _write(name: str, budget: Budget, folder: Path) -> str:
    """Writes a recipe at a budget; its file, which keeps the recipe's name."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{Path(name).stem}.yaml"
    text = yaml.safe_dump(cut_short(name, budget, folder).to_dict(), sort_keys=False)
    if not file.is_file() or file.read_text() != text:  # another process may be reading it
        file.write_text(text)
    return str(file)


FIGURES_FILE = "figures.json"
_BUDGET_FILE = "budget.json"
_RUNS, _RECIPES, _FAILURES, _COPYING = "runs", "recipes", "failures", "copying"


@dataclass
class Reproduction:
    """What was reached.

    Attributes:
        source: Key of the data among the `SOURCES` of `data`.
        budget: How far the recipes were cut short.
        records: By the name of the run: `recipe` (None of a baseline), `split_digest`, `whole_valid` (whether `valid`
            is all of MURA's official one, of the run's body parts), `seconds` of training, and `image` and `study` of
            `measure_levels`.
        failed: By the name of the run, why there is no record.
    """

    source: str
    budget: Budget
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def reproduce(
    data_dir: str | Path,
    output_dir: str | Path,
    studies: Sequence[str],
    *,
    budget: Budget | None = None,
    recipes: Sequence[str] | None = None,
    cpu: bool = False,
    num_workers: int = 0,
    cache_dir: str | Path | None = None,
) -> Reproduction:
    """Trains the recipes of studies and measures each on `valid`, its images and its studies.

    A run that stands finished and measured in `output_dir` is neither trained nor measured again; one that was cut
    off goes on, as `train` does. A run that fails is told and leaves its traceback in `failures`; the others go on,
    and it is tried again the next time. Members of an ensemble that were trained for a row of their own are copied.

    Args:
        data_dir: Any of the datasets that `load_data` knows.
        output_dir: Gets a folder for each run, below `runs`.
        studies: Keys of `load_published`.
        budget: How far the recipes are cut short; not at all where None.
        recipes: Some of the studies' recipes only; all where None.
        cpu: Whether to stay on the CPU.
        num_workers: Processes that read files.
        cache_dir: As in `train`.

    Raises:
        DatasetError: If the data are none of the datasets, or `output_dir` holds runs of other data or budget.
        ConfigError: If there is no such recipe among those of the studies.
        TrainingStopped: If a signal stopped a training, which then can be taken up again.
    """
    output_dir = Path(output_dir).absolute()
    runs = plan_runs([load_published()[key] for key in studies], recipes)
    found = Reproduction(detect_source(data_dir).key, budget or Budget())
    state = _fresh_state(cpu)
    with state.main_process_first():
        _claim(output_dir, found)
    options: dict[str, Any] = {"cpu": cpu, "num_workers": num_workers, "cache_dir": cache_dir}
    bar = tqdm(runs, desc="Reproducing", disable=not state.is_main_process)
    for run in bar:
        bar.set_postfix_str(run.name)
        failure = output_dir / _FAILURES / f"{run.name}.txt"
        try:
            found.records[run.name] = _do(run, Path(data_dir), output_dir, found.budget, **options)
            failure.unlink(missing_ok=True)
        except TrainingStopped:
            raise
        except Exception as error:  # whatever it is, it must not take the other runs with it
            if (
                state.num_processes > 1
            ):  # the other processes may be in the middle of that run, and would wait for ever
                raise
            found.failed[run.name] = _sentence(error)
            if PartialState(cpu=cpu).is_main_process:
                failure.parent.mkdir(parents=True, exist_ok=True)
                failure.write_text(traceback.format_exc())
                tqdm.write(f"{run.name} failed: {found.failed[run.name]}")
    return found


def _claim(output_dir: Path, found: Reproduction) -> None:
    """Notes whose runs lie in a folder.

    Raises:
        DatasetError: If they are of other data or budget.
    """
    now, file = {"data": found.source, **asdict(found.budget)}, output_dir / _BUDGET_FILE
    then = json.loads(file.read_text()) if file.is_file() else now
    if other := [f"{name} was {then[name]}, now {now[name]}" for name in now if then[name] != now[name]]:
        raise DatasetError(
            f"{output_dir} holds runs that were made otherwise: {'; '.join(other)}. Give the same again, or name a "
            "new folder"
        )
    if not file.is_file():
        _write_record(file, now)


def _do(
    run: PlannedRun,
    data_dir: Path,
    output_dir: Path,
    budget: Budget,
    *,
    cpu: bool,
    num_workers: int,
    cache_dir: str | Path | None,
) -> dict[str, Any]:
    """The record of a run: the one that stands, or one that is made now."""
    state = _fresh_state(cpu)
    with state.main_process_first():
        recipe = None if run.recipe is None else cut_short(run.recipe, budget, output_dir / _RECIPES)
    chosen: dict[str, Any] = {} if run.body_parts == tuple(BODY_PARTS) else {"body_parts": list(run.body_parts)}
    datasets, source = load_data(data_dir, **chosen, **(recipe or Recipe()).cut())
    datasets["train"] = take_patients(datasets["train"], budget.fraction, seed=0)
    members = ((split, study) for split, rows in datasets.items() for study in rows["study_id"])
    digest = split_digest(members)
    identity = {"recipe": recipe and _comparable(recipe.to_dict()), "split_digest": digest}
    folder, valid = output_dir / _RUNS / run.name, datasets["valid"]
    stands = (folder / FIGURES_FILE).is_file()
    state.wait_for_everyone()
    if stands:
        return _standing(folder / FIGURES_FILE, identity)
    if not len(valid):
        raise DatasetError(f"{data_dir} has no studies in valid to measure on")
    seconds = 0.0
    if recipe is None:
        found = _draw(valid)
    else:
        if state.is_main_process:
            _copy_members(recipe, digest, folder, output_dir / _COPYING)
        state.wait_for_everyone()
        checkpoint = train(
            datasets,
            recipe,
            folder,
            data_description={**describe_source(source, data_dir), "body_parts": "all", **chosen},
            trained_on_phantoms=source.key == "phantoms",
            cpu=cpu,
            num_workers=num_workers,
            cache_dir=cache_dir,
        )
        seconds = json.loads((checkpoint / "training.json").read_text())["seconds"]
        found = _answer(checkpoint, valid, cpu)
    record = {
        **identity,
        "whole_valid": source.key == "mura" and _is_whole(valid, run.body_parts),
        "seconds": seconds,
        **{level: measured.to_dict() for level, measured in measure_levels(found).items()},
    }
    if PartialState(cpu=cpu).is_main_process:
        _write_record(folder / FIGURES_FILE, record)
    return json.loads(json.dumps(record))


def _standing(file: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """A record that an earlier call made.

    Raises:
        DatasetError: If it is of other settings or data.
    """
    stands = json.loads(file.read_text())
    now, then = identity["recipe"] or {}, stands["recipe"] or {}
    other = [name for name in now if then.get(name, now[name]) != now[name]]
    if stands["split_digest"] != identity["split_digest"]:
        other.append("the data, or how they are cut")
    if other:
        raise DatasetError(
            f"{file.parent} holds a run with other settings ({', '.join(other)}); give the same budget and data, or "
            "name a new folder"
        )
    return stands


def _comparable(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe as JSON holds it, with the names of other recipes in the place of their files."""
    told = json.loads(json.dumps(recipe))
    router = told["router"] and Path(told["router"]).stem
    return {**told, "members": [Path(name).stem for name in told["members"]], "router": router}


def _copy_members(recipe: Recipe, digest: str, folder: Path, copying: Path) -> None:
    """Puts finished runs into the place of an ensemble's members, where they are the same runs."""
    for name in recipe.members:
        if recipe.members.count(name) > 1:
            continue  # its members are seeded one by one
        stands, member = folder.parent / Path(name).stem, folder / Path(name).stem
        if member.exists() or not (stands / FINISHED_FILE).is_file():
            continue
        finished = json.loads((stands / FINISHED_FILE).read_text())
        wanted = json.loads(json.dumps({**load_recipe(name).to_dict(), **recipe.cut()}))
        if finished["recipe"] == wanted and finished["split_digest"] == digest:
            shutil.rmtree(copying, ignore_errors=True)
            shutil.copytree(stands, copying, ignore=shutil.ignore_patterns(FIGURES_FILE))
            folder.mkdir(parents=True, exist_ok=True)
            copying.rename(member)


def _answer(checkpoint: Path, valid: Dataset, cpu: bool) -> SplitPredictions:
    """What a checkpoint says of valid."""
    _fresh_state(cpu)
    accelerator = Accelerator(cpu=cpu)
    model = AutoModelForImageClassification.from_pretrained(checkpoint)
    model = accelerator.prepare_model(model, evaluation_mode=True)
    views = ViewDataset(valid, MuraImageProcessor.from_pretrained(checkpoint))
    return predict_views(model, views, accelerator, progress="valid")


def _draw(valid: Dataset) -> SplitPredictions:
    """What the random classifier says of valid."""
    return SplitPredictions(
        probabilities=random_baseline(len(valid)),
        labels=np.asarray(valid["label"]),
        study_ids=list(valid["study_id"]),
        patient_ids=list(valid["patient_id"]),
        body_parts=np.asarray([UNKNOWN_PART if part is None else part for part in valid["body_part"]]),
        found_parts=None,
    )


def _fresh_state(cpu: bool) -> PartialState:
    """What the processes share, as if no run had been: the one before may have had another precision."""
    AcceleratorState._reset_state()
    return PartialState(cpu=cpu)


def _is_whole(valid: Dataset, body_parts: Sequence[str]) -> bool:
    """Whether it has as many images and studies of each part as MURA's official valid."""
    parts = [BODY_PARTS[part] for part in valid["body_part"]]
    studies = dict(zip(valid["study_id"], parts, strict=True)).values()
    return all(
        (parts.count(part), list(studies).count(part)) == (official.images, official.studies)
        for part, official in OFFICIAL_COUNTS["valid"].items()
        if part in body_parts
    )


def _sentence(error: Exception) -> str:
    """What went wrong, in a line."""
    text = " ".join(str(error).split()) or "without a word"
    return text if isinstance(error, MuraError) else f"{type(error).__name__}: {text}"


def _write_record(file: Path, record: dict[str, Any]) -> None:
    """Whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, (json.dumps(record, indent=1) + "\n").encode())
