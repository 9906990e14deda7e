"""Runs the readers under a coverage-guided fuzzer (atheris), which mutates files towards code not reached yet.

Topics (30 minutes each, and some for the replay):
  fuzz_pictures  PNG, JPEG, TIFF, BMP and WebP
  fuzz_dicom     DICOM in all transfer syntaxes

Each file must end as a `Radiograph` or a `RadiographError`, within `_SECONDS` and `_MEGABYTES`. Afterwards a
`GuardedReader` reads all files that reached new code: no worker may be lost. A file that breaks a rule is kept in
`runs/fuzzing/`.
"""

# ruff: noqa: E402

import io
import re
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_CHILD = "--fuzz"  # first argument of a process that fuzzes
if sys.argv[1:2] == [_CHILD]:  # what is fuzzed must be imported first, and here
    try:
        import atheris
    except ModuleNotFoundError:
        sys.exit("Fuzzing needs atheris: pip install atheris")
    with atheris.instrument_imports(include=["mura_hf.radiographs", "PIL", "pydicom"]):
        import pydicom.encaps
        import pydicom.filereader
        import pydicom.pixels  # noqa: F401

        import mura_hf.radiographs.dicom
        import mura_hf.radiographs.reading  # noqa: F401

import numpy as np
from damaged_files import _BY_FORMAT, undamaged_files
from harness import RUNS, run_benchmark
from PIL import Image

from mura_hf.errors import RadiographError
from mura_hf.radiographs import GuardedReader, Radiograph, read_radiograph

_SECONDS, _MEGABYTES = 60, 2048  # for one file, on a busy machine; the fuzzer's own memory is about 1,100 MB
_MAX_BYTES = 1 << 16  # of a mutated file


def seeds(topic: str) -> dict[str, bytes]:
    """The files that fuzzing starts from: name -> content, with sides of 48 pixels."""
    files = {
        name: data for name, data in undamaged_files((48,)).items() if name.startswith("DICOM") == (topic == "dicom")
    }
    if topic == "dicom":
        return files
    gray = Image.effect_noise((48, 32), 60)
    deep = Image.fromarray(np.asarray(gray).astype(np.uint16) * 200)
    exif = Image.Exif()
    exif[0x0112] = 6
    variants: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "JPEG progressive": (gray, {"progressive": True, "exif": exif}),
        "JPEG restarts": (gray.convert("RGB"), {"restart_marker_blocks": 2}),
        "PNG palette": (gray.convert("P"), {"exif": exif}),
        "PNG transparent": (gray.convert("LA"), {"icc_profile": bytes(200)}),
        "TIFF plain": (gray, {}),
        "TIFF deep": (deep, {"compression": "tiff_lzw"}),
        "TIFF deflate": (gray.convert("RGB"), {"compression": "tiff_adobe_deflate", "exif": exif}),
        "TIFF jpeg": (gray, {"compression": "jpeg"}),
        "TIFF fax": (gray.convert("1"), {"compression": "group4"}),
        "BMP gray": (gray, {}),
        "BMP colour": (gray.convert("RGB"), {}),
        "WEBP lossy": (gray.convert("RGB"), {"exif": exif}),
        "WEBP lossless": (gray.convert("RGB"), {"lossless": True}),
    }
    for name, (image, options) in variants.items():
        buffer = io.BytesIO()
        image.save(buffer, name.split()[0], **options)
        files[name] = buffer.getvalue()
    return files


def _fuzz(topic: str, corpus: str, seconds: int) -> None:
    """Fuzzes until the time is over or a file breaks a rule; ends the process."""

    def check(data: bytes) -> None:
        try:
            found = read_radiograph(data)
        except RadiographError:
            return
        assert isinstance(found, Radiograph)
        assert found.pixels.dtype == np.float32
        assert 0 <= found.pixels.min() <= found.pixels.max() <= 1
        assert len(found.warnings) <= 8

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        rng = np.random.default_rng(seed)
        if rng.random() < 0.3:
            changed = bytearray(data)
            _BY_FORMAT["DICOM" if topic == "dicom" else "PNG" if data[:4] == b"\x89PNG" else "JPEG"](changed, rng)
            data = bytes(changed[:max_size])
        data = atheris.Mutate(data, max_size)
        return _repair_checksums(data) if data[:4] == b"\x89PNG" and rng.random() < 0.7 else data

    arguments = [f"-max_total_time={seconds}", f"-timeout={_SECONDS}", f"-rss_limit_mb={_MEGABYTES}"]
    arguments += [f"-max_len={_MAX_BYTES}", "-print_final_stats=1", f"-artifact_prefix={Path(corpus).parent}/found-"]
    atheris.Setup([sys.argv[0], *arguments, corpus], check, custom_mutator=mutate)
    atheris.Fuzz()


def _repair_checksums(data: bytes) -> bytes:
    """Corrects the checksums of a PNG file, without which decoders would refuse every mutated chunk."""
    repaired, start = bytearray(data), 8
    while start + 12 <= len(repaired):
        end = start + 12 + int.from_bytes(repaired[start : start + 4])
        if end > len(repaired):
            break
        repaired[end - 4 : end] = zlib.crc32(repaired[start + 4 : end - 4]).to_bytes(4)
        start = end
    return bytes(repaired)


def _measure(topic: str, seconds: int) -> dict[str, Any]:
    """Fuzzes for some seconds in processes that start again after each finding, and replays what they collected.

    Returns:
        `minutes`; `executions`; `corpus`, files that reached new code; `findings`, files that broke a rule, and
        `finding_kinds`, the last line of each kind; `peak_megabytes` of the fuzzer; of the replay `workers_lost` and
        `worker_peak_megabytes`.
    """
    folder = RUNS / "fuzzing" / f"{topic}-{seconds}"
    shutil.rmtree(folder, ignore_errors=True)
    corpus = folder / "corpus"
    corpus.mkdir(parents=True)
    for name, data in seeds(topic).items():
        (corpus / name.replace(" ", "_")).write_bytes(data)
    start, executions, peak, kinds = time.monotonic(), 0, 0, []
    while (left := round(seconds - (time.monotonic() - start))) > 0:
        command = [sys.executable, __file__, _CHILD, topic, str(corpus), str(left)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        counts = [int(number) for number in re.findall(r"^#(\d+)\t", done.stderr, re.MULTILINE)]
        executions += max(counts, default=0)
        peak = max([peak, *map(int, re.findall(r"rss: (\d+)Mb", done.stderr))])
        if done.returncode == 0:
            break
        if not counts:
            raise SystemExit(done.stderr[-2000:])
        (folder / f"finding-{len(kinds)}.txt").write_text(done.stderr[-20_000:])
        errors = re.findall(r"^[\w.]*(?:Error|Exception)\b.*|^==\d+== *ERROR: .*", done.stderr, re.MULTILINE)
        kinds.append(re.sub(r"^==\d+== *", "", errors[0])[:200] if errors else "unknown")
    ends = {"read": 0, "refused": 0}
    with GuardedReader(workers=1) as reader:
        files = sorted(corpus.iterdir())
        for file in files:
            try:
                reader.read(file)
                ends["read"] += 1
            except RadiographError:
                ends["refused"] += 1
        return {
            "minutes": round((time.monotonic() - start) / 60, 1),
            "executions": executions,
            "corpus": len(files),
            "findings": len(kinds),
            "finding_kinds": sorted(set(kinds)),
            "peak_megabytes": peak,
            **ends,
            "workers_lost": reader.ended,
            "worker_peak_megabytes": round(reader.peak_bytes / 1e6),
        }


def measure_pictures(seconds: int = 1800) -> dict[str, Any]:
    return _measure("pictures", seconds)


def measure_dicom(seconds: int = 1800) -> dict[str, Any]:
    return _measure("dicom", seconds)


TOPICS: dict[str, tuple[Callable[..., dict[str, Any]], dict[str, Any]]] = {
    "fuzz_pictures": (measure_pictures, {"seconds": 10}),
    "fuzz_dicom": (measure_dicom, {"seconds": 10}),
}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    return run_benchmark(__doc__, TOPICS, argv)


if __name__ == "__main__":
    if sys.argv[1:2] == [_CHILD]:
        _fuzz(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        main()
