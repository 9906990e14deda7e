"""The error that the model files raise: the package's own where it is installed, else its like."""

try:
    from mura_hf.errors import CheckpointError
except ImportError:  # the model files travel with a checkpoint and are loaded without the package

    class CheckpointError(Exception):  # type: ignore[no-redef]
        """A checkpoint cannot be loaded, exported or used for what was asked."""


__all__ = ["CheckpointError"]
