"""How much one visitor may ask of the server.

What all panels of the page share.
"""

from dataclasses import dataclass

from ..radiographs import GuardedReader
from .checkpoints import Checkpoints
from .examples import ExampleStudy
from .uploads import SessionFiles


@dataclass(frozen=True)
class Limits:
    """Limits of the page and its endpoints.

    Attributes:
        upload_bytes: Of one upload, all its files together; a ZIP file of many studies is the largest.
        studies: Of one worklist.
        folder_bytes: Of all uploads that lie on the server at a time.
        queue: Questions that may wait; the next one is refused, in words.
        at_once: Questions of one kind that are answered at a time.
        threads: That serve the page.
        seconds: That one worklist may take.
        weights_bytes: Of a checkpoint on the Hub; None for any.
    """

    upload_bytes: int = 1 << 30
    studies: int = 2_000
    folder_bytes: int = 4 << 30
    queue: int = 32
    at_once: int = 2
    threads: int = 24
    seconds: float = 3600.0
    weights_bytes: int | None = None


LOOPBACK = Limits()
PUBLIC = Limits(upload_bytes=200 << 20, studies=200, folder_bytes=1 << 30, seconds=900.0, weights_bytes=1 << 30)
"""Where strangers share the machine."""


@dataclass(frozen=True)
class ReadingRoom:
    """The server's side of the page; threads share it.

    Attributes:
        checkpoints: Those that are loaded, by name.
        reader: Decodes what visitors bring, away from this process.
        files: What visitors brought, and how long it stays.
        limits: How much a visitor may bring.
        examples: Synthetic studies that lie ready.
        public: Whether strangers can reach the page, so that a word about privacy comes before the first upload, and
            folders of this machine are not read.
    """

    checkpoints: Checkpoints
    reader: GuardedReader
    files: SessionFiles
    limits: Limits
    examples: list[ExampleStudy]
    public: bool
