"""Processes that read files."""

import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor

import cv2


def reading_pool(workers: int) -> ProcessPoolExecutor:
    """A pool of fresh processes, one thread each, that end with the process that asked for them.

    They are spawned, since a fork after torch has run may hang.
    """
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start)


def _start() -> None:
    cv2.setNumThreads(1)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """A killed parent closes no queue; without this its workers would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
