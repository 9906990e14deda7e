"""Every error that mura_hf raises on purpose. One base, and one child for each thing that a caller can mend."""


class MuraError(Exception):
    """Base of all errors of this package; its message names the file, what is wrong and the way out."""


class RadiographError(MuraError):
    """A file, or an array, is not a radiograph that can be read."""


class DatasetError(MuraError):
    """A dataset folder is not laid out as it should be."""


class CheckpointError(MuraError):
    """A checkpoint cannot be loaded, exported or used for what was asked."""


class ConfigError(MuraError):
    """A training configuration has an unknown key, a value out of range, or values that contradict each other."""


class HubError(MuraError):
    """The Hub cannot be reached, or does not take what was sent: a matter of network, account or what lies there."""


class CardError(MuraError):
    """A model card lacks a record that it must be rendered from."""


class TrainingError(MuraError):
    """A training run cannot go on; what it last kept on disk is whole, and the run can be taken up again there."""


class TrainingStopped(MuraError):  # noqa: N818 - it is no error of anything, as KeyboardInterrupt is none
    """A training run was told to stop, kept its state, and can be taken up again.

    Attributes:
        signal_number: Of the signal that told it, such as `signal.SIGTERM`.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number
