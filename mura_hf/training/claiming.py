"""Whose folder it is that a run would write into."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ..errors import DatasetError
from .keeping import CHECKPOINT_FOLDER, FINISHED_FILE, RUN_FILE, STATES_FOLDER, differences


def stands_finished(folder: Path, identity: dict[str, Any], *, may_hold: Collection[str] = ()) -> bool:
    """Whether this very run came to its end in a folder; if not, it may begin there, or go on.

    Args:
        folder: Where the run would write.
        identity: Of `identity_of`.
        may_hold: Names of what may lie in a folder where no run has begun.

    Raises:
        DatasetError: If another run is there, one of other settings, data or number of processes, or anything else.
    """
    for file in (FINISHED_FILE, RUN_FILE):
        if not (folder / file).is_file():
            continue
        stands = json.loads((folder / file).read_text())
        if file == RUN_FILE and not any((folder / name).exists() for name in (STATES_FOLDER, CHECKPOINT_FOLDER)):
            return False  # it came to no step that could be lost
        found = differences(stands, identity)
        if not found and file == RUN_FILE and stands["processes"] != identity["processes"]:
            found.append(f"it ran on {stands['processes']} processes, now there are {identity['processes']}")
        if found:
            raise DatasetError(
                f"{folder} holds a run that was trained otherwise: {'; '.join(found)}. Give the same settings to go "
                "on with it, or name a new folder"
            )
        return file == FINISHED_FILE
    others = sorted(one.name for one in folder.iterdir()) if folder.exists() else []
    others = [name for name in others if name not in may_hold and name != RUN_FILE + ".new"]
    if others:
        raise DatasetError(
            f"{folder} is not empty (there is {', '.join(others[:4])}), and no run began there; name a new folder, so "
            "that nothing is lost"
        )
    return False
