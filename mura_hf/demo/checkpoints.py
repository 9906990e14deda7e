"""The checkpoints that a running app holds."""

import re
from collections import OrderedDict, defaultdict
from pathlib import Path
from threading import Lock

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import httpx

from ..common import BUNDLED
from ..errors import CheckpointError
from ..inference import StudyPredictor
from ..inference.loading import HUB_TIMEOUT

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

Chosen = tuple[str, str, str]
"""Name, revision and abnormal label of a checkpoint, as `Checkpoints.get` takes them."""

DEFAULT: Chosen = ("", "", "")


class Checkpoints:
    """Loads predictors by name and keeps the last few, and always the default one.

    Args:
        allow_folders: Whether local folders may be named; only where the app serves on loopback.
        capacity: Predictors kept at once.
        most_bytes: That weights on the Hub may have; None for any.
    """

    def __init__(self, *, allow_folders: bool, capacity: int = 3, most_bytes: int | None = None) -> None:
        self.allow_folders = allow_folders
        self.most_bytes = most_bytes
        self.capacity = capacity
        self._loaded: OrderedDict[Chosen, StudyPredictor] = OrderedDict()
        self._lock = Lock()  # guards the two dicts, and is never held while something loads
        self._loading: defaultdict[Chosen, Lock] = defaultdict(Lock)

    def get(self, name: str = "", revision: str = "", abnormal_label: str = "") -> StudyPredictor:
        """The predictor of a Hub name, a folder or one of the package's; the default one where the name is empty.

        Args:
            name: As above.
            revision: On the Hub; its main branch where empty.
            abnormal_label: Of someone else's checkpoint, where its labels do not tell which means abnormal.

        Raises:
            CheckpointError: If it cannot be loaded, the name is neither of the Hub's form nor an allowed folder, or it
                is not clear which label means abnormal.
        """
        key = (name.strip(), revision.strip(), abnormal_label.strip())
        self._check(*key)
        with self._lock:
            if key in self._loaded:
                self._loaded.move_to_end(key)
                return self._loaded[key]
            loading = self._loading[key]
        with loading:  # who asks for the same checkpoint meanwhile waits; nobody else does
            with self._lock:
                if key in self._loaded:
                    return self._loaded[key]
            try:
                self._check_size(*key[:2])
                predictor = StudyPredictor.from_pretrained(
                    key[0] or None, revision=key[1] or None, abnormal_label=key[2] or None
                )
            finally:
                with self._lock:
                    self._loading.pop(key, None)
            with self._lock:
                self._loaded[key] = predictor
                for old in list(self._loaded)[: -self.capacity]:
                    if old != DEFAULT:
                        del self._loaded[old]
        return predictor

    def _check_size(self, name: str, revision: str) -> None:
        if self.most_bytes is None or not name or name in BUNDLED or Path(name).is_dir():
            return
        try:
            found = HfApi().model_info(name, revision=revision or None, files_metadata=True, timeout=HUB_TIMEOUT)
        except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, httpx.HTTPError):
            return  # what loads it says what is wrong, in its own words
        size = sum(file.size or 0 for file in found.siblings or () if file.rfilename.endswith(".safetensors"))
        if size > self.most_bytes:
            raise CheckpointError(
                f"The weights of {name} have {size / 1e9:.1f} GB, and here at most {self.most_bytes / 1e9:.1f} GB are "
                "loaded; use it with the app on a machine of your own."
            )

    def _check(self, name: str, revision: str, abnormal_label: str) -> None:
        if not name:
            if abnormal_label:
                raise CheckpointError("An abnormal label belongs to a model's name; give that too, or leave it empty.")
            if revision:
                raise CheckpointError("A revision belongs to a Hub name; give that too, or leave the revision empty.")
            return
        if name in BUNDLED:
            if revision:
                raise CheckpointError(f"{name} comes with the package and has no revisions; leave the revision empty.")
            return
        if self.allow_folders and Path(name).is_dir():
            return
        if not _HUB_NAME.fullmatch(name) or Path(name).exists():
            allowed = "a Hub name such as user/model, or a folder on this machine" if self.allow_folders else (
                "a Hub name such as user/model, nor one that comes with the package; folders are read only where the "
                "app serves on its own machine alone"
            )  # fmt: skip
            raise CheckpointError(f"“{name}” is not {allowed}.")
