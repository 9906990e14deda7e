"""`AppContext`: what all tabs and endpoints share, with the limits and the loaded checkpoints."""

import os
import re
import shutil
import tempfile
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ..common import BUNDLED
from ..errors import CheckpointError
from ..inference import StudyPredictor
from ..inference.loading import LOCAL_CHECKPOINTS, PUBLIC_CHECKPOINTS, CheckpointLimits
from ..radiographs import GuardedReader
from . import templates
from .examples import EXAMPLES_CHECKPOINT, EXAMPLES_FOLDER, ExampleStudy, choose_examples
from .uploads import Uploads, make_private_folder

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1", "[::1]")
_PUBLIC_SIGNS = ("SPACE_ID", "GRADIO_ROOT_PATH", "MURA_PUBLIC")
_MAX_SESSIONS = 10_000
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

CheckpointKey = tuple[str, str, str]
"""Name, revision and abnormal label of a checkpoint, the arguments of `CheckpointCache.get`."""

DEFAULT: CheckpointKey = ("", "", "")
FOR_EXAMPLES: CheckpointKey = (EXAMPLES_CHECKPOINT, "", "")


@dataclass(frozen=True)
class Limits:
    """Limits of the page and its endpoints."""

    upload_bytes: int = 1 << 30  # of one upload, all its files together
    studies: int = 2_000  # of one worklist
    folder_bytes: int = 4 << 30  # of all uploads on the server
    queue: int = 32  # waiting requests; further requests are refused with a message
    concurrency: int = 2  # requests of one kind that run at the same time
    threads: int = 24  # that serve the page
    seconds: float = 3600.0  # of one worklist
    checkpoint: CheckpointLimits = LOCAL_CHECKPOINTS
    connections: int = 1024  # requests that are being answered, pages that are open among them
    client_share: float = 1.0  # of `folder_bytes` and `connections` that one address may use
    min_rate: int = 16 << 10  # bytes per second of an upload, from its first `grace` seconds on
    grace: float = 10.0


LOCAL_LIMITS = Limits()
PUBLIC_LIMITS = Limits(
    upload_bytes=200 << 20, studies=200, folder_bytes=1 << 30, seconds=900.0, checkpoint=PUBLIC_CHECKPOINTS,
    client_share=0.5,
)  # fmt: skip
"""Limits if other people can reach the app."""


class CheckpointCache:
    """Loads predictors by name. Keeps the most recent ones, and always the default one. Thread-safe.

    Args:
        allow_folders: Whether local folders may be named. Only safe if the app serves on loopback.
        capacity: Number of predictors to keep.
        limits: What a checkpoint may ask for.
    """

    def __init__(
        self, *, allow_folders: bool, capacity: int = 3, limits: CheckpointLimits = LOCAL_CHECKPOINTS
    ) -> None:
        self.allow_folders, self.capacity, self.limits = allow_folders, capacity, limits
        self._loaded: OrderedDict[CheckpointKey, StudyPredictor] = OrderedDict()
        self._lock = threading.Lock()  # guards both dictionaries; not held while a checkpoint loads
        self._loading: defaultdict[CheckpointKey, threading.Lock] = defaultdict(threading.Lock)

    def get(self, name: str = "", revision: str = "", abnormal_label: str = "") -> StudyPredictor:
        """Returns the predictor of a bundled checkpoint, a Hub name or a local folder.

        Args:
            name: Name of the checkpoint; the default checkpoint if empty.
            revision: Revision on the Hub; the main branch if empty.
            abnormal_label: Label of an external checkpoint that means abnormal, if its names do not say so.

        Raises:
            CheckpointError: If it cannot be loaded, if the name is neither a Hub name nor an allowed folder, or if it
                is not clear which label means abnormal.
        """
        key = (name.strip(), revision.strip(), abnormal_label.strip())
        self._check_name(*key)
        with self._lock:
            if key in self._loaded:
                self._loaded.move_to_end(key)
                return self._loaded[key]
            loading = self._loading[key]
        with loading:  # other requests for this checkpoint wait here; requests for others do not
            with self._lock:
                if key in self._loaded:
                    return self._loaded[key]
            ours = self.allow_folders or not name.strip() or key[0] in BUNDLED
            try:
                predictor = StudyPredictor.from_pretrained(
                    key[0] or None,
                    revision=key[1] or None,
                    abnormal_label=key[2] or None,
                    limits=self.limits,
                    runtime="auto" if ours else "torch",  # compiling the checkpoints of visitors would take the CPU
                )
                with self._lock:
                    self._loaded[key] = predictor
                    for old in list(self._loaded)[: -self.capacity]:
                        if old != DEFAULT:
                            del self._loaded[old]
            finally:  # after the predictor is stored, else a request in between would load it again
                with self._lock:
                    self._loading.pop(key, None)
        return predictor

    def _check_name(self, name: str, revision: str, abnormal_label: str) -> None:
        if not name and abnormal_label:
            raise CheckpointError(templates.LABEL_WITHOUT_NAME)
        if not name and revision:
            raise CheckpointError(templates.REVISION_WITHOUT_NAME)
        if name in BUNDLED and revision:
            raise CheckpointError(templates.REVISION_OF_BUNDLED.format(name))
        if not name or name in BUNDLED or (self.allow_folders and Path(name).is_dir()):
            return
        if not _HUB_NAME.fullmatch(name) or Path(name).exists():
            folders = templates.NO_SUCH_FOLDER if self.allow_folders else templates.NO_FOLDERS
            bundled = ", ".join(BUNDLED)
            raise CheckpointError(templates.NO_HUB_NAME.format(name=name, bundled=bundled, folders=folders))


class LatestRequests:
    """The latest request of each browser session, as an event that stops it. Thread-safe."""

    def __init__(self) -> None:
        self._latest: OrderedDict[str, threading.Event] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, session: str) -> threading.Event:
        """Registers a new request and returns its event. The oldest sessions are forgotten if there are too many."""
        event = threading.Event()
        with self._lock:
            self._latest[session] = event
            self._latest.move_to_end(session)
            while len(self._latest) > _MAX_SESSIONS:
                self._latest.popitem(last=False)
        return event

    def find(self, session: str) -> threading.Event | None:
        """Returns the event of the latest request; None if there is none."""
        with self._lock:
            return self._latest.get(session)

    def is_latest(self, session: str, event: threading.Event) -> bool:
        """Whether no newer request of this session has begun. The answer to an earlier one is not shown."""
        return self.find(session) in (None, event)


@dataclass(frozen=True)
class AppContext:
    """The state of the server. Threads share it."""

    checkpoints: CheckpointCache
    reader: GuardedReader
    uploads: Uploads
    limits: Limits
    examples: list[ExampleStudy]
    public: bool  # whether other people can reach the page: then with a privacy notice, and without local folders
    host: str = LOCAL_HOSTS[0]

    def close(self) -> None:
        """Ends the reader's processes and removes all uploads."""
        self.reader.close()
        self.uploads.close()


def make_context() -> AppContext:
    """Makes the context of an app from the environment. Its reader and the removal of uploads are running.

    Also sets `GRADIO_TEMP_DIR`, so call it before Gradio is imported.
    """
    host = os.environ.get("GRADIO_SERVER_NAME", LOCAL_HOSTS[0])
    public = is_public(host, os.environ)
    limits = PUBLIC_LIMITS if public else LOCAL_LIMITS
    reader = GuardedReader()
    reader.start()
    checkpoints = CheckpointCache(allow_folders=not public, limits=limits.checkpoint)
    loader = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")  # while Gradio is imported
    for key in (DEFAULT, FOR_EXAMPLES):
        loader.submit(checkpoints.get, *key)  # `get` raises its errors again
    folder = make_private_folder()
    os.environ["GRADIO_TEMP_DIR"] = tempfile.tempdir = str(folder)  # some routes of Gradio use the system's folder
    shutil.copytree(EXAMPLES_FOLDER, folder / "examples")  # Gradio serves files of its own folder only
    uploads = Uploads(folder, quota=limits.folder_bytes)
    uploads.protect()
    uploads.start()
    return AppContext(checkpoints, reader, uploads, limits, choose_examples(folder / "examples"), public, host)


def is_public(host: str, environment: Mapping[str, str]) -> bool:
    """Whether an app that serves at this host, with these environment variables, is meant for other people too.

    An app that is not answers no request that comes through a proxy (`middleware.find_proxy`).
    """
    return host not in LOCAL_HOSTS or any(environment.get(name, "") not in ("", "0") for name in _PUBLIC_SIGNS)
