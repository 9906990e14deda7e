"""Measures how fast MURA is loaded and its pixels are cached, and whether a cache survives being killed.

Topics (together about 10 minutes):
  load   seconds in which `load_mura` loads a tree with MURA's 40,005 rows, best of three
  cache  the pixel cache at 224 px over 10,000 files of 512 px: images built in a second over those that two processes
         decode and resize, in turn, median of three; images read in a second
  kills  ten builds of a cache are killed halfway: after how many of them the next build is complete and correct
"""

import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from harness import run_benchmark
from make_counted_tree import write_counted_mura
from PIL import Image
from tqdm.auto import tqdm

from mura_hf.data import build_pixel_cache, load_mura, prepare_view
from mura_hf.models import MuraImageProcessor
from mura_hf.phantoms import BODY_PARTS, render_phantom


def measure_load(repeats: int = 3) -> dict[str, float]:
    """Returns `rows` and `seconds`, the best of the repeats."""
    with tempfile.TemporaryDirectory() as folder:
        tree = write_counted_mura(folder)
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            rows = sum(map(len, load_mura(tree).values()))
            seconds.append(time.perf_counter() - start)
    return {"rows": rows, "seconds": round(min(seconds), 2)}


def measure_cache(n: int = 10_000, different: int = 210, rounds: int = 3) -> dict[str, float]:
    """Builds a cache at 224 px from files of 512 px and reads it, beside bare decoding and resizing.

    Args:
        n: Number of files.
        different: Number of different images among them.
        rounds: Of which the median is taken.

    Returns:
        `built_over_bare`, images built in a second over those that two processes decode and resize; `built_per_second`
        at best; `read_per_second`, in random order.
    """
    ratios, built = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        files = _write_files(folder, n, different)
        blocks = [files[first : first + 256] for first in range(0, n, 256)]
        for number in tqdm(range(rounds), desc="cache"):
            with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
                list(pool.map(_decode_and_resize, [files[:64]] * 16))  # starts both processes
                start = time.perf_counter()
                list(pool.map(_decode_and_resize, blocks))
                bare = time.perf_counter() - start
            start = time.perf_counter()
            cache = build_pixel_cache(files, _processor(), os.path.join(folder, str(number)), workers=2)
            ratios.append(bare / (time.perf_counter() - start))
            built = max(built, ratios[-1] * n / bare)
        order = random.Random(0).sample(files, n)
        start = time.perf_counter()
        for file in order:
            _ = cache[file].plane
        read = n / (time.perf_counter() - start)
    return {
        "built_over_bare": round(statistics.median(ratios), 2),
        "built_per_second": round(built),
        "read_per_second": round(read),
    }


def measure_kills(kills: int = 10, n: int = 3000, different: int = 210) -> dict[str, int]:
    """Kills builds of a cache of `n` files halfway, builds again, and compares every image.

    Returns:
        `killed`, how many builds were; `right_afterwards`, after how many the next build was complete and correct.
    """
    killed = right = 0
    with tempfile.TemporaryDirectory() as folder:
        files = _write_files(folder, n, different)
        expected = [prepare_view(file, _processor()).plane for file in tqdm(files[:different], desc="expected")]
        listing = Path(folder, "files.txt")
        listing.write_text("\n".join(files))
        for number in tqdm(range(kills), desc="kills"):
            place = Path(folder, str(number))
            build = subprocess.Popen([sys.executable, __file__, "build", str(listing), str(place)])
            size = (1 + number % 5) / 6 * n * expected[0].nbytes
            while build.poll() is None and _count_bytes(place) < size:
                time.sleep(0.01)
            build.kill()
            killed += build.wait() < 0
            cache = build_pixel_cache(files, _processor(), place, workers=2, progress=False)
            planes = zip(files, expected * (n // different + 1), strict=False)
            right += len(cache) == n and all(np.array_equal(cache[file].plane, plane) for file, plane in planes)
    return {"killed": killed, "right_afterwards": right}


def _count_bytes(folder: Path) -> int:
    """Size of the Arrow files in a folder; 0 while another process renames them."""
    try:
        return sum(file.stat().st_size for file in folder.rglob("*.arrow"))
    except FileNotFoundError:
        return 0


def _write_files(folder: str, n: int, different: int) -> list[str]:
    """Writes phantoms of 512 px; returns `n` file names, hard links to them."""
    images = []
    for number in tqdm(range(different), desc="rendering"):
        images.append(os.path.join(folder, f"image{number}.png"))
        phantom = render_phantom(900_000 + number, body_part=BODY_PARTS[number % len(BODY_PARTS)], view=number % 3)
        Image.fromarray(phantom.pixels).save(images[-1])
    files = [os.path.join(folder, f"file{number:05d}.png") for number in range(n)]
    for number, file in enumerate(files):
        os.link(images[number % different], file)
    return files


def _decode_and_resize(files: list[str]) -> None:
    for file in files:
        with Image.open(file) as image:
            image.convert("L").resize((224, 224), Image.Resampling.BILINEAR).tobytes()


def _processor() -> MuraImageProcessor:
    return MuraImageProcessor(size={"height": 224, "width": 224}, resize_mode="squash")


TOPICS = {
    "load": (measure_load, {"repeats": 1}),
    "cache": (measure_cache, {"n": 300, "different": 7, "rounds": 1}),
    "kills": (measure_kills, {"kills": 1, "n": 600, "different": 7}),
}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    return run_benchmark(__doc__, TOPICS, argv)


if __name__ == "__main__":
    if sys.argv[1:2] == ["build"]:  # the build that is killed
        build_pixel_cache(Path(sys.argv[2]).read_text().split(), _processor(), sys.argv[3], workers=2, progress=False)
    else:
        main()
