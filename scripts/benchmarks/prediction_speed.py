"""How long a study takes, from its files to its answer."""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm.auto import tqdm

from mura_hf.common import BUNDLED
from mura_hf.inference import StudyPredictor
from mura_hf.phantoms import render_phantom

_SEED = 810_000


def measure_answers(
    folder: str | Path, names: Sequence[str] = tuple(BUNDLED), repeats: int = 30
) -> dict[str, dict[str, Any]]:
    """Times `StudyPredictor` on the three files of a phantom's wrist, with and without heatmaps, alternated.

    Args:
        folder: Where the files go.
        names: Checkpoints, as `StudyPredictor.from_pretrained` takes them.
        repeats: Of each, after one that is not timed.

    Returns:
        Name -> `milliseconds` with heatmaps, `heatmap_ratio` over the same without, and `n`; medians.
    """
    files = []
    for view in range(3):
        files.append(str(Path(folder, f"view{view}.png")))
        phantom = render_phantom(_SEED, body_part="wrist", view=view, finding="displaced_fracture")
        Image.fromarray(phantom.pixels).save(files[-1])
    found = {}
    for name in names:
        predictor = StudyPredictor.from_pretrained(name, device="cpu")
        predictor(files)
        whole, ratios = [], []
        for _ in tqdm(range(repeats), desc=name):
            seconds = []
            for heatmaps in (False, True):
                start = time.perf_counter()
                predictor(files, heatmaps=heatmaps)
                seconds.append(time.perf_counter() - start)
            whole.append(1000 * seconds[1])
            ratios.append(seconds[1] / seconds[0])
        found[name] = {
            "milliseconds": round(statistics.median(whole), 1),
            "heatmap_ratio": round(statistics.median(ratios), 2),
            "n": repeats,
        }
    return found
