"""The browser demo."""

from .launching import launch

__all__ = ["launch"]
