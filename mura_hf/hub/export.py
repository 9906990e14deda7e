"""`export_checkpoint`: a checkpoint that loads where mura_hf is not installed."""

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..models import CLASSIFIERS, STUDY_TASK, MuraModel, MuraStudyClassificationPipeline
from .traveling_index import index_files

_MODELS = Path(__file__).parents[1] / "models"
_PROCESSOR_MAP = {"AutoImageProcessor": "image_processing_mura.MuraImageProcessor"}
_PIPELINES: dict[str, dict[str, Any]] = {
    STUDY_TASK: {
        "impl": f"pipeline_mura_study.{MuraStudyClassificationPipeline.__name__}",
        "pt": ["AutoModelForImageClassification"],
        "type": "image",
    }
}
_SIBLING = re.compile(r"^from \.(\w+) import", re.MULTILINE)
_NEEDED = ("config.json", "model.safetensors", "preprocessor_config.json")
HUB_RECORD = "hub.json"
"""What a folder remembers of its pushes; belongs to this machine."""


def export_checkpoint(folder: str | Path, out: str | Path) -> Path:
    """Copies a checkpoint and adds the code of model and study pipeline, so that `trust_remote_code=True` loads it
    with transformers and timm alone. Its index goes too where its data may be passed on (`index_travels`).

    Args:
        folder: A checkpoint as training writes it.
        out: New or empty folder.

    Returns:
        `out`.

    Raises:
        CheckpointError: If a file of the checkpoint is missing, it is of another family, or `out` is not empty.
    """
    folder, out = Path(folder), Path(out)
    missing = [name for name in _NEEDED if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{folder} is no whole checkpoint: {', '.join(missing)} missing")
    kind = json.loads((folder / "config.json").read_text()).get("model_type")
    if kind not in CLASSIFIERS:
        raise CheckpointError(f"{folder} is a checkpoint of type {kind!r}, none of {', '.join(CLASSIFIERS)}")
    if out.exists() and any(out.iterdir()):
        raise CheckpointError(f"{out} is not empty; name a new folder for the export")
    out.mkdir(parents=True, exist_ok=True)
    for file in sorted(folder.iterdir()):
        # Code is the package's own: that of a checkpoint may be of another version, or anybody's.
        if file.is_file() and file.name != HUB_RECORD and file.suffix != ".py":
            shutil.copyfile(file, out / file.name)
    for file in index_files(folder):
        (out / file.parent.name).mkdir(exist_ok=True)
        shutil.copyfile(file, out / file.parent.name / file.name)
    for name in _code_for(kind):
        shutil.copyfile(_MODELS / name, out / name)
    _add(out / "config.json", {"auto_map": _model_map(kind), "custom_pipelines": _PIPELINES})
    _add(out / "preprocessor_config.json", {"auto_map": _PROCESSOR_MAP})
    return out


def model_code_names() -> set[str]:
    """Names of the files of code that exports of any family hold."""
    names: set[str] = set()
    for kind in CLASSIFIERS:
        names.update(_code_for(kind))
    return names


def _code_for(kind: str) -> list[str]:
    """The files of code that a checkpoint of a type takes along."""
    return _code_of([*_model_map(kind).values(), *_PROCESSOR_MAP.values(), _PIPELINES[STUDY_TASK]["impl"]])


def _model_map(kind: str) -> dict[str, str]:
    """Which class each Auto class of transformers stands for."""
    model = CLASSIFIERS[kind]
    classes: dict[str, type] = {"AutoConfig": model.config_class, "AutoModelForImageClassification": model}
    if kind == "mura":
        classes["AutoModel"] = MuraModel
    return {auto: f"{one.__module__.rpartition('.')[2]}.{one.__name__}" for auto, one in classes.items()}


def _code_of(classes: Iterable[str]) -> list[str]:
    """The files of classes (`module.Class`) and of all that these import from beside them."""
    found: dict[str, None] = {}
    waiting = [name.partition(".")[0] for name in classes]
    while waiting:
        module = waiting.pop()
        if module not in found:
            found[module] = None
            waiting += _SIBLING.findall((_MODELS / f"{module}.py").read_text())
    return [f"{module}.py" for module in sorted(found)]


def _add(file: Path, added: dict[str, Any]) -> None:
    values = {**json.loads(file.read_text()), **added}
    file.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
