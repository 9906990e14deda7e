"""Radiographs like this one: codes of views, and an index that is searched for the nearest."""

from .building import Neighbour, digest_coder, encode_rows, view_codes
from .index import RetrievalIndex
from .ood_detection import IN_DISTRIBUTION_FILE, InDistribution, Judgement, map_codes
from .search import ExactSearcher, FaissSearcher, exact_distances, make_sketch
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
