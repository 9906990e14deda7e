"""Heatmaps of model attention, hot regions in them, and overlays on the radiograph."""

from .heatmaps import AUTO, METHODS, Heatmaps, check_method, explain, grad_cam, occlusion, smooth_grad_cam
from .localization import Box, Region, colour_heat, draw_overlay, find_regions, localize

__all__ = [
    "AUTO",
    "METHODS",
    "Box",
    "Heatmaps",
    "Region",
    "check_method",
    "colour_heat",
    "draw_overlay",
    "explain",
    "find_regions",
    "grad_cam",
    "localize",
    "occlusion",
    "smooth_grad_cam",
]
