"""Signals that ask a run to stop."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class StopSignals:
    """While it is entered, SIGTERM and SIGINT only leave a note, which the run reads between two steps.

    The second of a kind is left to what held before, so that an impatient Ctrl-C still ends the process. Outside the
    main thread, where Python allows no handlers, nothing is noted.

    Attributes:
        received: The number of the first signal; 0 before there is one.
    """

    def __init__(self) -> None:
        self.received = 0
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
        self.received = self.received or number
        self._restore(number)

    def _restore(self, number: int) -> None:
        before = self._before.pop(number, None)
        if before is not None:
            signal.signal(number, before)
