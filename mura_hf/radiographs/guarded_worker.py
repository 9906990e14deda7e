"""The process in which `GuardedReader` decodes untrusted files. It is started by the path of this file.

It communicates through standard input and output, as described in `guarded`. It ends when its input ends, so also with
the process that started it.
"""

import json
import os
import signal
import struct
import sys
import types
from pathlib import Path
from typing import Any, BinaryIO

_LENGTH = struct.Struct(">I")
_ARGUMENTS = ("name", "frame", "max_pixels")
_FIELDS = ("bit_depth", "source_format", "body_part", "side", "patient_hash", "warnings", "is_coloured")


def serve(memory_bytes: int) -> None:
    """Answers requests until the input ends. `memory_bytes` is as in `GuardedReader`."""
    requests, answers = _take_channels()
    read_radiograph, radiograph_error, use_hash_key = _import_reader()
    os.dup2(1, 2)  # errors of the start are shown by the server, later output of decoders is discarded
    _set_limits(memory_bytes)
    _send(answers, {"ready": True})
    while header := requests.read(_LENGTH.size):
        request = json.loads(requests.read(_LENGTH.unpack(header)[0]))
        signal.alarm(request["alarm"])  # the kernel ends a decoder that hangs if the parent no longer exists
        path, size = request["path"], request["bytes"]
        try:
            use_hash_key(request["hash_key"])
            source = path if path is not None else requests.read(size)
            radiograph = read_radiograph(source, **{key: request[key] for key in _ARGUMENTS})
        except radiograph_error as error:
            _send(answers, {"error": str(error)})
        except MemoryError:
            problem = f"{request['name']} needs more memory than one file may take; export it smaller."
            _send(answers, {"error": problem})
        else:
            fields = {key: getattr(radiograph, key) for key in _FIELDS}
            _send(answers, {**fields, "shape": radiograph.pixels.shape})
            answers.write(memoryview(radiograph.pixels.astype("<f4", copy=False).reshape(-1)).cast("B"))
            answers.flush()
            del radiograph
        signal.alarm(0)


def _take_channels() -> tuple[BinaryIO, BinaryIO]:
    """Moves input and output to other descriptors. Decoders that print would otherwise write into the answers."""
    requests, answers = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1):
        os.dup2(null, standard)
    return os.fdopen(requests, "rb"), os.fdopen(answers, "wb")


def _import_reader() -> tuple[Any, Any, Any]:
    """Imports `read_radiograph`, `RadiographError` and `use_hash_key` without importing all of mura_hf.

    `import mura_hf` would register the models and load transformers and torch, which takes seconds and hundreds of
    megabytes, and which an untrusted file should not reach. An empty module in place of the package allows importing
    its subpackages alone.
    """
    package = types.ModuleType("mura_hf")
    package.__path__ = [str(Path(__file__).resolve().parents[1])]
    sys.modules["mura_hf"] = package
    # Decoders of DICOM files are loaded now, before memory and time are limited.
    import imagecodecs
    import pydicom  # noqa: F401

    from mura_hf.errors import RadiographError
    from mura_hf.radiographs.radiograph import use_hash_key
    from mura_hf.radiographs.reading import read_radiograph

    for codec in ("jpeg8_decode", "jpegls_decode", "jpeg2k_decode", "dicomrle_decode"):
        getattr(imagecodecs, codec)
    return read_radiograph, RadiographError, use_hash_key


def _set_limits(memory_bytes: int) -> None:
    """Limits memory, and forbids writing files and core dumps, which would contain a patient's pixels.

    macOS does not enforce a limit of the address space; only the time limit applies there.
    """
    import resource

    try:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        used = 4 << 30
    limits = {resource.RLIMIT_AS: used + memory_bytes, resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: 0}
    for kind, limit in limits.items():
        try:
            resource.setrlimit(kind, (limit, limit))
        except (OSError, ValueError):
            continue


def _send(answers: BinaryIO, answer: dict[str, Any]) -> None:
    coded = json.dumps(answer).encode()
    answers.write(_LENGTH.pack(len(coded)) + coded)
    answers.flush()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
