"""`push_space`: the demo as a Gradio Space that starts from the pushed files alone, or a static page."""

import re
import shutil
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from huggingface_hub import HfApi

from ..common import home_folder
from ..errors import HubError
from ..metrics import PLOTS
from ..models import GOLDEN_FILE
from ..retrieval import ROWS
from .commit import CARD, PushResult, list_files, push_folder
from .export import HUB_RECORD, check_index, index_files
from .push import stage_checkpoint
from .push_checks import check_checkpoint, check_golden_picture, check_tensors, check_text
from .static_space import stage_static_space

_PACKAGE = Path(__file__).parents[1]
_SUFFIXES = (".py", ".md", ".json", ".yaml", ".safetensors", ".css", ".js", ".html", ".svg")
_RESOURCES = "resources"  # the only folder of the package that holds more than text
_LAUNCH = "from mura_hf.demo import launch\n"
_CHECKPOINT = "checkpoint"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def push_space(
    repo_id: str,
    *,
    checkpoint: str | None = None,
    static: bool = False,
    private: bool = True,
    dry_run: bool = False,
    force: bool = False,
    token: str | None = None,
    api: HfApi | None = None,
) -> PushResult:
    """Pushes the demo, this package and its bundled checkpoints as a Space, in one commit; or the page that reads
    studies in the visitor's browser.

    Args:
        repo_id: "user/space".
        checkpoint: The checkpoint to start with; the package's default if None. Its Hub name (a private one needs the
            secret HF_TOKEN in the settings of the Space), or its folder, which becomes part of the Space.
        static: Whether to push the page of `stage_static_space` instead of the app.
        private: Whether only the owner may see the Space.
        dry_run: Whether to list the files and stop before any request.
        force: Whether to replace a commit that was not pushed from this machine.
        token: Token for the Hub; the one of `hf auth login` if None.
        api: Client to use instead of one made from `token`.

    Raises:
        HubError: If the Hub cannot be reached or refuses, or holds another commit and `force` is not set; if this is
            not a checkout of the package, or it holds a file that does not belong to it.
        CardError: If the card of the checkpoint's folder lacks a record or a value.
        CheckpointError: If a file names a patient or a study, or the checkpoint's folder may not be pushed.

    A static Space also raises what `stage_static_space` does.
    """
    if static and checkpoint is not None and Path(checkpoint).is_dir():
        check_checkpoint(checkpoint)
    stage = stage_static_space if static else stage_space
    what = "a page that reads X-rays in the browser" if static else "the app"
    with TemporaryDirectory(prefix="mura_hf_space_") as place:
        return push_folder(
            api or HfApi(token=token),
            stage(place, title=repo_id.rpartition("/")[2], checkpoint=checkpoint),
            repo_id,
            repo_type="space",
            message=f"Push {what} of mura_hf {_version()}",
            record=home_folder() / "spaces.json",
            dry_run=dry_run,
            private=private,
            force=force,
        )


def stage_space(folder: str | Path, *, title: str, checkpoint: str | None = None) -> Path:
    """Writes the files of a Space into a new or empty folder, where `python app.py` starts it, and returns the folder.

    Arguments and errors are those of `push_space`; a folder that is not empty is a `HubError`.
    """
    folder, root = Path(folder), _PACKAGE.parent
    missing = [name for name in ("pyproject.toml", "app.py", "LICENSE") if not (root / name).is_file()]
    if missing:
        raise HubError(
            f"{root} lacks {', '.join(missing)}: a Space is made from a checkout of mura_hf, not from an installed "
            "wheel. Clone the repository, install it with `pip install -e .[demo]`, and push from there"
        )
    own = checkpoint is not None and Path(checkpoint).is_dir()
    if checkpoint is not None and not own and not _HUB_NAME.fullmatch(checkpoint):
        raise HubError(f"{checkpoint!r} is neither the folder of a checkpoint nor a Hub name such as user/model")
    if folder.exists() and any(folder.iterdir()):
        raise HubError(f"{folder} is not empty; choose a new folder, so that nothing is lost")
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    folder.mkdir(parents=True, exist_ok=True)
    _copy_package(folder / _PACKAGE.name)
    shutil.copyfile(root / "LICENSE", folder / "LICENSE")
    app = (root / "app.py").read_text()
    if own:
        check_checkpoint(str(checkpoint))
        stage_checkpoint(Path(str(checkpoint)), folder / _CHECKPOINT, title)
    if checkpoint is not None:
        if _LAUNCH not in app:
            raise HubError(f"{root / 'app.py'} lacks the line {_LAUNCH.strip()!r}; restore it before you push")
        place = f'str(Path(__file__).parent / "{_CHECKPOINT}")' if own else f'"{checkpoint}"'
        imports = "import os\n" + "from pathlib import Path\n" * own
        default = f'{imports}\nos.environ.setdefault("MURA_CHECKPOINT", {place})  # loaded at the start\n\n'
        app = app.replace(_LAUNCH, default + _LAUNCH)
    (folder / "app.py").write_text(app)
    requirements = sorted([*project["dependencies"], *project["optional-dependencies"]["demo"]])
    (folder / "requirements.txt").write_text("\n".join(requirements) + "\n")
    (folder / CARD).write_text(_readme(project, title, checkpoint, own=own))
    return folder


def _copy_package(out: Path) -> None:
    """Copies the package's own files; raises on any other file instead of pushing it."""
    for path in sorted(_PACKAGE.rglob("*")):
        name = path.relative_to(_PACKAGE)
        if not path.is_file() or "__pycache__" in name.parts or path.name == HUB_RECORD:
            continue
        resource = name.parts[0] == _RESOURCES
        if resource and (path.name in (*PLOTS, "mistakes.png") or name.parts[1] == "unrelated"):
            continue  # for cards and evaluations only
        rows = resource and path.name == ROWS and path in index_files(path.parents[1])
        picture = name.parts[:2] == (_RESOURCES, "examples") and path.suffix in (".png", ".jpg")
        misplaced = path.suffix == ".safetensors" and not resource
        if not (path.suffix in _SUFFIXES or rows or picture) or path.name.startswith(".") or misplaced:
            raise HubError(f"{path} does not belong to the package; move it elsewhere before you push")
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, out / name)
        if path.suffix == ".safetensors":
            check_tensors(path)
        if path.name == GOLDEN_FILE:
            check_golden_picture(path.parent)
        if rows:
            check_index(path.parents[1])
    check_text(out, [name for name, _ in list_files(out) if name.endswith(".json")])


def _readme(project: dict[str, Any], title: str, checkpoint: str | None, *, own: bool) -> str:
    try:
        gradio = version("gradio")
    except PackageNotFoundError:
        raise HubError("gradio is not installed, but a Space names its version: pip install -e .[demo]") from None
    licenses = [name.lower() for name in project["license"].split(" AND ")]
    front = {
        "title": title,
        "sdk": "gradio",
        "sdk_version": gradio,
        "app_file": "app.py",
        "python_version": project["requires-python"].removeprefix(">="),
        "license": licenses[0] if len(licenses) == 1 else licenses,
        "short_description": "Reads a radiographic study. Not a medical device.",
        **({"models": [checkpoint]} if checkpoint and not own else {}),
    }
    default = "a checkpoint that is bundled with the package"
    if own:
        default = f"the checkpoint in `{_CHECKPOINT}/`, whose card and licence are in its README.md"
    elif checkpoint:
        default = f"the checkpoint [`{checkpoint}`](https://huggingface.co/{checkpoint})"
    return (
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n\n# {title}\n\n"
        f"{project['description']}\n\n"
        "**For research and teaching only. Do not use it for patient care, and do not upload anything that identifies "
        "a patient.**\n\n"
        f"The app starts with {default}. You can enter another Hub name in the app; code from model repositories is "
        "never run. The variable `MURA_CHECKPOINT` in the settings of the Space overrides the checkpoint. A private "
        "checkpoint needs the secret `HF_TOKEN` there.\n\n"
        f"Made from mura_hf {_version()} with `scripts/push_space.py`. To run it on your own machine: "
        "`pip install -r requirements.txt`, then `python app.py`.\n"
    )


def _version() -> str:
    from .. import __version__

    return __version__
