"""The process in which `GuardedReader` decodes untrusted files. It is started by the path of this file.

It ends when its connection is closed, so also with the process that started it. `guarded` describes the protocol.
"""

import json
import os
import signal
import sys
import types
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_ARGUMENTS = ("name", "frame", "max_pixels")
_FIELDS = ("bit_depth", "source_format", "body_part", "side", "patient_hash", "warnings", "is_coloured")


def serve(memory_bytes: int, connection: Connection) -> None:
    """Answers requests until the connection is closed. `memory_bytes` is as in `GuardedReader`."""
    read_radiograph, radiograph_error = _import_reader()
    from mura_hf.radiographs import radiograph as hashing

    hashing.HASH_KEY = bytes.fromhex(os.environ["MURA_HASH_KEY"])
    os.dup2(1, 2)  # errors of the imports are shown on the server's terminal, what decoders print is discarded
    _set_limits(memory_bytes)
    connection.send_bytes(b"ready")
    while True:
        try:
            request = json.loads(connection.recv_bytes())
        except EOFError:
            return
        signal.alarm(request["alarm"])  # the kernel ends a decoder that hangs if the parent no longer exists
        # A failure to receive ends the process, else the rest of the file would be taken for the next request.
        source = request["path"] if request["path"] is not None else connection.recv_bytes()
        try:
            radiograph = read_radiograph(source, **{key: request[key] for key in _ARGUMENTS})
        except radiograph_error as error:
            _send(connection, {"error": str(error)})
        except MemoryError:
            problem = f"{request['name']} needs more memory than one file may take; export it smaller."
            _send(connection, {"error": problem})
        else:
            fields = {key: getattr(radiograph, key) for key in _FIELDS}
            _send(connection, {**fields, "shape": radiograph.pixels.shape})
            connection.send_bytes(memoryview(radiograph.pixels.astype("<f4", copy=False).reshape(-1)).cast("B"))
            del radiograph
        signal.alarm(0)


def _import_reader() -> tuple[Any, Any]:
    """Imports `read_radiograph` and `RadiographError` without importing all of mura_hf.

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
    from mura_hf.radiographs.reading import read_radiograph

    for codec in ("jpeg8_decode", "jpegls_decode", "jpeg2k_decode", "dicomrle_decode"):
        getattr(imagecodecs, codec)
    return read_radiograph, RadiographError


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


def _send(connection: Connection, answer: dict[str, Any]) -> None:
    connection.send_bytes(json.dumps(answer).encode())


if __name__ == "__main__":
    serve(int(sys.argv[1]), Connection(int(sys.argv[2])))
