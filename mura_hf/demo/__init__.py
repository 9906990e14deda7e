"""The browser demo."""

from .app import build_app, launch

__all__ = ["build_app", "launch"]
