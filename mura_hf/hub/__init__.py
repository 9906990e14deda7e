"""The Hub: model cards, pushes of checkpoints and of the demo as a Space, export, and conversion of other weights."""
# ruff: noqa: E402 - the extra is checked before the imports

from ..common import require_extra

require_extra("train", "jinja2", "matplotlib", "sklearn", "yaml")

from .card import render_card
from .commit import PushResult
from .conversion import Conversion, convert_checkpoint
from .export import export_checkpoint
from .onnx_export import OnnxExport, export_onnx, study_probability
from .onnx_small import SmallGraph, shrink_graph
from .push import push
from .space import push_space, stage_space
from .static_space import stage_static_space
from .timm_export import TimmComparison, TimmExport, export_timm

__all__ = [
    "Conversion",
    "OnnxExport",
    "PushResult",
    "SmallGraph",
    "TimmComparison",
    "TimmExport",
    "convert_checkpoint",
    "export_checkpoint",
    "export_onnx",
    "export_timm",
    "push",
    "push_space",
    "render_card",
    "shrink_graph",
    "stage_space",
    "stage_static_space",
    "study_probability",
]
