"""Does the heat follow a finding that was added to a picture?"""

from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..evaluation import bootstrap_mean
from ..inference import StudyPredictor
from ..phantoms import BODY_PARTS, MIX, render_phantom
from .pointing import compare_with_box

N_TWINS = 210


def measure_following(
    predictor: StudyPredictor, n: int = N_TWINS, seed: int = 2_000_000, *, size: int = 512, progress: bool = True
) -> dict[str, Any]:
    """Renders views with and without a finding, equal bit for bit elsewhere, and compares their heatmaps.

    In the twin without it, the place of the finding looks as it does where there is none: what heat lies there is
    habit, not finding. The finding is the cause of the difference, since nothing else was changed.

    Args:
        predictor: The checkpoint; one that has heatmaps.
        n: Patients, one view each; body parts take turns, findings come in the shares of `MIX`. Those whose finding
            does not show in the view do not count.
        seed: Of the first patient. Seeds below 2^32 that a training tree drew are unlikely to be met again.
        size: Pixels on the long side.
        progress: Whether to show a progress bar.

    Returns:
        `overall` and each kind of finding: a dict with `n`; `inside` and `inside_without`, the mean share of the heat
        inside the finding's box with the finding and in the twin; `difference` of the two, with `low` and `high` (95 %
        interval by a bootstrap over patients); `hits` and `hits_without`, the shares whose hottest pixel lies in the
        box; and `area`, the box's mean share of the picture, which heat spread evenly would have inside.
    """
    rng = np.random.default_rng([seed, 0])
    kinds = rng.choice(list(MIX), size=n, p=np.array(list(MIX.values())) / sum(MIX.values()))
    found: dict[str, list[tuple[float, ...]]] = {"overall": [], **{kind: [] for kind in MIX}}
    for number in tqdm(range(n), desc="Added findings", disable=not progress):
        part, patient = BODY_PARTS[number % len(BODY_PARTS)], seed + number
        view = (number // len(BODY_PARTS)) % 3
        twins = [
            render_phantom(patient, body_part=part, view=view, finding=finding, size=size)
            for finding in (str(kinds[number]), None)
        ]
        box, kind = twins[0].box, twins[0].finding
        if box is None or kind is None:
            continue
        row: list[float] = []
        for twin in twins:
            heat = predictor([twin.pixels], body_part=part).views[0].heatmap
            assert heat is not None
            hit, _, inside = compare_with_box(heat, box)
            row += [inside, float(hit)]
        area = (box[2] - box[0]) * (box[3] - box[1]) / twins[0].pixels.size
        for name in ("overall", kind):
            found[name].append((*row, area))
    return {name: _summary(np.asarray(values)) for name, values in found.items() if values}


def _summary(values: np.ndarray) -> dict[str, Any]:
    inside, hits, inside_without, hits_without, area = values.T
    low, high = bootstrap_mean(inside - inside_without, np.arange(len(values)))
    return {
        "n": len(values),
        "inside": float(inside.mean()),
        "inside_without": float(inside_without.mean()),
        "difference": float((inside - inside_without).mean()),
        "low": low,
        "high": high,
        "hits": float(hits.mean()),
        "hits_without": float(hits_without.mean()),
        "area": float(area.mean()),
    }
