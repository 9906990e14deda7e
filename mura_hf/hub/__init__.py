"""What goes to the Hub: exported checkpoints and their cards."""

from .card import render_card
from .export import export_checkpoint

__all__ = ["export_checkpoint", "render_card"]
