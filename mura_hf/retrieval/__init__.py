"""Radiographs like this one: codes of views, and an index that is searched for the nearest."""

from .codes import view_codes
from .in_distribution import IN_DISTRIBUTION_FILE, InDistribution, Judgement
from .map_codes import map_codes

__all__ = ["IN_DISTRIBUTION_FILE", "InDistribution", "Judgement", "map_codes", "view_codes"]
