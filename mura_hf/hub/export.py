"""Which indexes of studies may leave this machine, and what must be true of their files.

A code says much about its picture, so an index goes where its pictures might go: phantoms may, and films whose licence
lets everyone pass them on, by the names that they bear there. Thumbnails are of phantoms only. The index of any other
data stays on this machine, whatever else of the checkpoint is pushed.

`export_checkpoint`: a checkpoint that loads where mura_hf is not installed.
"""

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ..errors import CheckpointError
from ..models import CLASSIFIERS, STUDY_TASK, MuraImageProcessor, MuraModel, MuraStudyClassificationPipeline
from ..retrieval import CODES, FOLDER, RECORD, ROWS, RetrievalIndex, read_record

PHANTOMS = "phantoms"
OPEN_DATA = (PHANTOMS, "fracatlas", "grazpedwri")
"""Data whose index may travel: made here, or under CC BY 4.0."""

_TENSORS = {"codes", "squares", "sketch_mean", "sketch_basis", "sketch_vectors"}
_OF_MURA = re.compile(r"patient\d{5}|XR_[A-Z]+[/\\]", re.IGNORECASE)
_MOST_BYTES = 20_000
"""Of a thumbnail: a small picture is much smaller, a film is not."""


def index_travels(folder: str | Path) -> bool:
    """Whether a checkpoint has an index of data that may be passed on.

    Args:
        folder: The checkpoint.

    Raises:
        CheckpointError: If there is an index whose record cannot be read.
    """
    place = Path(folder) / FOLDER
    return place.is_dir() and (read_record(place).data or {}).get("key") in OPEN_DATA


def index_files(folder: str | Path) -> list[Path]:
    """The files of a checkpoint's index that travel; none where it does not.

    Raises:
        CheckpointError: As `index_travels`.
    """
    place = Path(folder) / FOLDER
    if not index_travels(folder) or read_record(place).factory is not None:  # without FAISS's file it would not work
        return []
    return [place / name for name in (RECORD, CODES, ROWS)]


def check_index(folder: str | Path) -> None:
    """Makes sure that a checkpoint's index holds what may travel, and belongs to the checkpoint.

    Args:
        folder: The checkpoint, whose index travels.

    Raises:
        CheckpointError: If the index is damaged, of other weights or needs FAISS; if there is another file beside it,
            a tensor that is none of an index's, a picture that is no small one of a phantom, or a name as MURA's. The
            message names it.
    """
    folder = Path(folder)
    place = folder / FOLDER
    others = sorted({path.name for path in place.iterdir()} - {RECORD, CODES, ROWS})
    record = read_record(place)
    if record.factory is not None:
        raise CheckpointError(
            f"{place} searches by FAISS, whose files are not read from strangers; build the index without a factory "
            "string, or move it elsewhere"
        )
    if others:
        raise CheckpointError(f"{place / others[0]} is no file of an index; move it elsewhere")
    index = RetrievalIndex.load(place, *_load(folder))
    with safe_open(place / CODES, framework="np") as opened:
        strange = sorted(set(opened.keys()) - _TENSORS)
        told = set(opened.metadata() or {}) - {"format", "build"}
    if strange or told:
        raise CheckpointError(f"{place / CODES} holds {', '.join([*strange, *sorted(told)])}; {_AGAIN}")
    metadata = set(index.rows.schema.metadata or {}) - {b"build"}
    if metadata:
        raise CheckpointError(f"{place / ROWS} holds more than rows ({len(metadata)} notes); {_AGAIN}")
    _check_rows(index, place / ROWS, phantoms=(record.data or {}).get("key") == PHANTOMS)


_AGAIN = "build the index again with scripts/build_index.py"


def _check_rows(index: RetrievalIndex, file: Path, *, phantoms: bool) -> None:
    for row in index.rows.to_pylist():
        picture = row.pop("thumbnail")
        if picture is not None and not phantoms:
            raise CheckpointError(
                f"{file} holds small pictures of films; only those of phantoms leave this machine. Build the index "
                "without --thumbnails"
            )
        if picture is not None and len(picture) > _MOST_BYTES:
            raise CheckpointError(
                f"{file} holds a picture of {len(picture)} bytes, too large for a thumbnail; {_AGAIN}"
            )
        found = None if phantoms else _OF_MURA.search(" ".join(map(str, row.values())))
        if found:
            raise CheckpointError(
                f"{file} names a patient or a study ({found.group()}); that stays on this machine. {_AGAIN}"
            )


def _load(folder: Path) -> tuple[Any, MuraImageProcessor]:
    """By this package's own classes; code beside the checkpoint is not run."""
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    return CLASSIFIERS[kind].from_pretrained(folder).eval(), MuraImageProcessor.from_pretrained(folder)


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
