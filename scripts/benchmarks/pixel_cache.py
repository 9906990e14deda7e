"""How fast the pixel cache is, and whether it survives."""

import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from mura_hf.data import build_pixel_cache, prepare_view
from mura_hf.models import MuraImageProcessor
from mura_hf.phantoms import BODY_PARTS, render_phantom


def _films(folder: str, n: int) -> list[str]:
    """Names of `n` files of 512 px; 210 pictures serve, under many names each."""
    pictures = []
    for number in tqdm(range(210), desc="rendering"):
        pictures.append(os.path.join(folder, f"picture{number}.png"))
        phantom = render_phantom(900_000 + number, body_part=BODY_PARTS[number % len(BODY_PARTS)], view=number % 3)
        Image.fromarray(phantom.pixels).save(pictures[-1])
    files = [os.path.join(folder, f"film{number:05d}.png") for number in range(n)]
    for number, file in enumerate(files):
        os.link(pictures[number % len(pictures)], file)
    return files


def _decode_and_resize(files: list[str]) -> int:
    for file in files:
        with Image.open(file) as picture:
            picture.convert("L").resize((224, 224), Image.Resampling.BILINEAR).tobytes()
    return len(files)


def _processor() -> MuraImageProcessor:
    return MuraImageProcessor(size={"height": 224, "width": 224}, resize_mode="squash")


def measure_cache_speed() -> dict[str, float]:
    """Builds the cache of 40,000 files of 512 px at 224 px and reads it, beside bare decoding and resizing.

    Returns:
        `built_over_bare`, pictures built a second over those that two processes decode and resize a second,
        alternated, median of three; `built_per_second`, at best; `read_per_second`, in random order.
    """
    ratios, built = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        files = _films(folder, 40_000)
        for number in tqdm(range(3), desc="cache"):
            with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
                sum(pool.map(_decode_and_resize, [files[:64]] * 16))  # both are up
                start = time.perf_counter()
                sum(pool.map(_decode_and_resize, [files[first : first + 256] for first in range(0, len(files), 256)]))
                bare = time.perf_counter() - start
            start = time.perf_counter()
            cache = build_pixel_cache(files, _processor(), os.path.join(folder, str(number)), workers=2)
            ratios.append(bare / (time.perf_counter() - start))
            built = max(built, ratios[-1] * len(files) / bare)
        order = random.Random(0).sample(files, len(files))
        start = time.perf_counter()
        for file in order:
            _ = cache[file].plane
        read = len(files) / (time.perf_counter() - start)
    return {
        "built_over_bare": round(statistics.median(ratios), 2),
        "built_per_second": round(built),
        "read_per_second": round(read),
    }


_BUILD = """
import sys
from mura_hf.assessment.cache_speed import _processor
from mura_hf.data import build_pixel_cache
if __name__ == "__main__":
    build_pixel_cache(open(sys.argv[1]).read().split(), _processor(), sys.argv[2], workers=2, progress=False)
"""


def measure_killed_builds() -> dict[str, int]:
    """Kills ten builds of a cache of 3,000 files in the middle and builds on.

    Returns:
        `killed`, how many were; `right_afterwards`, after how many every picture was there and right.
    """
    kills = right = 0
    with tempfile.TemporaryDirectory() as folder:
        files = _films(folder, 3000)
        expected = [prepare_view(file, _processor()).plane for file in tqdm(files[:210], desc="expected")]
        listing, script = Path(folder, "files.txt"), Path(folder, "build.py")
        listing.write_text("\n".join(files))
        script.write_text(_BUILD)
        for number in tqdm(range(10), desc="kills"):
            place = Path(folder, str(number))
            command = [sys.executable, str(script), str(listing), str(place)]
            building, wanted = subprocess.Popen(command), 1 + number % 5
            while building.poll() is None and len([*place.glob("*/*.arrow")]) < wanted:
                time.sleep(0.01)
            building.kill()
            kills += building.wait() < 0
            cache = build_pixel_cache(files, _processor(), place, workers=2, progress=False)
            planes = zip(files, expected * (len(files) // len(expected) + 1), strict=False)
            right += all(np.array_equal(cache[file].plane, plane) for file, plane in planes) and len(cache) == 3000
    return {"killed": kills, "right_afterwards": right}
