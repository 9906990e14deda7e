"""Radiographs like this one: codes of views, and an index that is searched for the nearest."""

from .codes import view_codes

__all__ = ["view_codes"]
