"""What goes to the Hub: exported checkpoints, their cards, and the app as a Space."""

from .card import render_card
from .export import export_checkpoint
from .golden import make_golden
from .push import PushResult, push

__all__ = ["PushResult", "export_checkpoint", "make_golden", "push", "render_card"]
