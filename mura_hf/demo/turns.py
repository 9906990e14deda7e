"""`Turns`: which of a visitor's readings is the last."""

from collections import OrderedDict
from threading import Lock

_MOST = 10_000  # sessions; the oldest are forgotten, and count as last


class Turns:
    """Readings may end in another order than they began; only the last one may speak. Threads share it."""

    def __init__(self) -> None:
        self._last: OrderedDict[str, object] = OrderedDict()
        self._lock = Lock()

    def begin(self, session: str, turn: object) -> None:
        """Makes a reading the last one of a session."""
        with self._lock:
            self._last[session] = turn
            self._last.move_to_end(session)
            while len(self._last) > _MOST:
                self._last.popitem(last=False)

    def is_last(self, session: str, turn: object) -> bool:
        """Whether no other reading of a session began since."""
        with self._lock:
            return self._last.get(session, turn) is turn
