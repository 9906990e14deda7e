import os
import pickle
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from datasets import Image as HubImage
from PIL import Image

from mura_hf import DatasetError, MuraImageProcessor, RadiographError
from mura_hf.data import build_pixel_cache, check_images, prepare_view

RNG = np.random.default_rng(2)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """60 small images."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(60):
        Image.fromarray(RNG.integers(0, 256, (24, 20), dtype=np.uint8)).save(folder / f"{number:04d}.png")
    return sorted(map(str, folder.glob("*.png")))


@pytest.fixture(scope="module")
def processor():
    return MuraImageProcessor(size={"height": 16, "width": 16})


def _build(files, processor, folder, **options):
    return build_pixel_cache(files, processor, folder, **{"workers": 1, "progress": False, **options})


def _check(cache, files, processor):
    assert len(cache) == len(files)
    for file in files:
        expected, found = prepare_view(file, processor), cache[file]
        np.testing.assert_array_equal(found.plane, expected.plane)
        assert found.shape == expected.shape


def _caches(folder):
    return sorted(folder.glob("**/*.arrow"))


def test_holds_what_reading_gives_and_is_built_once(files, processor, tmp_path, monkeypatch):
    cache = _build(files, processor, tmp_path, workers=2)
    _check(cache, files, processor)
    assert "nowhere.png" not in cache
    with pytest.raises(KeyError):
        cache["nowhere.png"]
    again = pickle.loads(pickle.dumps(cache))
    np.testing.assert_array_equal(again[files[3]].plane, cache[files[3]].plane)
    monkeypatch.setattr("mura_hf.data.cache.prepare_view", None)  # no file is read
    again = _build(files[::-1] * 2, processor, tmp_path)
    assert all(np.array_equal(again[file].plane, cache[file].plane) for file in files)


def test_another_setting_or_a_changed_file_is_another_cache(files, processor, tmp_path):
    copies = [str(shutil.copy(file, tmp_path / os.path.basename(file))) for file in files[:30]]
    folder = tmp_path / "cache"
    old = _build(copies, processor, folder)
    for setting in ({"enhance": "unsharp"}, {"resize_mode": "squash"}):
        other = MuraImageProcessor(size={"height": 16, "width": 16}, **setting)
        _check(_build(copies, other, folder), copies, other)
    later = MuraImageProcessor(size={"height": 16, "width": 16}, image_mean=[0.1] * 3)
    n_caches = len(_caches(folder))
    _build(copies, later, folder)
    assert len(_caches(folder)) == n_caches == 3  # settings that apply after the cache
    Image.fromarray(255 - np.asarray(Image.open(copies[4]))).save(copies[4])
    fresh = _build(copies, processor, folder)
    _check(fresh, copies, processor)
    assert (fresh[copies[4]].plane != old[copies[4]].plane).any()


def test_a_file_that_changes_while_it_is_read_ends_the_build(files, processor, tmp_path, monkeypatch):
    copies = [str(shutil.copy(file, tmp_path / os.path.basename(file))) for file in files[:8]]

    def read(file, *rest):
        os.utime(file, ns=(1, 1))
        return prepare_view(file, *rest)

    with monkeypatch.context() as patch:
        patch.setattr("mura_hf.data.cache.prepare_view", read)
        with pytest.raises(DatasetError, match="changed while they were read"):
            _build(copies, processor, tmp_path / "cache")
    _check(_build(copies, processor, tmp_path / "cache"), copies, processor)


@pytest.mark.parametrize(
    ("name", "size"),
    [("*.arrow", 0.5), ("*.arrow", 0), ("*.arrow", None), ("dataset_info.json", 0)],
    ids=["truncated", "empty", "deleted", "no description"],
)
def test_a_damaged_cache_is_built_again(name, size, files, processor, tmp_path, monkeypatch):
    _build(files, processor, tmp_path)
    for repair in (True, False):
        (file,) = tmp_path.glob(f"**/{name}")
        if size is None:
            file.unlink()
        else:
            os.truncate(file, int(size * file.stat().st_size))
        if repair:
            _check(_build(files, processor, tmp_path), files, processor)
    monkeypatch.setattr("mura_hf.data.cache.prepare_view", None)
    with pytest.raises(DatasetError, match=re.escape(str(tmp_path)) + r" cannot be written or read .*; remove it"):
        _build(files, processor, tmp_path)


_PROCESSES = """
import os, signal, sys
from pathlib import Path
from mura_hf import MuraImageProcessor
from mura_hf.data import cache
folder, *files = sys.argv[1:]
processor = MuraImageProcessor(size={"height": 16, "width": 16})
read, cache._ROWS = cache.prepare_view, 1

def read_or_die(file, *rest):
    if file == files[-1]:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(file, *rest)

def build(prepare_view):
    pid = os.fork()
    if pid:
        return pid
    cache.prepare_view = prepare_view
    made = cache.build_pixel_cache(files, processor, folder, workers=1, progress=False)
    print(sum(int(made[file].plane.astype(int).sum()) for file in files), flush=True)
    os._exit(0)

ended = [os.waitpid(build(read_or_die), 0)[1]]
print(len([*Path(folder).glob("**/*.incomplete")]), flush=True)
ended += [os.waitpid(pid, 0)[1] for pid in [build(read), build(read)]]
print(*ended, len([*Path(folder).glob("**/*.incomplete")]))
"""


@pytest.mark.slow
def test_a_killed_build_is_not_complete_and_two_processes_may_build_at_once(forks, files, processor, tmp_path):
    done = forks.run("-c", _PROCESSES, tmp_path, *files)
    assert done.returncode == 0, done.stderr[-2000:]
    left, *sums, ended = done.stdout.splitlines()
    expected = sum(int(prepare_view(file, processor).plane.astype(int).sum()) for file in files)
    assert left == "1"
    assert sums == [str(expected)] * 2
    assert ended == f"{signal.SIGKILL} 0 0 0"


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("n_bad", [4, 23])
def test_bad_files_are_listed(cached, n_bad, files, processor, tmp_path):
    good = [shutil.copy(file, tmp_path) for file in files]
    for number in range(n_bad):
        bad = tmp_path / f"p{number:02}" / "view.png"
        bad.parent.mkdir()
        bad.write_bytes([b"not an image", b"", (tmp_path / "0000.png").read_bytes()[:90], b""][number % 4])
    names = [str(bad) for bad in sorted(tmp_path.glob("p*/view.png"))]
    images = {"image": [*good, *names, str(tmp_path / "gone.png")]}
    datasets = DatasetDict({"valid": Dataset.from_dict(images).cast_column("image", HubImage())})
    with pytest.raises(RadiographError) as raised:
        _build(images["image"], processor, tmp_path / "cache") if cached else check_images(datasets, progress=False)
    first, *lines = str(raised.value).splitlines()
    assert first.startswith(f"{n_bad + 1} of {61 + n_bad} images in {tmp_path} cannot be read. Repair these")
    assert lines[0].startswith("  gone.png does not exist")
    assert lines[1].startswith("  p00/view.png is not a PNG")
    assert len(lines) == min(n_bad + 1, 21)
    assert (lines[-1] == "and 4 more") is (n_bad == 23)
    if cached:
        _check(_build(good, processor, tmp_path / "cache"), good, processor)


def test_rows_without_files_are_named_by_split_and_row(files):
    content = [Path(file).read_bytes() for file in files[:4]]
    content[2] = content[2][:80]
    rows = Dataset.from_dict({"image": [{"bytes": one, "path": "a.png"} for one in content]})
    datasets = DatasetDict({"train": rows.cast_column("image", HubImage()), "calib": rows.select([])})
    with pytest.raises(RadiographError, match=r"1 of 4 images cannot be read.*\n  train, row 2 is "):
        check_images(datasets, progress=False)


def test_folders(files, processor, tmp_path, monkeypatch):
    assert len(_build([], processor, tmp_path)) == 0
    monkeypatch.setenv("MURA_HOME", str(tmp_path))
    build_pixel_cache(files[:5], processor, progress=False)  # in the user's folder by default
    assert _caches(tmp_path / "pixels")
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="cannot be written or read"):
        _build(files[:5], processor, tmp_path / "file")
