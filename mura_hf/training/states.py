"""Folders of training states that survive a kill at any moment.

A state is written into `tmp-<number>`, each file synced to the disk, a manifest of SHA-256 hashes last; then the
folder is renamed to `state-<number>` and its parent synced. What is called `state-...` is therefore whole, or its
manifest tells. Older states go only after that.
"""

import hashlib
import json
import re
import shutil
from pathlib import Path

from ..common import put_file, sync_names

MANIFEST = "manifest.json"
_KEPT = 2
_STATE = re.compile(r"state-(\d+)")


def begin_state(folder: Path, number: int) -> Path:
    """A new empty folder for a state, to be filled by `mura_hf.common.put_file` and `copy_file`; numbers only rise."""
    fresh = folder / f"tmp-{number}"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    return fresh


def copy_file(folder: Path, file: Path) -> None:
    """Takes over a file of an earlier state. A copy, no link: damage to one state is not to be that of another."""
    put_file(folder, file.name, file.read_bytes())


def commit_state(fresh: Path, number: int) -> Path:
    """Makes a filled folder of `begin_state` the newest state, then removes those that are no longer needed."""
    hashes = {file.name: _hash(file) for file in sorted(fresh.iterdir())}
    put_file(fresh, MANIFEST, json.dumps(hashes, indent=1).encode())
    sync_names(fresh)
    state = fresh.with_name(f"state-{number}")
    fresh.rename(state)
    sync_names(state.parent)
    for other in sorted(_numbers(state.parent))[:-_KEPT]:
        shutil.rmtree(state.with_name(f"state-{other}"), ignore_errors=True)
    return state


def newest_state(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest state that is whole.

    Returns:
        Its folder, None where there is none; and a sentence for each newer one that is not.
    """
    told: list[str] = []
    for number in sorted(_numbers(folder), reverse=True):
        state = folder / f"state-{number}"
        damage = find_damage(state)
        if damage is None:
            return state, told
        told.append(f"{state} is damaged ({damage})")
    return None, told


def find_damage(state: Path) -> str | None:
    """What is wrong with a state; None where it is as it was written."""
    try:
        hashes = json.loads((state / MANIFEST).read_text())
        for name, digest in hashes.items():
            if _hash(state / name) != digest:
                return f"{name} is not as it was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, AttributeError) as error:
        return f"it cannot be read: {error}"
    return None


def state_number(state: Path) -> int:
    """The number in the name of a state."""
    return int(state.name.removeprefix("state-"))


def remove_after(folder: Path, number: int) -> None:
    """Removes the damaged states after the one that a run goes on from, and what was never finished."""
    for other in _numbers(folder):
        if other > number:
            shutil.rmtree(folder / f"state-{other}")
    for left in folder.glob("tmp-*"):
        shutil.rmtree(left)


def _numbers(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    return [int(match[1]) for path in folder.iterdir() if (match := _STATE.fullmatch(path.name))]


def _hash(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
