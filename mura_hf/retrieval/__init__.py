"""Radiographs like this one: codes of views, and an index that is searched for the nearest."""

from .approximate import FaissSearcher
from .building import encode_rows
from .codes import view_codes
from .exact import ExactSearcher, exact_distances, make_sketch
from .fingerprint import digest_coder
from .index import RetrievalIndex
from .rows import Neighbour
from .storage import CODES, FOLDER, RECORD, ROWS, IndexRecord, read_record

__all__ = [
    "CODES",
    "FOLDER",
    "RECORD",
    "ROWS",
    "ExactSearcher",
    "FaissSearcher",
    "IndexRecord",
    "Neighbour",
    "RetrievalIndex",
    "digest_coder",
    "encode_rows",
    "exact_distances",
    "make_sketch",
    "read_record",
    "view_codes",
]
