import shutil
from pathlib import Path

import pytest

from mura_hf import DatasetError, load_mura
from mura_hf.data import verify_mura
from mura_hf.data.mura_release import read_quarantine

SCRIPT = Path(__file__).parents[2] / "scripts" / "verify_mura.py"


@pytest.fixture
def tree(phantom_tree, tmp_path):
    return shutil.copytree(phantom_tree, tmp_path / "MURA-v1.1")


def test_a_whole_copy_has_no_difference(tree):
    found = verify_mura(tree, workers=1, progress=False)
    assert found.whole
    assert found.n_files == len([*tree.glob("*/*/*/*/*.png")])
    assert read_quarantine(tree) == {}


def test_what_is_bad_is_named_quarantined_and_left_out(tree, capsys):
    files = sorted(tree.glob("train/*/*/*/image1.png"))
    files[0].write_bytes(files[0].read_bytes()[:200])
    files[1].unlink()
    with pytest.raises(DatasetError, match=r"1 files are missing.*verify_mura\.py"):
        load_mura(tree)
    found = verify_mura(tree, workers=2, progress=False)
    names = [str(file.relative_to(tree)) for file in files[:2]]
    assert not found.whole
    assert read_quarantine(tree) == found.quarantine
    assert set(found.quarantine) == set(names)
    assert "damaged" in found.quarantine[names[0]]
    assert found.quarantine[names[1]] == "missing"
    capsys.readouterr()
    rows = load_mura(tree, dev_fraction=0.0, calib_fraction=0.0)["train"]
    assert "2 files are left out because its quarantine manifest names them" in capsys.readouterr().err
    listed = (tree / "train_image_paths.csv").read_text().splitlines()
    assert len(rows) == len(listed) - 2


def test_a_mended_copy_needs_no_manifest(tree):
    file = sorted(tree.glob("valid/*/*/*/image1.png"))[0]
    good = file.read_bytes()
    file.write_bytes(b"not a picture")
    assert not verify_mura(tree, workers=1, progress=False).whole
    file.write_bytes(good)
    assert verify_mura(tree, workers=1, progress=False).whole
    assert not (tree / "quarantine.csv").exists()


def test_looking_at_one_part_keeps_what_is_known_of_others(tree):
    file = sorted(tree.glob("train/XR_HAND/*/*/image1.png"))[0]
    file.write_bytes(b"not a picture")
    bad = verify_mura(tree, workers=1, progress=False).quarantine
    assert verify_mura(tree, ["wrist"], workers=1, progress=False).whole
    assert read_quarantine(tree) == bad


def test_other_differences(tree):
    study = sorted(tree.glob("train/*/*/*"))[0]
    shutil.copy(study / "image1.png", study / "image77.png")
    shutil.rmtree(sorted(tree.glob("valid/*/*/*"))[0])
    found = verify_mura(tree, workers=1, progress=False)
    assert [len(entries) for entries in found.differences.values()] == [1, 1]
    assert set(found.differences) == {"listed studies do not exist", "images are in no list"}


def test_a_damaged_manifest_is_not_passed_over(tree):
    (tree / "quarantine.csv").write_text("path\ntrain/x\n")
    with pytest.raises(DatasetError, match=r"write it again with scripts/verify_mura\.py"):
        load_mura(tree)


def test_the_command_tells_and_exits(forks, tree):
    def run(*arguments):
        return forks.run(SCRIPT, *arguments, "--workers", "1")

    good = run(str(tree))
    assert (good.returncode, "Nothing differs" in good.stdout, "Decoding" in good.stderr) == (0, True, True)
    sorted(tree.glob("valid/XR_HUMERUS/*/*/image1.png"))[0].write_bytes(b"")
    (tree / "findings.parquet").unlink()  # now it is a copy of MURA, and a small one
    bad = run(str(tree))
    assert bad.returncode == 1
    assert "1 files cannot be read" in bad.stdout
    assert "of     3197" in bad.stdout or "of    40005" in bad.stdout
    assert run(str(tree / "nowhere")).returncode == 1
