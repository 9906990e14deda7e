"""Which of two labels of someone else's checkpoint means abnormal."""

import re
from collections.abc import Sequence

from ..errors import CheckpointError

_ABNORMAL = re.compile(
    r"abnormal(it(y|ies))?|anomal(y|ies|ous)|pos(itive)?|fractured?s?|broken|patholog(y|ies|ic|ical)|diseased?s?|"
    r"lesions?|findings?|injur(y|ies|ed)|yes"
)
_NORMAL = re.compile(r"normal|neg(ative)?|healthy|intact|unremarkable")
_NEGATIONS = {"no", "not", "non", "without", "un"}
_OF_ONE_WORD = {"non", "un"}
_PREFIXES = ("non", "not", "un", "no")
_VERDICTS = {"negative", "neg", "free", "absent", "absence"}
"""Words that speak about the whole label, wherever they stand: "fracture negative", "free of disease"."""


def find_abnormal(labels: Sequence[str], place: str, wanted: str | None = None) -> int:
    """Index of the label that means abnormal.

    Args:
        labels: The two, in the checkpoint's order.
        place: What to call the checkpoint.
        wanted: The label that means abnormal where the caller says so; upper and lower case are the same unless the
            labels differ in that only.

    Raises:
        CheckpointError: If `wanted` is none of the labels, or, without it, not one sounds abnormal and the other
            normal. The message names both labels and how to answer.
    """
    both = " and ".join(f"“{label}”" for label in labels)
    if len(set(labels)) < len(labels):
        raise CheckpointError(
            f"{place} has the labels {both}, which cannot be told apart; give its config.json two different names in "
            "id2label"
        )
    if wanted is not None:
        matches = [label for label in labels if label == wanted] or [
            label for label in labels if label.casefold() == wanted.strip().casefold()
        ]
        if len(matches) == 1:
            return list(labels).index(matches[0])
        raise CheckpointError(f"{place} has no label “{wanted}”; abnormal_label must be one of {both}")
    senses = [sounds_abnormal(label) for label in labels]
    if set(senses) == {True, False}:
        return senses.index(True)
    raise CheckpointError(
        f"{place} has the labels {both}: which of them means abnormal? Say it with abnormal_label, as in "
        f"StudyPredictor.from_pretrained(..., abnormal_label={labels[1]!r}), or in the app's box “Abnormal label”"
    )


def sounds_abnormal(label: str) -> bool | None:
    """True where a label's words mean abnormal, False where they mean normal, None where they mean neither or both.

    A negation turns round what comes after it: "not fractured", "No acute finding", "non-fractured", "unhealthy".
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label)  # NotFractured
    words = re.findall(r"[^\W\d_]+", spaced.casefold())
    if words == ["no"]:
        return False
    if words[-1:] == ["no"]:  # "fracture: no"
        words = ["no", *words[:-1]]
    negated, senses = False, set()
    for before, word in zip(["", *words], words, strict=False):
        sense = _sense(word)
        if word in _NEGATIONS:
            negated = not negated
        elif sense is not None:
            senses.add(sense != negated)
        elif before in _OF_ONE_WORD:  # "non-displaced fracture" is one
            negated = not negated
    if not negated and _VERDICTS & set(words):
        return False
    return senses.pop() if len(senses) == 1 else None


def _sense(word: str) -> bool | None:
    """Whether one word means abnormal; "un" and the like may be grown together with it."""
    if _ABNORMAL.fullmatch(word) or _NORMAL.fullmatch(word):
        return _ABNORMAL.fullmatch(word) is not None
    for prefix in _PREFIXES:
        rest = word.removeprefix(prefix)
        if rest != word and (_ABNORMAL.fullmatch(rest) or _NORMAL.fullmatch(rest)):
            return _NORMAL.fullmatch(rest) is not None
    return None
