"""Radiographs like this one: codes of views, and an index that is searched for the nearest."""

from .approximate import FaissSearcher
from .building import encode_rows
from .codes import view_codes
from .exact import ExactSearcher, exact_distances, make_sketch
from .fingerprint import digest_coder
from .in_distribution import IN_DISTRIBUTION_FILE, InDistribution, Judgement
from .index import RetrievalIndex
from .map_codes import map_codes
from .rows import Neighbour
from .storage import CODES, FOLDER, RECORD, ROWS, IndexRecord, read_record

__all__ = [
    "CODES",
    "FOLDER",
    "IN_DISTRIBUTION_FILE",
    "RECORD",
    "ROWS",
    "ExactSearcher",
    "FaissSearcher",
    "InDistribution",
    "IndexRecord",
    "Judgement",
    "Neighbour",
    "RetrievalIndex",
    "digest_coder",
    "encode_rows",
    "exact_distances",
    "make_sketch",
    "map_codes",
    "read_record",
    "view_codes",
]
