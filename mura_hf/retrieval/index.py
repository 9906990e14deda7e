"""From the nearest views to the nearest studies.

`RetrievalIndex`: the studies of a dataset that look most like one.
"""

import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image

from ..errors import CheckpointError
from ..models import BODY_PARTS, MuraClassifier
from ..radiographs import Radiograph, read_levels
from .building import Neighbour, describe_rows, digest_encoder, encode_planes, encode_rows
from .search import ExactSearcher, FaissSearcher, check_factory, make_sketch, sum_squares
from .storage import METRICS, IndexRecord, StoredIndex, read_index, write_index

_AHEAD = 4  # views that are looked at for each study that is wanted, at first


def nearest_studies(
    searcher: Any, codes: torch.Tensor, k: int, studies: np.ndarray, allowed: torch.Tensor | None = None
) -> list[tuple[float, int, int]]:
    """The k studies one of whose views comes nearest to one of those that are searched for.

    Args:
        searcher: An `ExactSearcher`, or one by FAISS.
        codes: float32 `[V, D]`, of the views of one study.
        k: How many studies.
        studies: int64 `[N]`, the study of each row.
        allowed: bool `[N]`, which rows may be found; all where None.

    Returns:
        Distance, row, and place in `codes`, by study, the nearest first.
    """
    want = min(_AHEAD * k, len(studies))
    while True:
        distances, rows = searcher.search(codes, want, allowed)
        views = np.repeat(np.arange(len(codes)), want).reshape(rows.shape)
        there = rows >= 0
        order = np.lexsort((rows[there], distances[there]))
        best: dict[int, tuple[float, int, int]] = {}
        for distance, row, view in zip(
            distances[there][order].tolist(), rows[there][order].tolist(), views[there][order].tolist(), strict=True
        ):
            best.setdefault(int(studies[row]), (distance, row, view))
        # What was not looked at lies farther from each view than the last that was found for it.
        edge = distances[:, -1].min() if want < len(studies) else np.inf
        sure = [found for found in best.values() if found[0] <= edge]
        if len(sure) >= k or not np.isfinite(edge):
            return sure[:k]
        want = min(4 * want, len(studies))


if TYPE_CHECKING:
    from datasets import Dataset

View = str | os.PathLike[str] | bytes | bytearray | Image.Image | np.ndarray | Radiograph
_SINGLE = (str, os.PathLike, bytes, bytearray, Image.Image, np.ndarray, Radiograph)


class Searcher(Protocol):
    """What finds the nearest codes: exactly, or by FAISS."""

    def search(
        self, queries: torch.Tensor, k: int, allowed: torch.Tensor | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `ExactSearcher.search`."""


class RetrievalIndex:
    """Codes of a dataset's views, searched for the nearest. Threads may share it.

    What is found are studies. A study is as far from another as the nearest two of their views, since views of other
    projections say nothing about each other.

    Args:
        stored: The content of its files.
        searcher: Of its codes.
    """

    def __init__(self, stored: StoredIndex, searcher: Searcher) -> None:
        self.record = stored.record
        self.rows = stored.rows
        self._stored = stored
        self._searcher = searcher
        self._studies = _number(stored.rows["study_id"])
        self._patients = np.asarray(stored.rows["patient_id"].to_pylist(), object)
        self._parts = np.asarray(stored.rows["body_part"].to_pylist(), object)
        self._model: MuraClassifier | None = None
        self._processor: Any = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def codes(self) -> torch.Tensor:
        """Of every view, `[N, D]`, as they are stored; of length 1 where the metric is cosine."""
        return self._stored.codes

    @classmethod
    def build(
        cls,
        dataset: "Dataset",
        model: MuraClassifier,
        processor: Any,
        *,
        metric: str = "l2",
        half: bool = False,
        factory: str | None = None,
        parameters: str = "",
        thumbnail_side: int | None = None,
        data: dict[str, Any] | None = None,
        split: str | None = None,
        batch_size: int = 32,
        parts_dir: str | Path | None = None,
        progress: bool = True,
    ) -> "RetrievalIndex":
        """Runs a model over every view of a dataset.

        Args:
            dataset: A split of `load_mura`, or of another loader.
            model: Any that classifies; put into evaluation mode.
            processor: Its image processor.
            metric: "l2" or "cosine".
            half: Whether to keep codes in float16, at half the space; the search is exact among what is kept.
            factory: FAISS's factory string, such as "IVF1024,SQ8", for millions of views; exact search where None.
            parameters: FAISS's parameters at search time, such as "nprobe=8".
            thumbnail_side: Longer side of small pictures to be kept, in pixels; none where None.
            data: What the rows are, as records describe data.
            split: Which split they are.
            batch_size: Views a step.
            parts_dir: Where finished parts are kept, so that a build that was killed goes on; nowhere where None.
            progress: Whether to show a progress bar.

        Raises:
            RadiographError: If a file cannot be read.
            DatasetError: If a file is not there, or nothing can be written.
            CheckpointError: If the model has no pooled code, or FAISS is asked for and not installed.
            ValueError: If there are no rows, the metric is unknown, or FAISS does not know the factory string.
        """
        if metric not in METRICS:
            raise ValueError(f"unknown metric {metric!r}; there are {', '.join(METRICS)}")
        if not len(dataset):
            raise ValueError("there are no views to build an index of; choose another split or other body parts")
        if factory is not None:
            check_factory(factory)  # before hours of work
        model.eval()
        codes, thumbnails = encode_rows(
            dataset,
            model,
            processor,
            batch_size=batch_size,
            thumbnail_side=thumbnail_side,
            parts_dir=None if parts_dir is None else Path(parts_dir),
            progress=progress,
        )
        rows = describe_rows(dataset)
        if thumbnails is not None:
            place = rows.schema.get_field_index("thumbnail")
            rows = rows.set_column(place, rows.schema.field(place), pa.array(thumbnails, pa.binary()))
        kept = _to_metric(codes, metric)
        kept = kept.half() if half else kept
        record = IndexRecord(
            secrets.token_hex(16), digest_encoder(model, processor), metric, data, split, factory, parameters
        )
        index = cls._assemble(record, kept, rows)
        index.attach(model, processor)
        return index

    @classmethod
    def _assemble(cls, record: IndexRecord, codes: torch.Tensor, rows: pa.Table) -> "RetrievalIndex":
        single = codes.float()
        sketch = make_sketch(single) if record.factory is None else None
        stored = StoredIndex(record, codes, sum_squares(single), sketch, rows)
        if record.factory is None:
            return cls(stored, ExactSearcher(single, sketch, stored.squares))
        return cls(stored, FaissSearcher.build(single, record.factory, record.parameters))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes the index; see `storage` for its files.

        Args:
            folder: Where; what lies there of another index is replaced.

        Raises:
            DatasetError: If something cannot be written.
        """
        write_index(
            Path(folder), self._stored, self._searcher.save if isinstance(self._searcher, FaissSearcher) else None
        )

    @classmethod
    def load(
        cls, folder: str | os.PathLike[str], model: MuraClassifier | None = None, processor: Any = None
    ) -> "RetrievalIndex":
        """Opens an index; codes in float32 are mapped into memory.

        Args:
            folder: As `save` wrote it.
            model: The model that made it, for searching pictures.
            processor: Its image processor.

        Raises:
            CheckpointError: If files are missing or damaged, the model is another, or FAISS is needed and missing.
        """
        stored = read_index(Path(folder))
        codes = stored.codes.float()
        searcher: Searcher
        if stored.record.factory is None:
            searcher = ExactSearcher(codes, stored.sketch, stored.squares)
        else:
            searcher = FaissSearcher.load(codes, Path(folder) / stored.record.faiss_name, stored.record.parameters)
        index = cls(stored, searcher)
        if model is not None:
            index.attach(model, processor)
        return index

    def attach(self, model: MuraClassifier, processor: Any) -> None:
        """Gives the index the model that codes pictures which are searched for.

        Raises:
            CheckpointError: If its weights, configuration or processor are not those that made the index.
        """
        if digest_encoder(model, processor) != self.record.coder:
            raise CheckpointError(
                "the index was made with other weights, or with other settings of model or image processor, or the "
                "model is in half precision here, so that codes do not compare; load the model as it was, or build "
                "the index again with scripts/build_index.py"
            )
        self._model, self._processor = model, processor

    def search(
        self,
        image: View | Sequence[View],
        k: int = 5,
        body_part: str | None = None,
        exclude_patient: str | None = None,
    ) -> list[Neighbour]:
        """The studies that look most like a view, or like the views of one study.

        Args:
            image: A path, a file's content, a PIL image, an array (uint8, or float in [0, 1]) or a `Radiograph`; or a
                list of such.
            k: How many studies.
            body_part: One of the seven, to find studies of that part only; the whole index where None.
            exclude_patient: Whose studies are left out.

        Returns:
            The nearest first; fewer where there are not so many.

        Raises:
            RadiographError: If a file cannot be read.
            CheckpointError: If there is no model to code it.
            ValueError: If the part is unknown, k below 1, or an array is no picture.
        """
        if self._model is None:
            raise CheckpointError(
                "the index has no model to code a picture with; load it with one, or ask a StudyPredictor for similar "
                "studies"
            )
        images: list[Any] = [image] if isinstance(image, _SINGLE) else list(image)
        planes = [self._plane(one) for one in images]
        known = None if body_part is None else BODY_PARTS.index(_check_part(body_part))
        codes = encode_planes(planes, self._model, self._processor, [known] * len(planes))
        return self.search_codes(codes, k, body_part, exclude_patient)

    def _plane(self, view: Any) -> np.ndarray:
        """A view as gray levels uint8 `[H, W]`."""
        if isinstance(view, Radiograph):
            return view.to_uint8()
        return self._processor.gray_plane(view) if isinstance(view, Image.Image | np.ndarray) else read_levels(view)

    def search_codes(
        self,
        codes: torch.Tensor | np.ndarray,
        k: int = 5,
        body_part: str | None = None,
        exclude_patient: str | None = None,
    ) -> list[Neighbour]:
        """As `search`, of codes that the model gave.

        Args:
            codes: float `[V, D]`, of the views of one study.
            k: As in `search`.
            body_part: As in `search`.
            exclude_patient: As in `search`.

        Raises:
            ValueError: If the codes have another width or are not finite, the part is unknown, or k is no whole number
                of 1 or more.
        """
        if k != int(k) or k < 1:
            raise ValueError(f"k is {k}: it must be a whole number, 1 or more")
        queries = torch.as_tensor(codes, dtype=torch.float32)
        if queries.ndim != 2 or not len(queries) or queries.shape[1] != self.codes.shape[1]:
            raise ValueError(
                f"codes must be [views, {self.codes.shape[1]}] with at least one view, not {list(queries.shape)}"
            )
        if not torch.isfinite(queries).all():
            raise ValueError("codes hold values that are no numbers")
        found = nearest_studies(
            self._searcher,
            _to_metric(queries, self.record.metric),
            int(k),
            self._studies,
            self._allowed(body_part, exclude_patient),
        )
        return [
            Neighbour(
                **self.rows.slice(row, 1).to_pylist()[0],
                distance=distance**2 / 2 if self.record.metric == "cosine" else distance,
                nearest_to=view,
                row=row,
            )
            for distance, row, view in found
        ]

    def _allowed(self, body_part: str | None, patient: str | None) -> torch.Tensor | None:
        """Which rows may be found, bool `[N]`; None for all."""
        if body_part is None and patient is None:
            return None
        allowed = np.ones(len(self), bool)
        if body_part is not None:
            allowed &= self._parts == _check_part(body_part)
        if patient is not None:
            allowed &= self._patients != patient
        return torch.from_numpy(allowed)


def _to_metric(codes: torch.Tensor, metric: str) -> torch.Tensor:
    """Codes whose Euclidean distance ranks as the metric does."""
    return torch.nn.functional.normalize(codes, dim=1) if metric == "cosine" else codes


def _check_part(part: str) -> str:
    if part not in BODY_PARTS:
        raise ValueError(f"unknown body part {part!r}; there are {', '.join(BODY_PARTS)}")
    return part


def _number(words: pa.ChunkedArray) -> np.ndarray:
    """A number for each different word, int64 `[N]`."""
    return pc.dictionary_encode(words).combine_chunks().indices.to_numpy(zero_copy_only=False).astype(np.int64)
