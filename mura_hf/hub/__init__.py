"""What goes to the Hub: exported checkpoints, their cards, and the app as a Space."""

from .card import render_card
from .export import export_checkpoint
from .push import PushResult, push
from .space import SpaceResult, push_space, stage_space

__all__ = [
    "PushResult",
    "SpaceResult",
    "export_checkpoint",
    "push",
    "push_space",
    "render_card",
    "stage_space",
]
