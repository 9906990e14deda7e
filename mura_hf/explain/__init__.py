"""Where a model looked."""

from .gradcam import grad_cam
from .localization import Box, localize
from .smooth_gradcam import smooth_grad_cam

__all__ = ["Box", "grad_cam", "localize", "smooth_grad_cam"]
