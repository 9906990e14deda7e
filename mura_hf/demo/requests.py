"""What a visitor asks about a study, and which of a visitor's requests is the latest."""

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

from .state import DEFAULT, CheckpointKey

_MAX_SESSIONS = 10_000


@dataclass(frozen=True)
class StudyRequest:
    """A request to read one study.

    Attributes:
        files: Paths of the views on the server.
        checkpoint: Checkpoint that reads the study.
        body_part: Body part given by the visitor; None if the model should find it.
        operating_point: Name of the threshold; the default of the checkpoint if None.
        method: Heatmap method; the cheapest exact one for the model if None.
        show_anyway: Whether to show the answer even if the study is out of distribution.
    """

    files: tuple[str, ...]
    checkpoint: CheckpointKey = DEFAULT
    body_part: str | None = None
    operating_point: str | None = None
    method: str | None = None
    show_anyway: bool = False


class LatestRequests:
    """The latest request of each browser session. A slow answer to an earlier request is not shown. Thread-safe."""

    def __init__(self) -> None:
        self._latest: OrderedDict[str, object] = OrderedDict()
        self._lock = Lock()

    def begin(self, session: str) -> object:
        """Registers a new request and returns its token. The oldest sessions are forgotten if there are too many."""
        token = object()
        with self._lock:
            self._latest[session] = token
            self._latest.move_to_end(session)
            while len(self._latest) > _MAX_SESSIONS:
                self._latest.popitem(last=False)
        return token

    def is_latest(self, session: str, token: object) -> bool:
        """Whether no newer request of this session has begun."""
        with self._lock:
            return self._latest.get(session, token) is token
