"""What goes to the Hub: exported checkpoints and their cards. What comes from elsewhere: converted checkpoints."""

from .card import render_card
from .conversion import Conversion, ConvertedKey
from .converting import convert_checkpoint
from .export import export_checkpoint

__all__ = ["Conversion", "ConvertedKey", "convert_checkpoint", "export_checkpoint", "render_card"]
