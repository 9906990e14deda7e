"""`RetrievalIndex`: the studies of a dataset that look most like a given one."""

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from ..errors import CheckpointError
from ..models import BODY_PARTS, MuraClassifier, find_body_part
from ..radiographs import Radiograph, read_levels
from .codes import digest_encoder, encode_planes, encode_rows
from .search import ExactSearcher, FaissSearcher, check_factory, sum_squares
from .storage import METRICS, SHARED_DATA, IndexRecord, StoredIndex, make_rows, read_index, write_index

if TYPE_CHECKING:
    from datasets import Dataset

View = str | os.PathLike[str] | bytes | bytearray | Image.Image | np.ndarray | Radiograph
_SINGLE_VIEW = (str, os.PathLike, bytes, bytearray, Image.Image, np.ndarray, Radiograph)
_VIEWS_PER_STUDY = 4  # neighbouring views to start with, per wanted study

Searcher = ExactSearcher | FaissSearcher


@dataclass(frozen=True)
class Neighbour:
    """A similar study.

    Attributes:
        study_id: Its name in the dataset.
        patient_id: Its patient.
        view: Number of its nearest view.
        label: "normal" or "abnormal", the label of the dataset.
        body_part: One of the seven body parts, or None.
        finding: Type of finding; None if there is none or it is unknown.
        distance: Euclidean distance, or 1 - cosine similarity, between the two nearest views.
        nearest_to: Index of the query view that this study is nearest to.
        row: Row of the nearest view in the index.
        thumbnail: WebP file of that view, if the index has thumbnails.
    """

    study_id: str
    patient_id: str
    view: int
    label: str
    body_part: str | None
    finding: str | None
    distance: float
    nearest_to: int
    row: int
    thumbnail: bytes | None = None


class RetrievalIndex:
    """Codes of all views of a dataset, searchable for similar studies. Threads may share it.

    The distance of two studies is that of their two nearest views, because views of different projections do not
    compare.

    Args:
        stored: Content of its files.
        searcher: Searcher of its codes.

    Attributes:
        record: Its description.
        rows: Table with a row per view.
        codes: Codes of all views as stored, `[N, D]`; of length 1 if the metric is cosine.
    """

    def __init__(self, stored: StoredIndex, searcher: Searcher) -> None:
        self.record = stored.record
        self.codes = stored.codes
        self.rows = stored.rows
        self._stored = stored
        self._searcher = searcher
        self._studies = np.unique(stored.rows["study_id"].to_pylist(), return_inverse=True)[1]
        self._patients = np.asarray(stored.rows["patient_id"].to_pylist(), object)
        self._parts = np.asarray(stored.rows["body_part"].to_pylist(), object)
        self._model: MuraClassifier | None = None
        self._processor: Any = None

    @property
    def is_synthetic(self) -> bool:
        """Whether its studies are phantoms, so that no patient is behind them."""
        return (self.record.data or {}).get("key") == "phantoms"

    def __len__(self) -> int:
        return len(self.rows)

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
        progress: bool = True,
    ) -> "RetrievalIndex":
        """Encodes every view of a dataset.

        Args:
            dataset: A split of `load_mura` or another loader.
            model: Any classifier of the package. It is put into evaluation mode.
            processor: Its image processor.
            metric: "l2" or "cosine".
            half: Whether to store codes in float16. The search is exact with respect to the stored codes.
            factory: FAISS factory string for millions of views, such as "IVF1024,SQ8"; exact search if None.
            parameters: FAISS search parameters, such as "nprobe=8".
            thumbnail_side: Longer side of stored thumbnails in pixels; None for no thumbnails. Only for data whose
                pictures may be shared, see `IndexRecord.may_be_shared`.
            data: Description of the dataset as in `training.json`.
            split: Name of the split.
            batch_size: Views per forward pass.
            progress: Whether to show a progress bar.

        Raises:
            RadiographError: If a file cannot be read.
            CheckpointError: If the model has no pooled features, or FAISS is required and not installed.
            ValueError: If there are no rows, the metric is unknown, FAISS does not know the factory string, or
                thumbnails are wanted of data whose license is unknown or forbids it.
        """
        if metric not in METRICS:
            raise ValueError(f"unknown metric {metric!r}; choose one of {', '.join(METRICS)}")
        if not len(dataset):
            raise ValueError("the dataset has no views to index; choose another split or other body parts")
        if factory is not None:
            check_factory(factory)  # before the long computation
        record = IndexRecord(
            secrets.token_hex(16), digest_encoder(model, processor), metric, data, split, factory, parameters
        )
        if thumbnail_side is not None and not record.may_be_shared:
            raise ValueError(
                f"the license of {(data or {}).get('name') or 'these data'} does not allow thumbnails, or is unknown; "
                f"build the index without them. Data with thumbnails are {', '.join(SHARED_DATA)}"
            )
        codes, thumbnails = encode_rows(
            dataset,
            model.eval(),
            processor,
            batch_size=batch_size,
            thumbnail_side=thumbnail_side,
            progress=progress,
        )
        codes = _normalize(codes, metric)
        codes = codes.half() if half else codes
        single = codes.float()
        stored = StoredIndex(record, codes, sum_squares(single), make_rows(dataset, thumbnails))
        searcher: Searcher = ExactSearcher(single, stored.squares)
        if factory is not None:
            searcher = FaissSearcher.build(single, factory, parameters)
        index = cls(stored, searcher)
        index._model, index._processor = model, processor
        return index

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes the files of the index (see `storage`). An index that is already there is replaced.

        Raises:
            DatasetError: If a file cannot be written.
        """
        faiss = isinstance(self._searcher, FaissSearcher)
        write_index(Path(folder), self._stored, self._searcher.save if faiss else None)  # type: ignore[union-attr]

    @classmethod
    def load(
        cls, folder: str | os.PathLike[str], model: MuraClassifier | None = None, processor: Any = None
    ) -> "RetrievalIndex":
        """Opens an index. Codes in float32 are memory-mapped.

        Args:
            folder: Folder written by `save`.
            model: The model that made the codes; needed to search with images.
            processor: Its image processor.

        Raises:
            CheckpointError: If files are missing or damaged, the model is another one, or FAISS is required and not
                installed.
            ValueError: If a model is given without its image processor.
            ImportError: If pyarrow is not installed (extra `train`).
        """
        if model is not None and processor is None:
            raise ValueError("the model is given without its image processor; give both, or neither")
        stored = read_index(Path(folder))
        codes, record = stored.codes.float(), stored.record
        searcher: Searcher = ExactSearcher(codes, stored.squares)
        if record.factory is not None:
            searcher = FaissSearcher.load(codes, Path(folder) / record.faiss_name, record.parameters)
        index = cls(stored, searcher)
        if model is None:
            return index
        if digest_encoder(model, processor) != record.coder:
            raise CheckpointError(
                "the index was made with other weights, or with other settings of the model or image processor, or "
                "the model was loaded in half precision, so codes are not comparable; load the model as it was, or "
                "build the index again with scripts/build_index.py"
            )
        index._model, index._processor = model, processor
        return index

    def search(
        self,
        image: View | Sequence[View],
        k: int = 5,
        body_part: str | None = None,
        exclude_patient: str | None = None,
    ) -> list[Neighbour]:
        """Returns the studies most similar to a view, or to the views of one study, the nearest first.

        Args:
            image: A path, file content, PIL image, array (uint8, or float in [0, 1]) or `Radiograph`; or a list of
                these.
            k: Number of studies. Fewer are returned if the index has fewer.
            body_part: Return only studies of this body part.
            exclude_patient: Leave out the studies of this patient.

        Raises:
            RadiographError: If a file cannot be read.
            CheckpointError: If the index has no model.
            ValueError: If the body part is unknown, k is below 1, or an array is not an image.
        """
        if self._model is None:
            raise CheckpointError(
                "the index has no model to encode images with; load it with a model, or use StudyPredictor.similar"
            )
        views: list[Any] = [image] if isinstance(image, _SINGLE_VIEW) else list(image)
        planes = []
        for view in views:
            if isinstance(view, Radiograph):
                planes.append(view.to_uint8())
            elif isinstance(view, Image.Image | np.ndarray):
                planes.append(self._processor.gray_plane(view))
            else:
                planes.append(read_levels(view))
        known = None if body_part is None else BODY_PARTS.index(find_body_part(body_part))
        codes = encode_planes(planes, self._model, self._processor, [known] * len(planes))
        return self.search_codes(codes, k, body_part, exclude_patient)

    def search_codes(
        self,
        codes: torch.Tensor | np.ndarray,
        k: int = 5,
        body_part: str | None = None,
        exclude_patient: str | None = None,
    ) -> list[Neighbour]:
        """As `search`, with codes of the views of one study, float `[V, D]`.

        Raises:
            ValueError: If the codes have another width or are not finite, the body part is unknown, or k is not an
                integer of at least 1.
        """
        if k != int(k) or k < 1:
            raise ValueError(f"k is {k}; it must be an integer of at least 1")
        queries = torch.as_tensor(codes, dtype=torch.float32)
        if queries.ndim != 2 or not len(queries) or queries.shape[1] != self.codes.shape[1]:
            raise ValueError(
                f"codes must be [views, {self.codes.shape[1]}] with at least one view, not {list(queries.shape)}"
            )
        if not torch.isfinite(queries).all():
            raise ValueError("codes contain NaN or infinity")
        allowed = None
        if body_part is not None or exclude_patient is not None:
            mask = np.ones(len(self), bool) if body_part is None else self._parts == find_body_part(body_part)
            allowed = torch.from_numpy(mask if exclude_patient is None else mask & (self._patients != exclude_patient))
        queries = _normalize(queries, self.record.metric)
        return [
            Neighbour(
                **self.rows.slice(row, 1).to_pylist()[0],
                distance=distance**2 / 2 if self.record.metric == "cosine" else distance,
                nearest_to=view,
                row=row,
            )
            for distance, row, view in self._nearest_studies(queries, int(k), allowed)
        ]

    def _nearest_studies(
        self, queries: torch.Tensor, k: int, allowed: torch.Tensor | None
    ) -> list[tuple[float, int, int]]:
        """Distance, row and query view of the k nearest studies, the nearest first."""
        wanted = min(_VIEWS_PER_STUDY * k, len(self))
        while True:
            distances, rows = self._searcher.search(queries, wanted, allowed)
            views, places = np.nonzero(rows >= 0)
            near, found = distances[views, places], rows[views, places]
            order = np.lexsort((found, near))
            best: dict[int, tuple[float, int, int]] = {}
            for distance, row, view in zip(
                near[order].tolist(), found[order].tolist(), views[order].tolist(), strict=True
            ):
                best.setdefault(int(self._studies[row]), (distance, row, view))
            # Views that were not returned are farther away than the last one of each query.
            edge = distances[:, -1].min() if wanted < len(self) else np.inf
            certain = [study for study in best.values() if study[0] <= edge]
            if len(certain) >= k or not np.isfinite(edge):
                return certain[:k]
            wanted = min(4 * wanted, len(self))


def _normalize(codes: torch.Tensor, metric: str) -> torch.Tensor:
    """Codes whose Euclidean distances rank as the metric does."""
    return torch.nn.functional.normalize(codes, dim=1) if metric == "cosine" else codes
