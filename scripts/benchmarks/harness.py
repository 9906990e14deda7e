"""What the benchmarks share: the command line, functions timed in turn, and `results.json`.

A benchmark is a file with `TOPICS` and `main(argv=None)`. A topic is a function that measures something and returns
its figures. Without `--topics` all topics of the file are measured; each appends one record to `results.json`.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from mura_hf.errors import MuraError

ROOT = Path(__file__).parents[2]
DATA, RUNS = ROOT / "data", ROOT / "runs"
CONFIGS = ROOT / "scripts" / "reproduction"
"""Folder with the configs of the studies and comparisons."""

RESULTS = Path(__file__).with_name("results.json")

Measure = Callable[..., dict[str, Any]]


def run_benchmark(
    doc: str | None,
    topics: Mapping[str, tuple[Measure, dict[str, Any] | None]],
    argv: Sequence[str] | None,
    *,
    of_checkpoints: str | None = None,
) -> dict[str, dict[str, Any]]:
    """Runs the command of a benchmark.

    Args:
        doc: Docstring of the benchmark, shown by `--help`.
        topics: Name of a topic -> its function, and the arguments of a quick run (None if there is no quick run).
        argv: Command line; `sys.argv` if None.
        of_checkpoints: The topic whose function takes `checkpoints`, which `--checkpoint` then names.

    Returns:
        Figures of each topic that was measured.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topics", nargs="+", choices=list(topics), default=list(topics), help="measure only these")
    parser.add_argument(
        "--quick", action="store_true", help="only check that it runs: tiny sizes, nothing is recorded"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="JSON file that the figures are appended to")
    if of_checkpoints is not None:
        parser.add_argument(
            "--checkpoint", action="append", metavar="NAME",
            help=f"bundled name or folder that {of_checkpoints} measures instead; repeat it to compare several",
        )  # fmt: skip
    options = parser.parse_args(argv)
    measured = {}
    for topic in options.topics:
        measure, quick = topics[topic]
        chosen = {"checkpoints": options.checkpoint} if topic == of_checkpoints and options.checkpoint else {}
        if options.quick and quick is None:
            parser.error(f"{topic} has no quick run")
        try:
            measured[topic] = measure(**{**((quick or {}) if options.quick else {}), **chosen})
        except MuraError as error:
            raise SystemExit(str(error)) from None
        if options.quick:
            print(json.dumps(measured[topic]))
        else:
            print(json.dumps(record(topic, measured[topic], options.results)))
    return measured


def record(topic: str, figures: dict[str, Any], results: Path = RESULTS) -> dict[str, Any]:
    """Appends figures with date, machine and versions to a results file, and returns the record."""
    entry = {
        "topic": topic,
        **figures,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("mura_hf", "torch", "transformers", "timm", "captum")},
    }
    entries = json.loads(results.read_text()) if results.exists() else []
    results.write_text(json.dumps([*entries, entry], indent=1) + "\n")
    return entry


def alternate(
    functions: Mapping[str, Callable[[], Any]], rounds: int, *, title: str, warm_up: int = 2
) -> dict[str, list[float]]:
    """Calls functions in turn, so that other load on the machine slows all of them alike.

    Args:
        functions: Name -> function.
        rounds: Calls of each function that count.
        title: Text of the progress bar.
        warm_up: Calls of each function before that.

    Returns:
        Name -> seconds of each round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for number in tqdm(range(warm_up + rounds), desc=title):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if number >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def median_ratio(ours: Sequence[float], theirs: Sequence[float], digits: int = 2) -> float:
    """Median over rounds of ours / theirs."""
    return round(statistics.median(one / other for one, other in zip(ours, theirs, strict=True)), digits)


def milliseconds(seconds: Sequence[float]) -> float:
    """Median in milliseconds."""
    return round(1000 * statistics.median(seconds), 1)
