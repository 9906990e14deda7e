"""Measures what a worklist costs beside the bare model, and whether it survives being killed.

Topics (15 minutes):
  worklist  rate of a worklist over a bare loop of decoding, preprocessing and model (DenseNet-169, 320 px), in turn;
            two processes against one, and a run that is killed and continued
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from demo_app import save_large_checkpoint
from harness import ROOT, run_benchmark
from tqdm.auto import tqdm

from mura_hf.inference import StudyFiles, StudyPredictor, find_studies
from mura_hf.inference.worklist import make_worklist
from mura_hf.phantoms import write_phantom_mura
from mura_hf.radiographs import read_radiograph


def measure_worklist(n_studies: int = 150, chunk: int = 10, n_repeated: int = 24) -> dict[str, Any]:
    """Compares `make_worklist` with a bare loop of decoding, preprocessing and model (random weights).

    Args:
        n_studies: Number of phantom studies of 512 px.
        chunk: Studies that each of the two reads in turn.
        n_repeated: Studies that are read by two processes, and by a run that is killed and continued.

    Returns:
        `ratio` of the worklist's rate to that of the bare loop, the median over chunks, and `ratio_overall`;
        `studies_per_second` of both; `processes_differ` and `killed_differ`, the largest difference of a probability
        between one process and two, and after a kill; `kept`, the rows that were written when it was killed.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tree = write_phantom_mura(folder / "phantoms", n_studies, seed=5, size=512, workers=os.cpu_count() or 1)
        checkpoint = save_large_checkpoint(folder / "densenet169_320")
        studies = find_studies(tree)[:n_studies]
        predictor = StudyPredictor.from_pretrained(checkpoint)
        bare: list[float] = []
        ours: list[float] = []
        _run_bare(predictor, studies[:3])
        for first in tqdm(range(0, len(studies), chunk), desc="worklist"):
            some = studies[first : first + chunk]

            def write(some: Sequence[StudyFiles] = some, first: int = first) -> None:
                make_worklist(predictor, some, folder / f"rows{first}.csv")

            def loop(some: Sequence[StudyFiles] = some) -> None:
                _run_bare(predictor, some)

            functions = [(bare, loop), (ours, write)]
            for seconds, function in functions if first // chunk % 2 else reversed(functions):
                start = time.perf_counter()
                function()
                seconds.append(time.perf_counter() - start)
        repeated = _repeat(folder, checkpoint, studies[:n_repeated])
    return {
        "ratio": round(statistics.median(one / other for one, other in zip(bare, ours, strict=True)), 3),
        "ratio_overall": round(sum(bare) / sum(ours), 3),
        "studies_per_second": {
            "bare": round(len(studies) / sum(bare), 2),
            "worklist": round(len(studies) / sum(ours), 2),
        },
        "studies": len(studies),
        **repeated,
    }


def _run_bare(predictor: StudyPredictor, studies: Sequence[StudyFiles]) -> list[float]:
    """The least that a prediction needs: no calibration, no row, no warning."""
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
    subprocess.run([sys.executable, *command, str(once)], cwd=ROOT, check=True, capture_output=True)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run([*launcher, *command, str(twice)], cwd=ROOT, check=True, capture_output=True)
    run = subprocess.Popen(
        [sys.executable, *command, str(killed)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    rows = folder / "killed.json.part-0"
    while run.poll() is None and (not rows.exists() or rows.read_bytes().count(b"\n") < 1 + len(studies) // 3):
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    kept = rows.read_bytes().count(b"\n") - 1 if rows.exists() else 0
    subprocess.run([sys.executable, *command, str(killed)], cwd=ROOT, check=True, capture_output=True)
    return {"processes_differ": _differ(once, twice), "killed_differ": _differ(once, killed), "kept": kept}


def _differ(one: Path, other: Path) -> float:
    """Largest difference of a probability between two worklists of the same studies."""
    first, second = (
        {row["study"]: row["probability"] for row in json.loads(file.read_text())} for file in (one, other)
    )
    if set(first) != set(second):
        raise ValueError(f"{one.name} and {other.name} are not of the same studies")
    return max(abs(first[name] - second[name]) for name in first)


TOPICS = {"worklist": (measure_worklist, {"n_studies": 4, "chunk": 2, "n_repeated": 3})}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    return run_benchmark(__doc__, TOPICS, argv)


if __name__ == "__main__":
    main()
