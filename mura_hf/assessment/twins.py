"""What a finding, a marker or a ring does to a model's answer, all else being equal bit for bit."""

from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..inference import StudyPredictor
from ..phantoms import BODY_PARTS, MIX, render_phantom

_VIEWS = 3
_WORN: dict[str, dict[str, bool]] = {"marker": {"marker": True}, "ring": {"jewel": True}}


def measure_twins(
    predictor: StudyPredictor, n: int = 210, seed: int = 1_000_000, *, size: int = 512, progress: bool = True
) -> dict[str, Any]:
    """Renders studies of three views with and without something, and compares the answers.

    Args:
        predictor: The checkpoint; any that gives a study's probability.
        n: Patients; body parts take turns, findings come in the shares of `MIX`.
        seed: Of the first patient. Seeds below 2^32 that a training tree drew are unlikely to be met again.
        size: Pixels on the long side.
        progress: Whether to show a progress bar.

    Returns:
        `finding` (all kinds), each kind of `MIX`, `marker` and `ring`: a dict with `n`, `median` of the
        probability with minus that without, `low` and `high` (its 5th and 95th percentile) and `median_absolute`.
        Patients on whose films no marker or ring fits (a shoulder wears none) do not count for these.
    """
    rng = np.random.default_rng([seed, 0])
    kinds = rng.choice(list(MIX), size=n, p=np.array(list(MIX.values())) / sum(MIX.values()))
    changes: dict[str, list[float]] = {"finding": [], **{kind: [] for kind in MIX}, **{name: [] for name in _WORN}}
    for number in tqdm(range(n), desc="Twins", disable=not progress):
        part, patient = BODY_PARTS[number % len(BODY_PARTS)], seed + number
        plain: dict[str, Any] = {"marker": False, "jewel": False}
        drawn = [{**plain, "finding": str(kinds[number])}, *({**plain, **worn} for worn in _WORN.values())]
        studies: list[list[np.ndarray]] = [[] for _ in range(1 + len(drawn))]
        kind = str(kinds[number])
        for view in range(_VIEWS):  # view by view, since twins share their shadows
            for study, options in zip(studies, [plain, *drawn], strict=True):
                phantom = render_phantom(patient, body_part=part, view=view, size=size, **options)
                study.append(phantom.pixels)
                kind = phantom.finding or kind
        without, *others = (predictor(study, body_part=part, heatmaps=False).probability for study in studies)
        for name, probability, study in zip(("finding", *_WORN), others, studies[1:], strict=True):
            worn = any(not np.array_equal(new, old) for new, old in zip(study, studies[0], strict=True))
            if worn or name == "finding":
                changes[name].append(probability - without)
        changes[kind].append(changes["finding"][-1])
    return {name: _summary(np.asarray(values)) for name, values in changes.items() if values}


def _summary(values: np.ndarray) -> dict[str, Any]:
    low, median, high = np.quantile(values, [0.05, 0.5, 0.95])
    return {
        "n": len(values),
        "median": float(median),
        "low": float(low),
        "high": float(high),
        "median_absolute": float(np.median(np.abs(values))),
    }
