"""`push_space`: the demo as a Gradio Space, which starts by what is pushed and nothing else."""

import re
import shutil
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep
from typing import Any

import yaml
from huggingface_hub import HfApi

from ..data import home_folder
from ..errors import HubError
from ..metrics import PLOTS
from ..models import GOLDEN_FILE
from ..retrieval import ROWS
from .committing import WAITS, commit_folder, list_files
from .export import HUB_RECORD, check_index, index_files
from .push_checks import check_golden_picture, check_tensors, check_text

_PACKAGE = Path(__file__).parents[1]
_KINDS = (".py", ".md", ".json", ".yaml", ".safetensors", ".css", ".js")
_WEIGHTS_IN = "resources"  # the only place of the package with anything but text
_LAUNCH = "from mura_hf.demo import launch\n"
_MEMORY = "spaces.json"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class SpaceResult:
    """What pushing a Space did, or would do.

    Attributes:
        repo_id: "user/space".
        url: Where it can be looked at; None after a dry run.
        commit: Its hash; None after a dry run.
        changed: Whether this push made that commit.
        files: Names and sizes in bytes.
        readme: Its README.md, front matter included.
    """

    repo_id: str
    url: str | None
    commit: str | None
    changed: bool
    files: list[tuple[str, int]]
    readme: str


def push_space(
    repo_id: str,
    *,
    checkpoint: str | None = None,
    private: bool = True,
    dry_run: bool = False,
    force: bool = False,
    token: str | None = None,
    api: HfApi | None = None,
    waits: Sequence[float] = WAITS,
    wait: Callable[[float], Any] = sleep,
) -> SpaceResult:
    """Pushes the app, this package and its bundled checkpoints as a Space, in one commit.

    Args:
        repo_id: "user/space".
        checkpoint: Hub name of the checkpoint that it starts with; the package's default where None. A private one
            needs a secret HF_TOKEN in the Space's settings.
        private: Whether only its owner may see it.
        dry_run: Whether to list what would be pushed; nothing is sent, or asked.
        force: Whether a commit that was not pushed from this machine may be replaced.
        token: Of the Hub; the one of `hf auth login` where None.
        api: The Hub's client, instead of one with `token`.
        waits: Seconds before each further try, should the line be cut.
        wait: How to wait.

    Raises:
        HubError: If the Hub cannot be reached or refuses, or holds something else and not `force`; if this is no
            checkout of the package, or holds a file that has no place in it.
        CheckpointError: If a file names a patient or a study.
    """
    with TemporaryDirectory(prefix="mura_hf_space_") as place:
        staged = stage_space(place, title=repo_id.rpartition("/")[2], checkpoint=checkpoint)
        readme, files = (staged / "README.md").read_text(), list_files(staged)
        if dry_run:
            return SpaceResult(repo_id, None, None, False, files, readme)
        made = commit_folder(
            api or HfApi(token=token),
            staged,
            repo_id,
            repo_type="space",
            message=f"Push the app of mura_hf {_version()}",
            memory=home_folder() / _MEMORY,
            private=private,
            force=force,
            waits=waits,
            wait=wait,
        )
    return SpaceResult(repo_id, made.url, made.commit, made.changed, files, readme)


def stage_space(folder: str | Path, *, title: str, checkpoint: str | None = None) -> Path:
    """Lays out a Space's files in a new or empty folder, where `python app.py` starts it.

    Args:
        folder: Where.
        title: Of the Space.
        checkpoint: Hub name of the checkpoint that it starts with; the package's default where None.

    Returns:
        `folder`.

    Raises:
        HubError: If this is no checkout of the package, holds a file that has no place in it, or the checkpoint's name
            is none of the Hub's.
        CheckpointError: If a file names a patient or a study.
    """
    folder, root = Path(folder), _PACKAGE.parent
    missing = [name for name in ("pyproject.toml", "app.py", "LICENSE") if not (root / name).is_file()]
    if missing:
        raise HubError(
            f"{root} lacks {', '.join(missing)}: a Space is made from a checkout of mura_hf, not from an installed "
            "wheel; clone the repository, install it with `pip install -e .[demo]`, and push from there"
        )
    if checkpoint is not None and not _HUB_NAME.fullmatch(checkpoint):
        raise HubError(f"{checkpoint!r} is no Hub name such as user/model; push the checkpoint first, then name it")
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    folder.mkdir(parents=True, exist_ok=True)
    _copy_package(folder / _PACKAGE.name)
    shutil.copyfile(root / "LICENSE", folder / "LICENSE")
    (folder / "app.py").write_text(_app(root / "app.py", checkpoint))
    (folder / "requirements.txt").write_text("\n".join(_requirements(project)) + "\n")
    (folder / "README.md").write_text(_readme(project, title, checkpoint))
    return folder


def _copy_package(out: Path) -> None:
    """The package's own files; anything that has no place in it is named rather than sent."""
    for path in sorted(_PACKAGE.rglob("*")):
        name = path.relative_to(_PACKAGE)
        if not path.is_file() or "__pycache__" in name.parts or path.name == HUB_RECORD:
            continue
        if name.parts[0] == _WEIGHTS_IN and path.name in PLOTS:
            continue  # the cards on the Hub bring their own
        weights = path.suffix == ".safetensors" and name.parts[0] != _WEIGHTS_IN
        rows = path.name == ROWS and name.parts[0] == _WEIGHTS_IN and path in index_files(path.parents[1])
        example = name.parts[:2] == (_WEIGHTS_IN, "examples") and path.suffix == ".png"
        if not (path.suffix in _KINDS or rows or example) or path.name.startswith(".") or weights:
            raise HubError(f"{path} is no file of the package; move it elsewhere before you push")
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, out / name)
        if path.suffix == ".safetensors":
            check_tensors(path)
        if path.name == GOLDEN_FILE:
            check_golden_picture(path.parent)
        if rows:
            check_index(path.parents[1])
    check_text(out, [name for name, _ in list_files(out) if name.endswith(".json")])


def _app(file: Path, checkpoint: str | None) -> str:
    """app.py; with a checkpoint it says which, so that the Space needs no variable in its settings."""
    text = file.read_text()
    if checkpoint is None:
        return text
    if _LAUNCH not in text:
        raise HubError(f"{file} does not import the app as it should ({_LAUNCH.strip()}); restore it before you push")
    chosen = f'import os\n\nos.environ.setdefault("MURA_CHECKPOINT", "{checkpoint}")  # what the app starts with\n\n'
    return text.replace(_LAUNCH, chosen + _LAUNCH)


def _requirements(project: dict[str, Any]) -> list[str]:
    return sorted([*project["dependencies"], *project["optional-dependencies"]["demo"]])


def _readme(project: dict[str, Any], title: str, checkpoint: str | None) -> str:
    try:
        gradio = version("gradio")
    except PackageNotFoundError:
        raise HubError("gradio is not installed; its version stands in a Space: pip install -e .[demo]") from None
    licenses = [name.lower() for name in project["license"].split(" AND ")]
    front = {
        "title": title,
        "sdk": "gradio",
        "sdk_version": gradio,
        "app_file": "app.py",
        "python_version": project["requires-python"].removeprefix(">="),
        "license": licenses[0] if len(licenses) == 1 else licenses,
        "short_description": "Reads a radiographic study. Not a medical device.",
        **({"models": [checkpoint]} if checkpoint else {}),
    }
    started = f"the checkpoint [`{checkpoint}`](https://huggingface.co/{checkpoint})" if checkpoint else (
        "a checkpoint that comes with the package"
    )  # fmt: skip
    return (
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n\n# {title}\n\n"
        f"{project['description']}\n\n"
        "**For research and teaching, never for the care of a patient. Upload nothing that names one.**\n\n"
        f"It starts with {started}; another Hub name can be typed in the app, and a model's own code is never run. "
        "The variable `MURA_CHECKPOINT` in the Space's settings goes before; a private checkpoint needs the secret "
        "`HF_TOKEN` there.\n\n"
        f"Made from mura_hf {_version()} by `scripts/push_space.py`. On your own machine: "
        "`pip install -r requirements.txt`, then `python app.py`.\n"
    )


def _version() -> str:
    from .. import __version__

    return __version__
