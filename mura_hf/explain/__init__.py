"""Where a model looked."""

from .explaining import AUTO, METHODS, Heatmaps, check_method, explain
from .gradcam import grad_cam
from .localization import Box, Region, find_regions, localize
from .occlusion import occlusion
from .overlay import colour_heat, draw_overlay
from .smooth_gradcam import smooth_grad_cam

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
