"""Radiographs like this one: codes of views, and an index that is searched for the nearest."""

from .building import Neighbour, digest_encoder, encode_rows, view_codes
from .index import RetrievalIndex
from .ood_detection import OOD_FILE, OODDetector, OODResult, feature_means
from .search import ExactSearcher, FaissSearcher, exact_distances, make_sketch
from .storage import CODES, FOLDER, RECORD, ROWS, IndexRecord, read_record

__all__ = [
    "CODES",
    "FOLDER",
    "OOD_FILE",
    "RECORD",
    "ROWS",
    "ExactSearcher",
    "FaissSearcher",
    "IndexRecord",
    "Neighbour",
    "OODDetector",
    "OODResult",
    "RetrievalIndex",
    "digest_encoder",
    "encode_rows",
    "exact_distances",
    "feature_means",
    "make_sketch",
    "read_record",
    "view_codes",
]
