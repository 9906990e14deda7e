"""What goes to the Hub: checkpoints, their cards, the app as a Space. What comes from elsewhere: conversion."""

from .card import render_card
from .conversion import Conversion, ConvertedKey, convert_checkpoint
from .export import export_checkpoint
from .push import PushResult, push
from .space import SpaceResult, push_space, stage_space

__all__ = [
    "Conversion",
    "ConvertedKey",
    "PushResult",
    "SpaceResult",
    "convert_checkpoint",
    "export_checkpoint",
    "push",
    "push_space",
    "render_card",
    "stage_space",
]
