"""Which part of a backbone is trained."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def keep_frozen_norms_still(module: nn.Module) -> None:
    """Puts every batch norm whose parameters are all frozen into evaluation mode, so that it keeps its statistics."""
    for inner in module.modules():
        if isinstance(inner, _BatchNorm):
            parameters = list(inner.parameters(recurse=False))
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                inner.eval()


__all__ = ["keep_frozen_norms_still"]
