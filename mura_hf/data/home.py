"""Where the package keeps what belongs to this machine."""

import os
from pathlib import Path

HOME_VARIABLE = "MURA_HOME"


def home_folder() -> Path:
    """The folder for the pixel cache and the key of split manifests; made where it is missing.

    `MURA_HOME` names it; else it is `mura_hf` in the user's cache folder (`XDG_CACHE_HOME`, or `~/.cache`).
    """
    named = os.environ.get(HOME_VARIABLE)
    folder = Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "mura_hf"
    folder = folder.expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder
