"""What a checkpoint knows about studies like those of its training, when it is loaded."""

from ..errors import CheckpointError
from ..models.weights_mura import digest_weights
from ..retrieval import IN_DISTRIBUTION_FILE, InDistribution
from .files import find_file, find_weights
from .sources import Source

STRANGE_WARNING = (
    "This study does not look like those that the checkpoint was trained on, so its answer may mean nothing."
)


def find_distribution(source: Source) -> tuple[InDistribution | None, str | None]:
    """What tells whether a study is like those of training; None where the checkpoint has nothing of the kind.

    Returns:
        It, and a sentence for each answer where there is something that cannot be used.
    """
    file, folder = find_file(source, IN_DISTRIBUTION_FILE), find_weights(source)
    if file is None or folder is None:
        return None, None
    try:
        return InDistribution.load(file, digest_weights(folder)), None
    except CheckpointError as error:
        return None, f"It is not known whether a study is like those of training: {error}."
