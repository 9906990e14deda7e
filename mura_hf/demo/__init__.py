"""The browser demo."""

from .serving import launch

__all__ = ["launch"]
