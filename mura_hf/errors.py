"""Every error that mura_hf raises on purpose. One base, and one child for each thing that a caller can mend."""


class MuraError(Exception):
    """Base of all errors of this package; its message names the file, what is wrong and the way out."""


class RadiographError(MuraError):
    """A file, or an array, is not a radiograph that can be read."""


class DatasetError(MuraError):
    """A dataset folder is not laid out as it should be."""


class CheckpointError(MuraError):
    """A checkpoint cannot be loaded, exported or used for what was asked."""


class RecipeError(MuraError):
    """A training recipe holds a key or a value that does not exist."""


class CardError(MuraError):
    """A model card lacks a record that it must be rendered from."""
