"""Runs of the studies' configs on data of ours, measured at the level of the published figures."""

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
from published import PublishedStudy, PublishedSystem, load_published
from tqdm.auto import tqdm

from mura_hf.common import replace_file
from mura_hf.data import (
    UNKNOWN_PART,
    detect_source,
    load_data,
    split_digest,
    split_patients_evenly,
)
from mura_hf.data.mura_release import OFFICIAL_COUNTS
from mura_hf.errors import ConfigError, DatasetError, MuraError, TrainingStopped
from mura_hf.evaluation import describe_source
from mura_hf.evaluation.evaluation import measure_levels
from mura_hf.evaluation.prediction_cache import PredictionCache
from mura_hf.models import BODY_PARTS
from mura_hf.training import (
    FINISHED_FILE,
    SplitPredictions,
    TrainingConfig,
    config_from_record,
    load_config,
    train,
)
from mura_hf.training.configs import config_name

FIGURES_FILE = "figures.json"
_BUDGET_FILE = "budget.json"
_RUNS, _CONFIGS, _FAILURES, _COPYING = "runs", "configs", "failures", "copying"


@dataclass(frozen=True)
class Budget:
    """How far the training is shortened.

    Attributes:
        epochs: Passes over train in each stage (at most, in stages on patches); those of the config if None.
        fraction: Share of train's patients that is trained on; `dev`, `calib` and `valid` stay whole.
        image_size: Side in pixels of the models' input; that of the config if None.
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

    def describe(self) -> str:
        """The budget in words; empty if nothing is shortened."""
        parts = [
            self.epochs and f"{self.epochs} epoch{'s' * (self.epochs > 1)} in each stage",
            self.fraction < 1 and f"a share of {self.fraction:g} of train's patients",
            self.image_size and f"images of {self.image_size} px",
        ]
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class PlannedRun:
    """One training, or a baseline.

    Attributes:
        config: Name of the config; None for a baseline.
        baseline: "random"; None for a training.
        body_parts: Body parts that it is trained and measured on.
    """

    config: str | None
    baseline: str | None
    body_parts: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of its folder."""
        parts = [] if self.body_parts == tuple(BODY_PARTS) else list(self.body_parts)
        return "-".join([Path(self.config or self.baseline or "").stem, *parts])


def run_of(system: PublishedSystem) -> PlannedRun | None:
    """The run of a published system; None if there is none."""
    if system.config is None and system.baseline is None:
        return None
    return PlannedRun(system.config, system.baseline, system.body_parts)


def plan_runs(studies: Sequence[PublishedStudy], configs: Sequence[str] | None = None) -> list[PlannedRun]:
    """The runs of studies, each once, in order.

    Args:
        studies: Published studies.
        configs: Configs to run; all if None.

    Raises:
        ConfigError: If a config belongs to none of the studies.
    """
    runs = [run_of(system) for study in studies for system in study.systems]
    known = dict.fromkeys(run for run in runs if run is not None)
    if configs is None:
        return list(known)
    names = {run.config or run.baseline for run in known}
    if unknown := [name for name in configs if name not in names]:
        raise ConfigError(
            f"{', '.join(unknown)}: no such config in these studies; there are "
            f"{', '.join(sorted(name for name in names if name))}"
        )
    return [run for run in known if (run.config or run.baseline) in configs]


def load_study_config(name: str) -> TrainingConfig:
    """A config of the package or of the files in this folder."""
    return load_config(name, [Path(__file__).parent])


def shorten(name: str, budget: Budget, folder: Path) -> TrainingConfig:
    """A config at a budget. The configs of its members are shortened too, and written to a folder."""
    config = load_study_config(name)
    model = config.model
    if model.members:
        return config.replace(members=[_write_config(member, budget, folder) for member in model.members])
    if model.router is not None:
        config = config.replace(router=_write_config(model.router, budget, folder))
    if budget.from_scratch:
        config = config.replace(pretrained=False)
    stages = config.to_dict()["stages"]
    if budget.epochs is not None:
        config = config.with_epochs(budget.epochs)
        stages = [
            {**stage, "epochs": min(stage["epochs"], budget.epochs) if "patch_size" in stage else budget.epochs}
            for stage in stages
        ]
    if budget.image_size is not None:
        scale = budget.image_size / model.image_size
        larger = model.resize_size and math.ceil(model.resize_size * scale)
        stages = [
            {**stage, "patch_size": max(32, round(stage["patch_size"] * scale))} if "patch_size" in stage else stage
            for stage in stages
        ]
        return config.replace(stages=stages, image_size=budget.image_size, resize_size=larger)
    return config.replace(stages=stages)


@cache
def starts_pretrained(name: str) -> bool:
    """Whether a config, or a member of it, starts from timm's weights."""
    model = load_study_config(name).model
    return any(map(starts_pretrained, model.members)) if model.members else model.pretrained


def take_patients(rows: Dataset, fraction: float, seed: int) -> Dataset:
    """All rows of a share of the patients, stratified by body part and label."""
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


def _write_config(name: str, budget: Budget, folder: Path) -> str:
    """Writes a config at a budget; returns the file, which has the config's name."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{Path(name).stem}.yaml"
    text = yaml.safe_dump(shorten(name, budget, folder).to_dict(), sort_keys=False)
    if not file.is_file() or file.read_text() != text:  # another process may be reading it
        file.write_text(text)
    return str(file)


@dataclass
class Reproduction:
    """The results.

    Attributes:
        source: Key of the data among the `SOURCES` of `mura_hf.data`.
        budget: How far the training was shortened.
        records: By name of the run: `arguments` (values of the config; None for a baseline), `split_digest`,
            `whole_valid` (whether `valid` is all of MURA's official one, for the body parts of the run), `seconds` of
            training, and `image` and `study` of `measure_levels`.
        failed: By name of the run, why there is no record.
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
    configs: Sequence[str] | None = None,
    cpu: bool = False,
    num_workers: int = 0,
    cache_dir: str | Path | None = None,
) -> Reproduction:
    """Trains the configs of studies and measures each on the images and the studies of `valid`.

    Finished runs in `output_dir` are neither trained nor measured again, and interrupted ones are resumed. A run that
    fails leaves its traceback in `failures`; the others continue, and it is tried again the next time. Members of an
    ensemble that have a run of their own are copied from it.

    Args:
        data_dir: Any of the datasets that `load_data` reads.
        output_dir: Gets a folder for each run, below `runs`.
        studies: Keys of `load_published`.
        budget: How far the training is shortened; not at all if None.
        configs: Configs to run; all of the studies' if None.
        cpu: Whether to stay on the CPU.
        num_workers: Processes that read files.
        cache_dir: As in `train`.

    Raises:
        DatasetError: If the data are unknown, or `output_dir` holds runs of other data or of another budget.
        ConfigError: If a config belongs to none of the studies.
        TrainingStopped: If a signal stopped a training, which can be resumed.
    """
    output_dir = Path(output_dir).absolute()
    runs = plan_runs([load_published()[key] for key in studies], configs)
    found = Reproduction(detect_source(data_dir).key, budget or Budget())
    state = _fresh_state(cpu)
    with state.main_process_first():
        _check_budget(output_dir, found)
    options: dict[str, Any] = {"cpu": cpu, "num_workers": num_workers, "cache_dir": cache_dir}
    bar = tqdm(runs, desc="Reproducing", disable=not state.is_main_process)
    for run in bar:
        bar.set_postfix_str(run.name)
        failure = output_dir / _FAILURES / f"{run.name}.txt"
        try:
            found.records[run.name] = _run(run, Path(data_dir), output_dir, found.budget, **options)
            failure.unlink(missing_ok=True)
        except TrainingStopped:
            raise
        except Exception as error:  # a failure of any kind must not end the other runs
            if state.num_processes > 1:  # the other processes may wait in the middle of that run
                raise
            found.failed[run.name] = _sentence(error)
            if PartialState(cpu=cpu).is_main_process:
                failure.parent.mkdir(parents=True, exist_ok=True)
                failure.write_text(traceback.format_exc())
                tqdm.write(f"{run.name} failed: {found.failed[run.name]}")
    return found


def _check_budget(output_dir: Path, found: Reproduction) -> None:
    """Writes down the data and the budget of the runs in a folder.

    Raises:
        DatasetError: If the folder holds runs of other data or of another budget.
    """
    now, file = {"data": found.source, **asdict(found.budget)}, output_dir / _BUDGET_FILE
    then = json.loads(file.read_text()) if file.is_file() else now
    if other := [f"{name} was {then[name]}, now {now[name]}" for name in now if then[name] != now[name]]:
        raise DatasetError(
            f"{output_dir} holds runs with other settings: {'; '.join(other)}. Use the same settings, or a new folder"
        )
    if not file.is_file():
        _write_record(file, now)


def _run(
    run: PlannedRun,
    data_dir: Path,
    output_dir: Path,
    budget: Budget,
    *,
    cpu: bool,
    num_workers: int,
    cache_dir: str | Path | None,
) -> dict[str, Any]:
    """The record of a run: from its file, or from training and measuring it now."""
    state = _fresh_state(cpu)
    with state.main_process_first():
        config = None if run.config is None else shorten(run.config, budget, output_dir / _CONFIGS)
    chosen: dict[str, Any] = {} if run.body_parts == tuple(BODY_PARTS) else {"body_parts": list(run.body_parts)}
    datasets, source = load_data(data_dir, **chosen, **(config or TrainingConfig()).split_options())
    datasets["train"] = take_patients(datasets["train"], budget.fraction, seed=0)
    members = ((split, study) for split, rows in datasets.items() for study in rows["study_id"])
    digest = split_digest(members)
    identity = {"arguments": config and _comparable(config.to_dict()), "split_digest": digest}
    folder, valid = output_dir / _RUNS / run.name, datasets["valid"]
    is_measured = (folder / FIGURES_FILE).is_file()
    state.wait_for_everyone()
    if is_measured:
        return _read_record(folder / FIGURES_FILE, identity)
    if not len(valid):
        raise DatasetError(f"{data_dir} has no studies in valid to measure on")
    seconds = 0.0
    if config is None:
        found = _predict_at_random(valid)
    else:
        if state.is_main_process:
            _copy_members(config, digest, folder, output_dir / _COPYING)
        state.wait_for_everyone()
        checkpoint = train(
            datasets,
            config,
            folder,
            data_description={**describe_source(source, data_dir), "body_parts": "all", **chosen},
            trained_on_phantoms=source.key == "phantoms",
            cpu=cpu,
            num_workers=num_workers,
            cache_dir=cache_dir,
        )
        seconds = json.loads((checkpoint / "training.json").read_text())["seconds"]
        _fresh_state(cpu)
        found = PredictionCache(checkpoint, valid, Accelerator(cpu=cpu), cache_dir=folder).predict(progress="valid")
    record = {
        **identity,
        "whole_valid": source.key == "mura" and _is_whole(valid, run.body_parts),
        "seconds": seconds,
        **{level: measured.to_dict() for level, measured in measure_levels(found).items()},
    }
    if PartialState(cpu=cpu).is_main_process:
        _write_record(folder / FIGURES_FILE, record)
    return json.loads(json.dumps(record))


def _read_record(file: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """The record of an earlier call.

    Raises:
        DatasetError: If its config or data were other ones.
    """
    record = json.loads(file.read_text())
    now, then = identity["arguments"] or {}, record.get("arguments") or {}
    if "arguments" not in record and record.get("recipe"):
        then = _comparable(config_from_record(record).to_dict())
    other = [name for name in now if then.get(name, now[name]) != now[name]]
    if record["split_digest"] != identity["split_digest"]:
        other.append("the data, or their splits")
    if other:
        raise DatasetError(
            f"{file.parent} holds a run with other settings ({', '.join(other)}); use the same budget and data, or a "
            "new folder"
        )
    return record


def _comparable(values: dict[str, Any]) -> dict[str, Any]:
    """A config as JSON holds it, with the names of other configs instead of their files."""
    values = json.loads(json.dumps(values))
    router = values["router"] and config_name(values["router"])
    return {**values, "members": [config_name(name) for name in values["members"]], "router": router}


def _copy_members(config: TrainingConfig, digest: str, folder: Path, copying: Path) -> None:
    """Copies finished runs to the members of an ensemble, if config and data are the same."""
    for name in config.model.members:
        if config.model.members.count(name) > 1:
            continue  # they differ in their seeds
        source, member = folder.parent / Path(name).stem, folder / Path(name).stem
        if member.exists() or not (source / FINISHED_FILE).is_file():
            continue
        finished = json.loads((source / FINISHED_FILE).read_text())
        wanted = json.loads(json.dumps({**load_study_config(name).to_dict(), **config.split_options()}))
        if finished.get("arguments") == wanted and finished["split_digest"] == digest:
            shutil.rmtree(copying, ignore_errors=True)
            shutil.copytree(source, copying, ignore=shutil.ignore_patterns(FIGURES_FILE))
            folder.mkdir(parents=True, exist_ok=True)
            copying.rename(member)


def _predict_at_random(valid: Dataset) -> SplitPredictions:
    """Predictions of the random classifier."""
    return SplitPredictions(
        probabilities=np.random.default_rng(0).random(len(valid)),
        labels=np.asarray(valid["label"]),
        study_ids=list(valid["study_id"]),
        patient_ids=list(valid["patient_id"]),
        body_parts=np.asarray([UNKNOWN_PART if part is None else part for part in valid["body_part"]]),
        predicted_parts=None,
    )


def _fresh_state(cpu: bool) -> PartialState:
    """A new state of Accelerate, since the run before may have had another precision."""
    AcceleratorState._reset_state()
    return PartialState(cpu=cpu)


def _is_whole(valid: Dataset, body_parts: Sequence[str]) -> bool:
    """Whether each body part has as many images and studies as in MURA's official valid."""
    parts = [BODY_PARTS[part] for part in valid["body_part"]]
    studies = dict(zip(valid["study_id"], parts, strict=True)).values()
    return all(
        (parts.count(part), list(studies).count(part)) == (official.images, official.studies)
        for part, official in OFFICIAL_COUNTS["valid"].items()
        if part in body_parts
    )


def _sentence(error: Exception) -> str:
    """The message of an error, in a line."""
    text = " ".join(str(error).split()) or "no message"
    return text if isinstance(error, MuraError) else f"{type(error).__name__}: {text}"


def _write_record(file: Path, record: dict[str, Any]) -> None:
    """Writes a file atomically."""
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, (json.dumps(record, indent=1) + "\n").encode())
