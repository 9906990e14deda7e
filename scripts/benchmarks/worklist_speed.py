"""What a worklist costs beside the bare model, and whether it survives."""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from running_app import save_large_checkpoint
from tqdm.auto import tqdm

from mura_hf.inference import StudyFiles, StudyPredictor, find_studies
from mura_hf.inference.worklist import make_worklist
from mura_hf.phantoms import write_phantom_mura
from mura_hf.radiographs import read_radiograph

_ROOT = Path(__file__).parents[2]


def measure_worklist(
    folder: Path, n_studies: int = 150, chunk: int = 10, n_repeated: int = 24, progress: bool = True
) -> dict[str, Any]:
    """Times `make_worklist` against a bare loop of decode, preprocess and model (densenet169, 320 px, random weights).

    Args:
        folder: To work in.
        n_studies: Phantom studies of 512 px.
        chunk: Studies that each way reads in turn.
        n_repeated: Of them, those that are read by two processes, and by one that is killed and started again.
        progress: Whether to show progress bars.

    Returns:
        `ratio` of the worklist's rate to the bare loop's, the median over chunks, and `ratio_overall`;
        `studies_per_second` of both; `processes_differ`, the largest difference between probabilities of one process
        and of two; `killed_differ`, likewise of a run that was killed; and `kept`, rows that stood when it was killed.
    """
    tree = write_phantom_mura(folder / "phantoms", n_studies, seed=5, size=512, workers=os.cpu_count() or 1)
    checkpoint = save_large_checkpoint(folder / "densenet169_320")
    studies = find_studies(tree)[:n_studies]
    predictor = StudyPredictor.from_pretrained(checkpoint)
    bare: list[float] = []
    ours: list[float] = []
    _run_bare(predictor, studies[:3])
    for first in tqdm(range(0, len(studies), chunk), desc="worklist", disable=not progress):
        part = studies[first : first + chunk]

        def write(part: Sequence[StudyFiles] = part, first: int = first) -> None:
            make_worklist(predictor, part, folder / f"rows{first}.csv", progress=False)

        def loop(part: Sequence[StudyFiles] = part) -> None:
            _run_bare(predictor, part)

        ways = [(bare, loop), (ours, write)]
        for seconds, way in ways if first // chunk % 2 else reversed(ways):
            start = time.perf_counter()
            way()
            seconds.append(time.perf_counter() - start)
    return {
        "ratio": round(statistics.median(one / other for one, other in zip(bare, ours, strict=True)), 3),
        "ratio_overall": round(sum(bare) / sum(ours), 3),
        "studies_per_second": {
            "bare": round(len(studies) / sum(bare), 2),
            "worklist": round(len(studies) / sum(ours), 2),
        },
        "studies": len(studies),
        **_repeat(folder, checkpoint, studies[:n_repeated]),
    }


def _run_bare(predictor: StudyPredictor, studies: Sequence[StudyFiles]) -> list[float]:
    """The least that an answer takes: no calibration, no row, no warning."""
    found = []
    for study in studies:
        radiographs = [read_radiograph(file.content(), name=file.name) for file in study.files]
        with torch.no_grad():
            output = predictor.model(predictor.pixel_values(radiographs)[None].contiguous())
        found.append(float(output.study_logits.softmax(-1)[0, 1]))
    return found


def _repeat(folder: Path, checkpoint: Path, studies: Sequence[StudyFiles]) -> dict[str, Any]:
    source = folder / "some.csv"
    lines = [f"{file.path},{study.name}" for study in studies for file in study.files]
    source.write_text("path,study_id\n" + "\n".join(lines) + "\n")
    command = ["scripts/predict.py", str(source), "--checkpoint", str(checkpoint), "--cpu", "--output"]
    once, twice, killed = (folder / name for name in ("once.json", "twice.json", "killed.json"))
    subprocess.run([sys.executable, *command, str(once)], cwd=_ROOT, check=True, capture_output=True)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run([*launcher, *command, str(twice)], cwd=_ROOT, check=True, capture_output=True)
    run = subprocess.Popen(
        [sys.executable, *command, str(killed)], cwd=_ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    rows = folder / "killed.json.part-0"
    while run.poll() is None and (not rows.exists() or rows.read_bytes().count(b"\n") < 1 + len(studies) // 3):
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    kept = rows.read_bytes().count(b"\n") - 1 if rows.exists() else 0
    subprocess.run([sys.executable, *command, str(killed)], cwd=_ROOT, check=True, capture_output=True)
    return {"processes_differ": _differ(once, twice), "killed_differ": _differ(once, killed), "kept": kept}


def _differ(one: Path, other: Path) -> float:
    """The largest difference between probabilities of two worklists.

    Raises:
        ValueError: If they are not of the same studies.
    """
    first, second = (
        {row["study"]: row["probability"] for row in json.loads(file.read_text())} for file in (one, other)
    )
    if set(first) != set(second):
        raise ValueError(f"{one.name} and {other.name} are not of the same studies")
    return max(abs(first[name] - second[name]) for name in first)
