"""Export of a checkpoint: a copy that loads without mura_hf, and the index of studies if it may be shared.

A code reveals much about its picture, so an index may go where its pictures may go: phantoms, and films whose licence
lets everyone share them, under their public names. So may its thumbnails. An index of other data stays on this
machine.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ..errors import CheckpointError
from ..models import CLASSIFIERS, STUDY_TASK, MuraImageProcessor, MuraModel, MuraStudyClassificationPipeline
from ..models.golden_mura import digest_weights
from ..retrieval import CODES, FOLDER, INDEX_FILES, RECORD, ROWS, RetrievalIndex, read_record

HUB_RECORD = "hub.json"
"""Commits that were pushed from a folder; stays on this machine."""

ONNX_FOLDER = "onnx"
STUDY_FILE = "study.json"
"""Folder of `export_onnx` beside the weights of a checkpoint, and its file that describes the graphs."""

TIMM_FOLDER = "timm"
"""Folder of `export_timm` beside the weights of a checkpoint."""

_REQUIRED = ("config.json", "model.safetensors", "preprocessor_config.json")
_MODELS = Path(__file__).parents[1] / "models"
_PROCESSOR_MAP = {"AutoImageProcessor": "image_processing_mura.MuraImageProcessor"}
_PIPELINE = f"pipeline_mura_study.{MuraStudyClassificationPipeline.__name__}"
_PIPELINES = {STUDY_TASK: {"impl": _PIPELINE, "pt": ["AutoModelForImageClassification"], "type": "image"}}
_SIBLING = re.compile(r"^from \.(\w+) import", re.MULTILINE)

_INDEX_TENSORS = {"codes", "squares", "sketch_mean", "sketch_basis", "sketch_vectors"}
_MURA_ID = re.compile(r"patient\d{5}|XR_[A-Z]+[/\\]", re.IGNORECASE)
_MAX_THUMBNAIL_BYTES = 20_000  # a film is larger
_REBUILD = "build the index again with scripts/build_index.py"


def export_checkpoint(folder: str | Path, out: str | Path) -> Path:
    """Copies a checkpoint and adds the code of model and study pipeline.

    The copy loads with `trust_remote_code=True`, transformers and timm alone. It includes the exports to ONNX and timm
    if there are any, and the index of studies if its data may be shared.

    Args:
        folder: Checkpoint as training writes it.
        out: New or empty folder.

    Returns:
        `out`.

    Raises:
        CheckpointError: If a file of the checkpoint is missing, its family is unknown, an export beside it has
            other weights, or `out` is not empty.
    """
    folder, out = Path(folder), Path(out)
    missing = [name for name in _REQUIRED if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{folder} is not a complete checkpoint: {', '.join(missing)} missing")
    kind = json.loads((folder / "config.json").read_text()).get("model_type")
    if kind not in CLASSIFIERS:
        raise CheckpointError(f"{folder} is a checkpoint of type {kind!r}; known types are {', '.join(CLASSIFIERS)}")
    if out.exists() and any(out.iterdir()):
        raise CheckpointError(f"{out} is not empty; choose a new folder for the export")
    out.mkdir(parents=True, exist_ok=True)
    for file in sorted(folder.iterdir()):
        # The package's own code is added below; a checkpoint's code may be of another version or origin.
        if file.is_file() and file.name != HUB_RECORD and file.suffix != ".py":
            shutil.copyfile(file, out / file.name)
    for file in [*index_files(folder), *onnx_files(folder), *timm_files(folder)]:
        (out / file.parent.name).mkdir(exist_ok=True)
        shutil.copyfile(file, out / file.parent.name / file.name)
    for name in _code_files(kind):
        shutil.copyfile(_MODELS / name, out / name)
    _add_fields(out / "config.json", {"auto_map": _auto_map(kind), "custom_pipelines": _PIPELINES})
    _add_fields(out / "preprocessor_config.json", {"auto_map": _PROCESSOR_MAP})
    return out


def _add_fields(file: Path, fields: dict[str, Any]) -> None:
    values = {**json.loads(file.read_text()), **fields}
    file.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


def _auto_map(kind: str) -> dict[str, str]:
    """Auto class of transformers -> `module.Class` for a model type."""
    model = CLASSIFIERS[kind]
    classes: dict[str, type] = {"AutoConfig": model.config_class, "AutoModelForImageClassification": model}
    if kind == "mura":
        classes["AutoModel"] = MuraModel
    return {auto: f"{one.__module__.rpartition('.')[2]}.{one.__name__}" for auto, one in classes.items()}


def model_code_names() -> set[str]:
    """Names of the code files that exports of all families hold."""
    return {name for kind in CLASSIFIERS for name in _code_files(kind)}


def _code_files(kind: str) -> list[str]:
    """Code files that a checkpoint of a type needs: of its classes, and of all siblings that they import."""
    found: set[str] = set()
    waiting = [name.partition(".")[0] for name in (*_auto_map(kind).values(), *_PROCESSOR_MAP.values(), _PIPELINE)]
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += _SIBLING.findall((_MODELS / f"{module}.py").read_text())
    return [f"{module}.py" for module in sorted(found)]


def load_model(folder: Path) -> tuple[Any, MuraImageProcessor]:
    """Loads model and image processor with the package's own classes; code beside the checkpoint is not run."""
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    return CLASSIFIERS[kind].from_pretrained(folder).eval(), MuraImageProcessor.from_pretrained(folder)


def index_is_exported(folder: str | Path) -> bool:
    """Whether a checkpoint has an index of data that may be shared."""
    place = Path(folder) / FOLDER
    return place.is_dir() and read_record(place).may_be_shared


def index_files(folder: str | Path) -> list[Path]:
    """Files of a checkpoint's index that are exported; empty if it may not be shared, or needs a file of FAISS."""
    shared = index_is_exported(folder) and read_record(Path(folder) / FOLDER).factory is None
    return [Path(folder) / name for name in INDEX_FILES] if shared else []


def onnx_files(folder: str | Path) -> list[Path]:
    """Files of the ONNX export of a checkpoint; empty if there is none.

    Raises:
        CheckpointError: If one is missing, or the graph was made from other weights.
    """
    graphs = {file.name for file in (Path(folder) / ONNX_FOLDER).glob("*.onnx")}
    if not graphs or any(name.startswith("model_") for name in graphs):
        graphs.add("model.onnx")
    return _files_made_from(folder, ONNX_FOLDER, [STUDY_FILE, *sorted(graphs)])


def timm_files(folder: str | Path) -> list[Path]:
    """Files of the timm export of a checkpoint; as `onnx_files`."""
    return _files_made_from(folder, TIMM_FOLDER, ["config.json", "model.safetensors", "README.md"])


def _files_made_from(folder: str | Path, name: str, files: list[str]) -> list[Path]:
    """Files of an export beside the weights of a checkpoint. The first one says which weights it was made from."""
    place = Path(folder) / name
    if not place.is_dir():
        return []
    try:
        weights = json.loads((place / files[0]).read_text(encoding="utf-8"))["weights_sha256"]
    except (OSError, ValueError, LookupError, TypeError):
        weights = None
    if weights != digest_weights(folder) or not all((place / file).is_file() for file in files):
        raise CheckpointError(
            f"{place} is incomplete or belongs to other weights; run scripts/export_{name}.py again, or remove it"
        )
    return [place / file for file in files]


def check_index(folder: str | Path) -> None:
    """Checks that an index to be exported belongs to its checkpoint and holds only what may be shared.

    Raises:
        CheckpointError: If the index is damaged, made with other weights or needs FAISS, or if there is another file,
            an unknown tensor, a picture that is too large for a thumbnail, or an id of MURA. The message names it.
    """
    folder = Path(folder)
    place = folder / FOLDER
    record = read_record(place)
    if record.factory is not None:
        raise CheckpointError(
            f"{place} searches with FAISS, whose files are not loaded from others; build the index without a factory "
            "string, or move it elsewhere"
        )
    others = sorted({path.name for path in place.iterdir()} - {RECORD, CODES, ROWS})
    if others:
        raise CheckpointError(f"{place / others[0]} does not belong to an index; move it elsewhere")
    index = RetrievalIndex.load(place, *load_model(folder))
    with safe_open(place / CODES, framework="np") as opened:
        unknown = sorted(set(opened.keys()) - _INDEX_TENSORS)
        unknown += sorted(set(opened.metadata() or {}) - {"format", "build"})
    if unknown:
        raise CheckpointError(f"{place / CODES} holds {', '.join(unknown)}; {_REBUILD}")
    notes = set(index.rows.schema.metadata or {}) - {b"build"}
    if notes:
        raise CheckpointError(f"{place / ROWS} holds more than rows ({len(notes)} notes); {_REBUILD}")
    file, phantoms = place / ROWS, (record.data or {}).get("key") == "phantoms"
    for row in index.rows.to_pylist():
        picture = row.pop("thumbnail")
        if picture is not None and len(picture) > _MAX_THUMBNAIL_BYTES:
            raise CheckpointError(
                f"{file} holds a picture of {len(picture)} bytes, too large for a thumbnail; {_REBUILD}"
            )
        found = None if phantoms else _MURA_ID.search(" ".join(map(str, row.values())))
        if found:
            raise CheckpointError(
                f"{file} names a patient or a study ({found.group()}), which must stay on this machine; {_REBUILD}"
            )
