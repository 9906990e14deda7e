"""Where a model looked."""

from .gradcam import grad_cam
from .localization import Box, localize

__all__ = ["Box", "grad_cam", "localize"]
