"""Measures how many phantoms of 512 px are rendered in a second, by one process and by two.

Topics (1 minute):
  phantoms  images per second: three projections of a new patient for every body part, half of them abnormal
"""

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from harness import run_benchmark
from tqdm.auto import tqdm

from mura_hf.phantoms import BODY_PARTS, FINDINGS, render_phantom


def measure_phantoms(rounds: int = 8, processes: Sequence[int] = (1, 2)) -> dict[str, float]:
    """Renders 21 images in each round and process.

    Returns:
        `per_second_1_processes`, `per_second_2_processes`.
    """
    rates = {}
    for n in processes:
        context = multiprocessing.get_context("spawn")  # a fork after torch has run may hang
        with ProcessPoolExecutor(n, mp_context=context) as pool:
            list(pool.map(_render_every_part, range(0, 100 * n, 100)))  # starts the processes and compiles
            seeds = range(1000, 1000 + 100 * rounds * n, 100)
            start = time.perf_counter()
            images = sum(tqdm(pool.map(_render_every_part, seeds), total=len(seeds), desc=f"phantoms, {n}"))
            rates[f"per_second_{n}_processes"] = round(images / (time.perf_counter() - start), 1)
    return rates


def _render_every_part(first_seed: int) -> int:
    """Renders three views of each body part, every other one abnormal; returns the number of images."""
    import cv2

    cv2.setNumThreads(1)
    for number, part in enumerate(BODY_PARTS):
        finding = FINDINGS[(first_seed + number) % len(FINDINGS)] if number % 2 else None
        for view in range(3):
            render_phantom(first_seed + number, body_part=part, view=view, finding=finding)
    return 3 * len(BODY_PARTS)


TOPICS = {"phantoms": (measure_phantoms, {"rounds": 1, "processes": (1,)})}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    return run_benchmark(__doc__, TOPICS, argv)


if __name__ == "__main__":
    main()
