"""Do files from strangers end as a radiograph or a sentence, and the reader stay alive?"""

import time
from collections import Counter
from typing import Any

from tqdm.auto import tqdm

from ..errors import RadiographError
from ..radiographs import GuardedReader
from .damaged_files import SIDES, damaged_files, undamaged_files


def measure_untrusted(
    count: int = 5000, *, seed: int = 0, sides: tuple[int, ...] = SIDES, progress: bool = True
) -> dict[str, Any]:
    """Reads damaged files through a `GuardedReader` of one worker.

    Returns:
        `files`, `read`, `refused`, `workers_lost` (workers that a file ended or that took too long, counted in
        `refused` too), `slowest_seconds` and `slowest_file`, `worker_peak_megabytes` (resident; 0 where the system
        does not tell), and `alive`: whether a good file was read at the end.

    Raises:
        Exception: Whatever a file raised that is no `RadiographError`.
    """
    ends: Counter[str] = Counter()
    slowest, slowest_file = 0.0, ""
    with GuardedReader(workers=1) as reader:
        good = undamaged_files(sides[:1])
        reader.read(next(iter(good.values())))
        for name, data in tqdm(
            damaged_files(count, seed, sides), total=count, desc="Damaged files", disable=not progress
        ):
            start = time.perf_counter()
            try:
                reader.read(data, name=name)
                ends["read"] += 1
            except RadiographError:
                ends["refused"] += 1
            seconds = time.perf_counter() - start
            if seconds > slowest:
                slowest, slowest_file = seconds, name
        alive = all(reader.read(data).pixels.size for data in good.values())
        return {
            "files": count,
            "read": ends["read"],
            "refused": ends["refused"],
            "workers_lost": reader.ended,
            "slowest_seconds": round(slowest, 2),
            "slowest_file": slowest_file,
            "worker_peak_megabytes": round(reader.peak_bytes / 1e6),
            "alive": alive,
        }
