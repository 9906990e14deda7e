"""Similar studies (`RetrievalIndex`) and out-of-distribution detection (`OODDetector`)."""

from .codes import digest_encoder, encode_rows, feature_means, view_codes
from .index import Neighbour, RetrievalIndex, View
from .ood_detection import FALSE_ALARM_RATE, OOD_FILE, OODDetector, OODResult, find_thresholds
from .search import ExactSearcher, FaissSearcher, rank_rows
from .storage import CODES, FOLDER, INDEX_FILES, RECORD, ROWS, IndexRecord, read_record

__all__ = [
    "CODES",
    "FALSE_ALARM_RATE",
    "FOLDER",
    "INDEX_FILES",
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
    "View",
    "digest_encoder",
    "encode_rows",
    "feature_means",
    "find_thresholds",
    "rank_rows",
    "read_record",
    "view_codes",
]
