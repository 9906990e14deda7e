"""Errors that mura_hf raises on purpose: one base class, and one child for each thing that a caller can correct."""


class MuraError(Exception):
    """Base class of all errors of this package. The message names the file, what is wrong and what to do."""


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message without its full stop, or the name of its class."""
    return (str(error).strip().split("\n")[0] or type(error).__name__).rstrip(".")


class RadiographError(MuraError):
    """A file or an array cannot be read as a radiograph."""


class DatasetError(MuraError):
    """A dataset does not have the expected layout or content."""


class CheckpointError(MuraError):
    """A checkpoint cannot be loaded, exported or used for what was asked."""


class ConfigError(MuraError):
    """A training config has an unknown key or an invalid value."""


class HubError(MuraError):
    """The Hub cannot be reached, or it refuses what was sent: check network, account and repository."""


class CardError(MuraError):
    """A model card lacks a record that it must be rendered from."""


class TrainingError(MuraError):
    """Training cannot continue. The last saved state is intact, and training can resume from it."""


class TrainingStopped(MuraError):  # noqa: N818 - not an error, as KeyboardInterrupt is none
    """Training received a signal and saved its state; the same command resumes it.

    Attributes:
        signal_number: Number of the signal, such as `signal.SIGTERM`.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number
