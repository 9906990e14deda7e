"""Signals that ask a run to stop."""

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

_IMPATIENT_AFTER = 3.0


class StopSignals:
    """While it is entered, SIGTERM and SIGINT only leave a note, which the run reads between two steps.

    Launchers pass on what they get, so that one request may come twice: a SIGTERM is noted as often as it comes, and a
    Ctrl-C is left to what held before only where it comes three seconds or more after the first, of somebody who will
    not wait. Outside the main thread, where Python allows no handlers, nothing is noted.

    Attributes:
        received: The number of the first signal; 0 before there is one.
    """

    def __init__(self) -> None:
        self.received = 0
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number in list(self._before):
            self._restore(number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.received:
            self.received, self._since = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._since >= _IMPATIENT_AFTER:
            self._restore(number)
            signal.raise_signal(number)

    def _restore(self, number: int) -> None:
        before = self._before.pop(number, None)
        if before is not None:
            signal.signal(number, before)
