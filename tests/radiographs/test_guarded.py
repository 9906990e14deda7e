import json
import os
import signal
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from dicom_files import encode_dicom

from mura_hf import RadiographError, read_radiograph
from mura_hf.radiographs import GuardedReader, guarded
from mura_hf.radiographs.guarded import WorkerLostError, _receive_radiograph

from .films import encode

ROOM = Path(guarded.__file__).parent
RAMP = np.add.outer(np.arange(80, dtype=np.uint16) * 40, np.arange(60, dtype=np.uint16))
FILE = encode(RAMP)


@pytest.fixture(scope="module")
def reader():
    with GuardedReader(workers=2) as reader:
        yield reader


def test_it_reads_what_read_radiograph_reads(reader, tmp_path):
    dicom = encode_dicom(
        np.stack([RAMP, RAMP]), bits_stored=12, BodyPartExamined="HAND", ImageLaterality="L", PatientID="4711"
    )
    file = tmp_path / "view.dcm"
    file.write_bytes(dicom)
    for source in (dicom, file, str(file), FILE):
        found, plain = reader.read(source), read_radiograph(source)
        np.testing.assert_array_equal(found.pixels, plain.pixels)
        assert found.pixels.flags.writeable
        for field in ("bit_depth", "source_format", "body_part", "side", "patient_hash", "warnings", "is_coloured"):
            assert getattr(found, field) == getattr(plain, field)
    assert reader.read(dicom, frame=1).warnings == ()
    with pytest.raises(RadiographError, match=r"^z\.png is empty"):
        reader.read(b"", name="z.png")
    with pytest.raises(RadiographError, match=r"^nowhere\.png does not exist"):
        reader.read(tmp_path / "nowhere.png")


def test_the_worker_has_no_torch():
    code = (
        "import sys, guarded_worker\n"
        "read, _ = guarded_worker._import_reader()\n"
        f"read({FILE!r})\n"
        "print(read.__module__, *{'torch', 'transformers', 'timm', 'datasets', 'gradio'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOM, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["mura_hf.radiographs.reading"]


def _png_bomb(side):
    """A small file of many pixels, below the limit of 40 megapixels, in colours of 16 bits."""
    rows = zlib.compressobj(1)
    head = b"\x89PNG\r\n\x1a\n"
    line = bytes(1 + 6 * side)
    body = b"".join([*(rows.compress(line) for _ in range(side)), rows.flush()])

    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + bytes([16, 2, 0, 0, 0])
    return head + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no limit of address space")
def test_a_file_that_takes_too_much_memory_ends_in_an_error():
    bomb = _png_bomb(3000)
    with GuardedReader(workers=1, memory_bytes=64 << 20) as reader:
        with pytest.raises(RadiographError, match=r"^bomb\.png (needs more memory|is damaged|crashed its decoder)"):
            reader.read(bomb, name="bomb.png")
        assert reader.read(FILE).pixels.shape == (80, 60)


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks at the worker in /proc")
def test_each_bad_file_costs_one_worker_and_the_next_file_is_read(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with GuardedReader(workers=1) as reader:

        def read_and_check_worker():
            assert reader.read(FILE).pixels.shape == (80, 60)
            (pid,) = reader.worker_pids()
            return pid

        first = read_and_check_worker()
        assert b"hf_secret" not in Path(f"/proc/{first}/environ").read_bytes()
        assert b"torch" not in Path(f"/proc/{first}/maps").read_bytes()
        reader.seconds = 0.02
        with pytest.raises(RadiographError, match=r"^slow\.png took longer than 0\.02 seconds"):
            reader.read(_png_bomb(3000), name="slow.png")
        reader.seconds = 5.0
        second = read_and_check_worker()
        assert second != first
        assert reader.ended == 1

        killer = threading.Thread(target=_kill_when_busy, args=(second,))
        killer.start()
        with pytest.raises(RadiographError, match=r"^never\.png crashed its decoder"):
            reader.read(_png_bomb(6000), name="never.png")
        killer.join()
        third = read_and_check_worker()
        assert reader.ended == 2

        os.kill(third, signal.SIGKILL)  # between files, so no file is to blame
        os.waitid(os.P_PID, third, os.WEXITED | os.WNOWAIT)
        assert read_and_check_worker() != third
        assert reader.ended == 2


def _kill_when_busy(pid):
    def ticks():
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11]  # time in user mode

    start = ticks()
    while ticks() == start:
        pass
    os.kill(pid, signal.SIGKILL)


def test_workers_are_replaced_after_some_files(monkeypatch):
    monkeypatch.setattr(guarded, "_FILES_PER_WORKER", 2)
    with GuardedReader(workers=1) as reader:
        reader.read(FILE)
        assert len(reader.worker_pids()) == 1
        reader.read(FILE)
        assert reader.worker_pids() == []


def test_a_worker_ends_with_its_parent():
    code = (
        "import os, sys, types\n"
        "package = sys.modules['mura_hf'] = types.ModuleType('mura_hf')\n"  # without torch: sooner
        f"package.__path__ = [{str(ROOM.parent)!r}]\n"
        "from mura_hf.radiographs import GuardedReader\n"
        "reader = GuardedReader(workers=1)\n"
        "try: reader.read(b'x')\n"
        "except Exception: pass\n"
        "print(*reader.worker_pids(), flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    pid = int(done.stdout)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and _runs(pid):
        pass
    assert not _runs(pid)


def _runs(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and ") Z" in stat.read_text())  # where nobody collects the dead


def test_threads_share_a_reader(reader):
    files = [encode(np.roll(RAMP, shift, 0)) for shift in range(12)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(reader.read, files))
    for file, answer in zip(files, answers, strict=True):
        np.testing.assert_array_equal(answer.pixels, read_radiograph(file).pixels)


_HANGS = """
import os, signal, sys
from multiprocessing.connection import Connection

connection = Connection(int(sys.argv[2]))
connection.send_bytes(b"ready")
if sys.argv[3] == "receive":
    connection.recv_bytes()
    os.write(connection.fileno(), b"\\0\\0\\1\\0half of an answer")
if os.fork() == 0:  # survives the worker with the connection open
    signal.alarm(20)
    while sys.argv[3] == "receive" and os.read(connection.fileno(), 1):
        pass
signal.pause()
"""


@pytest.mark.parametrize("when", ["receive", "send"])
def test_processes_of_a_compromised_worker_cannot_hold_a_file_up(when, tmp_path, monkeypatch):
    program = tmp_path / "worker.py"
    program.write_text(_HANGS.replace("sys.argv[3]", repr(when)))
    monkeypatch.setattr(guarded, "_PROGRAM", program)
    start = time.monotonic()
    with GuardedReader(workers=1, seconds=0.3) as reader:
        with pytest.raises(RadiographError, match=r"^the image took longer than 0\.3 seconds"):
            reader.read(bytes(1 << 24))
        assert reader.ended == 1
    assert time.monotonic() - start < 10


class _CompromisedWorker:
    def __init__(self, answer, contents=b""):
        self.messages = [json.dumps(answer).encode(), contents]

    def recv_bytes(self, maxlength):
        message = self.messages.pop(0)
        if len(message) > maxlength:
            raise AssertionError("room was made for bytes that were not checked")
        return message


GOOD = {
    "shape": [20, 20],
    "bit_depth": 8,
    "source_format": "PNG",
    "body_part": None,
    "warnings": [],
    "is_coloured": False,
}
PIXELS = np.zeros((20, 20), "<f4").tobytes()


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("shape", [[100_000, 100_000], [-20, -20], [20], [True, 20], "20", None]),
        ("bit_depth", ["8", 64]),
        ("source_format", ["PICKLE", ["PNG"]]),
        ("body_part", ["SECRET"]),
        ("side", ["SECRET", ["left"]]),
        ("patient_hash", ["SECRET", 5]),
        ("is_coloured", [None, 1, "yes"]),
        ("warnings", [[1], ["x" * 5000], ["x"] * 50]),
        ("error", [5, "x" * 5000]),
    ],
)
def test_answers_of_a_worker_are_checked(field, values):
    assert _receive_radiograph(_CompromisedWorker(GOOD, PIXELS)).pixels.shape == (20, 20)
    for value in values:
        with pytest.raises(WorkerLostError):
            _receive_radiograph(_CompromisedWorker({**GOOD, field: value}, PIXELS))


def test_views_are_reduced_by_the_worker(reader):
    found, plain = (
        reader.read(FILE, name="a.png", max_pixels=1200),
        read_radiograph(FILE, max_pixels=1200, name="a.png"),
    )
    np.testing.assert_array_equal(found.pixels, plain.pixels)
    assert found.warnings == plain.warnings
    assert found.pixels.shape == (40, 30)
    with pytest.raises(WorkerLostError):  # it sends fewer pixels than it says
        _receive_radiograph(_CompromisedWorker(GOOD, PIXELS[:-4]))
    with pytest.raises(WorkerLostError):  # it sends more pixels than it was asked for
        _receive_radiograph(_CompromisedWorker(GOOD, PIXELS), 399)


def test_pixels_that_are_no_numbers_are_refused(monkeypatch):
    worker = _CompromisedWorker(GOOD, np.full((20, 20), np.nan, "<f4").tobytes())
    monkeypatch.setattr("mura_hf.radiographs.guarded._receive_radiograph", lambda *_: _receive_radiograph(worker))
    with GuardedReader(workers=1) as reader, pytest.raises(RadiographError, match="must lie in"):
        reader.read(FILE)
