"""The index that came with a checkpoint, opened when it is first asked for."""

from pathlib import Path
from threading import Lock
from typing import Any

from huggingface_hub import snapshot_download

from ..errors import CheckpointError
from ..models import MuraClassifier
from ..retrieval import CODES, FOLDER, RECORD, ROWS, RetrievalIndex
from .sources import HUB_TIMEOUT, Source


class LazyIndex:
    """A checkpoint's index. Threads may share it.

    Args:
        source: Of the checkpoint; None where it has none, as a model that was made in memory.
        model: The checkpoint's.
        processor: Likewise.
    """

    def __init__(self, source: Source | None, model: MuraClassifier, processor: Any) -> None:
        self._source = source
        self._model, self._processor = model, processor
        self._lock = Lock()
        self._opened = False
        self._index: RetrievalIndex | None = None

    def get(self) -> RetrievalIndex | None:
        """The index; None where the checkpoint has none.

        Raises:
            CheckpointError: If the Hub cannot be reached, or there is one that is damaged, or belongs to other weights
                or settings.
        """
        with self._lock:
            if not self._opened:
                folder = None if self._source is None else _find_folder(self._source)
                if folder is not None:
                    self._index = RetrievalIndex.load(folder, self._model, self._processor)
                self._opened = True
            return self._index


def _find_folder(source: Source) -> Path | None:
    place = Path(source.location)
    if not place.is_dir():
        try:
            place = Path(
                snapshot_download(
                    source.location,
                    revision=source.revision,
                    # Not FAISS's own file: its reader was not made for those of strangers.
                    allow_patterns=[f"{FOLDER}/{name}" for name in (RECORD, CODES, ROWS)],
                    etag_timeout=HUB_TIMEOUT,
                )
            )
        except Exception as error:  # whatever the network does; it may be there the next time
            raise CheckpointError(
                f"whether {source.name} has an index of studies cannot be found out: the Hub cannot be reached; check "
                "the network"
            ) from error
    return place / FOLDER if (place / FOLDER).is_dir() else None
