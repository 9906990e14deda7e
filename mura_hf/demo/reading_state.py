"""What a visitor's session remembers of the study that is open."""

from dataclasses import dataclass, replace

from ..inference import StudyPrediction
from .checkpoints import DEFAULT, Chosen


@dataclass(frozen=True)
class Question:
    """What was asked about a study.

    Attributes:
        files: Its views, where the server keeps them.
        checkpoint: Which one answered.
        body_part: As it was given; None where the model is to find it.
        operating_point: Name of the threshold; the checkpoint's default where None.
        method: Of the heatmaps; the cheapest that is exact for the model where None.
        anyway: Whether the answer is wanted for a study that is unlike those of training, too.
    """

    files: tuple[str, ...]
    checkpoint: Chosen = DEFAULT
    body_part: str | None = None
    operating_point: str | None = None
    method: str | None = None
    anyway: bool = False


@dataclass(frozen=True)
class Reading:
    """A question with its answer.

    Attributes:
        question: What was asked, with the operating point that was used.
        study: The answer without heatmaps: no picture is remembered.
        problems: Sentences about files that could not be read.
    """

    question: Question
    study: StudyPrediction
    problems: tuple[str, ...] = ()


def remember(question: Question, study: StudyPrediction, problems: list[str]) -> Reading:
    """A reading that is small enough to be kept for every visitor."""
    views = [replace(view, heatmap=None) for view in study.views]
    question = replace(question, operating_point=study.operating_point)
    return Reading(question, replace(study, views=views), tuple(problems))
