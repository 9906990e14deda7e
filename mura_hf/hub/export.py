"""`export_checkpoint`: a checkpoint that loads where mura_hf is not installed."""

import json
import shutil
from pathlib import Path

from ..errors import CheckpointError

_MODELS = Path(__file__).parents[1] / "models"
_CODE = (
    "backbone_mura.py",
    "border_mura.py",
    "configuration_mura.py",
    "enhancement_mura.py",
    "errors_mura.py",
    "freezing_mura.py",
    "geometry_mura.py",
    "gray_plane_mura.py",
    "image_processing_mura.py",
    "modeling_mura.py",
    "outputs_mura.py",
    "small_cnns_mura.py",
)
_MODEL_MAP = {
    "AutoConfig": "configuration_mura.MuraConfig",
    "AutoModel": "modeling_mura.MuraModel",
    "AutoModelForImageClassification": "modeling_mura.MuraForImageClassification",
}
_PROCESSOR_MAP = {"AutoImageProcessor": "image_processing_mura.MuraImageProcessor"}
_NEEDED = ("config.json", "model.safetensors", "preprocessor_config.json")


def export_checkpoint(folder: str | Path, out: str | Path) -> Path:
    """Copies a checkpoint and adds the model code, so that `trust_remote_code=True` loads it with transformers and
    timm alone.

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
    config = json.loads((folder / "config.json").read_text())
    if config.get("model_type") != "mura":
        raise CheckpointError(f"{folder} is a checkpoint of type {config.get('model_type')!r}, not 'mura'")
    if out.exists() and any(out.iterdir()):
        raise CheckpointError(f"{out} is not empty; name a new folder for the export")
    out.mkdir(parents=True, exist_ok=True)
    for file in sorted(folder.iterdir()):
        if file.is_file():
            shutil.copyfile(file, out / file.name)
    for name in _CODE:
        shutil.copyfile(_MODELS / name, out / name)
    _add_auto_map(out / "config.json", _MODEL_MAP)
    _add_auto_map(out / "preprocessor_config.json", _PROCESSOR_MAP)
    return out


def _add_auto_map(file: Path, auto_map: dict[str, str]) -> None:
    values = json.loads(file.read_text())
    values["auto_map"] = auto_map
    file.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
