"""Eight threads at one predictor."""

import threading
from typing import Any

import numpy as np

from mura_hf import StudyPredictor

_THREADS = 8


def check_threads(predictor: StudyPredictor, files: list[str], **options: Any) -> None:
    """Threads that ask at once are answered as one after another: probabilities and heatmaps are equal."""
    rng = np.random.default_rng(1)
    studies = [
        [rng.integers(0, 255, (70 + 5 * place, 90), np.uint8), files[place % len(files)]] for place in range(_THREADS)
    ]
    expected = [predictor(study, **options) for study in studies]
    assert any(view.heatmap.any() for study in expected for view in study.views)
    found: dict[int, list[Any]] = {}
    start = threading.Barrier(_THREADS)

    def work(place: int) -> None:
        start.wait(60)
        found[place] = [predictor(studies[place], **options) for _ in range(2)]

    threads = [threading.Thread(target=work, args=(place,)) for place in range(_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for place, alone in enumerate(expected):
        for study in found[place]:
            assert study.probability == alone.probability
            for view, wanted in zip(study.views, alone.views, strict=True):
                np.testing.assert_array_equal(view.heatmap, wanted.heatmap)
