"""The process in which files from strangers are decoded. `GuardedReader` starts it, by this file's path.

It speaks over its standard input and output: a frame is four bytes of length, big-endian, and JSON of that length. A
request may carry a file's bytes behind it, an answer carries the pixels, little-endian float32. It ends with its
input, and so with the process that started it.
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
_FIELDS = ("bit_depth", "source_format", "body_part", "side", "patient_hash", "warnings")


def serve(memory_bytes: int) -> None:
    """Answers requests until the input ends.

    Args:
        memory_bytes: Address space that a file may take above what the process has at its start.
    """
    requests, answers = _take_channels()
    read_radiograph, radiograph_error, use_hash_key = _import_reader()
    os.dup2(1, 2)  # until here, what goes wrong is the server's to see
    _limit(memory_bytes)
    _send(answers, {"ready": True})
    while header := requests.read(_LENGTH.size):
        request = json.loads(requests.read(_LENGTH.unpack(header)[0]))
        # Where the parent is gone and cannot end a decoder that hangs, the kernel does.
        signal.alarm(request["alarm"])
        path, size = request["path"], request["bytes"]
        try:
            use_hash_key(request["hash_key"])
            source = path if path is not None else requests.read(size)
            radiograph = read_radiograph(source, name=request["name"], frame=request["frame"])
        except radiograph_error as error:
            _send(answers, {"error": str(error)})
        except MemoryError:
            _send(
                answers, {"error": f"{request['name']} needs more memory than one file may take; export it smaller."}
            )
        else:
            fields = {key: getattr(radiograph, key) for key in _FIELDS}
            _send(answers, {**fields, "shape": radiograph.pixels.shape})
            answers.write(memoryview(radiograph.pixels.astype("<f4", copy=False).reshape(-1)).cast("B"))
            answers.flush()
            del radiograph
        signal.alarm(0)


def _take_channels() -> tuple[BinaryIO, BinaryIO]:
    """Input and output, put where nothing else finds them: decoders print, and would write into the answers."""
    requests, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1):
        os.dup2(nothing, standard)
    return os.fdopen(requests, "rb"), os.fdopen(answers, "wb")


def _import_reader() -> tuple[Any, Any, Any]:
    """`read_radiograph`, its error and `use_hash_key`, without what `import mura_hf` brings.

    That registers models, and so loads transformers and torch: seconds, hundreds of megabytes, and code that a file
    from a stranger has no business near. A bare module in the package's place lets its rooms be imported alone.
    """
    package = types.ModuleType("mura_hf")
    package.__path__ = [str(Path(__file__).resolve().parents[1])]
    sys.modules["mura_hf"] = package
    # What a DICOM file will ask for is loaded now, while there is memory and time; pydicom's decoders come with it.
    import imagecodecs
    import pydicom  # noqa: F401

    from mura_hf.errors import RadiographError
    from mura_hf.radiographs.radiograph import use_hash_key
    from mura_hf.radiographs.reading import read_radiograph

    for codec in ("jpeg8_decode", "jpegls_decode", "jpeg2k_decode", "dicomrle_decode"):
        getattr(imagecodecs, codec)
    return read_radiograph, RadiographError, use_hash_key


def _limit(memory_bytes: int) -> None:
    """Limits memory, and forbids to write files and to leave a core with a patient's pixels.

    macOS does not keep to a limit of address space; there only the time limit holds.
    """
    import resource

    try:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        used = 4 << 30
    for kind, limit in (
        (resource.RLIMIT_AS, used + memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
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
