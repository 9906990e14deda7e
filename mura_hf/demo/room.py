"""What all panels of the page share."""

from dataclasses import dataclass

from ..radiographs import GuardedReader
from .checkpoints import Checkpoints
from .examples import ExampleStudy
from .limits import Limits
from .session_files import SessionFiles


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
