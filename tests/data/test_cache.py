import os
import pickle
import shutil
import signal
import zlib
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from datasets import Image as HubImage
from PIL import Image

from mura_hf import DatasetError, MuraImageProcessor, RadiographError
from mura_hf.data import build_pixel_cache, check_images, prepare_view
from mura_hf.data.cache import _MEAN_FILES

RNG = np.random.default_rng(2)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """700 small images: two or three parts of a cache."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(700):
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


def _parts(folder):
    return sorted(folder.glob("*/*.arrow"))


def test_holds_what_reading_gives(files, processor, tmp_path):
    cache = _build(files, processor, tmp_path, workers=2)
    _check(cache, files, processor)
    assert len(_parts(tmp_path)) >= 2
    assert "nowhere.png" not in cache
    with pytest.raises(KeyError):
        cache["nowhere.png"]
    again = pickle.loads(pickle.dumps(cache))
    np.testing.assert_array_equal(again[files[3]].plane, cache[files[3]].plane)


def test_is_built_once_and_shared_by_subsets(files, processor, tmp_path, monkeypatch):
    _build(files, processor, tmp_path)
    before = {part: part.stat().st_mtime_ns for part in _parts(tmp_path)}
    _check(_build(files[::-1] * 2, processor, tmp_path), files, processor)
    assert {part: part.stat().st_mtime_ns for part in _parts(tmp_path)} == before
    built = []
    monkeypatch.setattr("mura_hf.data.cache._build", lambda parts, *rest: built.extend(parts) or _fail())
    # A file that starts no part: one that is alone in its part would take the part with it.
    lost = next(file for file in reversed(files) if zlib.crc32(file.encode()) % _MEAN_FILES)
    with pytest.raises(KeyboardInterrupt):  # only the part that lost a file is built
        _build([file for file in files if file != lost], processor, tmp_path)
    assert len(built) == 1


def _fail():
    raise KeyboardInterrupt


def test_another_setting_or_a_changed_file_is_another_cache(files, processor, tmp_path):
    copies = [str(shutil.copy(file, tmp_path / os.path.basename(file))) for file in files[:30]]
    folder = tmp_path / "cache"
    old = _build(copies, processor, folder)
    for setting in ({"enhance": "unsharp"}, {"resize_mode": "squash"}):
        other = MuraImageProcessor(size={"height": 16, "width": 16}, **setting)
        _check(_build(copies, other, folder), copies, other)
    later = MuraImageProcessor(size={"height": 16, "width": 16}, image_mean=[0.1] * 3)
    n_parts = len(_parts(folder))
    _build(copies, later, folder)
    assert len(_parts(folder)) == n_parts  # settings that apply after the cache
    Image.fromarray(255 - np.asarray(Image.open(copies[4]))).save(copies[4])
    fresh = _build(copies, processor, folder)
    _check(fresh, copies, processor)
    assert (fresh[copies[4]].plane != old[copies[4]].plane).any()


_KILLED = """
import os, signal, sys
import mura_hf.data.cache as cache
from mura_hf import MuraImageProcessor
calls, last, point = 0, int(sys.argv[1]), sys.argv[2]
real = {"replace": os.replace, "fsync": os.fsync}[point]
def killed(*arguments):
    global calls
    calls += 1
    if calls == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)
setattr(cache.os, point, killed)
processor = MuraImageProcessor(size={"height": 16, "width": 16})
cache.build_pixel_cache(sys.argv[4:], processor, sys.argv[3], workers=1, progress=False)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("call", "point"), [(1, "fsync"), (1, "replace"), (2, "fsync"), (2, "replace")])
def test_a_killed_build_is_never_taken_for_a_complete_one(call, point, forks, files, processor, tmp_path):
    done = forks.run("-c", _KILLED, call, point, tmp_path, *files)
    assert done.returncode == -signal.SIGKILL
    assert len(_parts(tmp_path)) < call  # another thread may not have come as far
    assert [*tmp_path.glob("*/*.unfinished")]
    _check(_build(files, processor, tmp_path), files, processor)
    assert not [*tmp_path.glob("*/*.unfinished")]


def test_a_truncated_part_is_built_again(files, processor, tmp_path):
    _build(files, processor, tmp_path)
    for part, size in zip(_parts(tmp_path), (100, 0), strict=False):
        os.truncate(part, size)
    _check(_build(files, processor, tmp_path), files, processor)
    first = _parts(tmp_path)[0]
    first.write_bytes(bytes(64) + first.read_bytes()[64:])
    _check(_build(files, processor, tmp_path), files, processor)


_TWO = """
import os, sys
from mura_hf import MuraImageProcessor
from mura_hf.data.cache import build_pixel_cache
folder, *files = sys.argv[1:]
processor = MuraImageProcessor(size={"height": 16, "width": 16})
children = []
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        cache = build_pixel_cache(files, processor, folder, workers=1, progress=False)
        print(sum(int(cache[file].plane.astype(int).sum()) for file in files), flush=True)
        raise SystemExit
    children.append(pid)
raise SystemExit(sum(os.waitpid(pid, 0)[1] for pid in children) > 0)
"""


@pytest.mark.slow
def test_two_processes_may_build_at_once(forks, files, processor, tmp_path):
    done = forks.run("-c", _TWO, tmp_path, *files)
    assert done.returncode == 0, done.stderr[-2000:]
    expected = sum(int(prepare_view(file, processor).plane.astype(int).sum()) for file in files)
    assert [int(line) for line in done.stdout.split()] == [expected, expected]


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("n_bad", [1, 4, 23])
def test_bad_files_are_listed_and_other_parts_are_kept(cached, n_bad, files, processor, tmp_path):
    good = [shutil.copy(file, tmp_path) for file in files[:300]]
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
    assert first.startswith(f"{n_bad + 1} of {301 + n_bad} images in {tmp_path} cannot be read. Repair these")
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
    assert [*tmp_path.glob("pixels/*/*.arrow")]
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="cannot be written"):
        _build(files[:5], processor, tmp_path / "file")
