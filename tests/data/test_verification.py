import shutil

import pytest
import verify_mura as script

from mura_hf import DatasetError, load_mura
from mura_hf.data import verify_mura
from mura_hf.data.mura_release import read_quarantine


@pytest.fixture
def tree(phantom_tree, tmp_path):
    return shutil.copytree(phantom_tree, tmp_path / "MURA-v1.1")


def _verify(tree, body_parts=None):
    return verify_mura(tree, body_parts, workers=2, progress=False)


def test_bad_files_are_quarantined_and_left_out(tree, capsys):
    files = sorted(tree.glob("train/*/*/*/image1.png"))
    files[0].write_bytes(files[0].read_bytes()[:200])
    files[1].unlink()
    with pytest.raises(DatasetError, match=r"files are missing \(1\).*verify_mura\.py"):
        load_mura(tree)
    found = _verify(tree)
    names = [str(file.relative_to(tree)) for file in files[:2]]
    assert not found.whole
    assert read_quarantine(tree) == found.quarantine
    assert set(found.quarantine) == set(names)
    assert "damaged" in found.quarantine[names[0]]
    assert found.quarantine[names[1]] == "missing"
    capsys.readouterr()
    rows = load_mura(tree, dev_fraction=0.0, calib_fraction=0.0)["train"]
    assert "files that its quarantine manifest names are left out: 2" in capsys.readouterr().err
    listed = (tree / "train_image_paths.csv").read_text().splitlines()
    assert len(rows) == len(listed) - 2


def test_a_repaired_copy_needs_no_manifest(tree):
    file = sorted(tree.glob("train/XR_HAND/*/*/image1.png"))[0]
    content = file.read_bytes()
    file.write_bytes(b"not an image")
    bad = _verify(tree)
    assert not bad.whole
    assert _verify(tree, ["wrist"]).whole
    assert read_quarantine(tree) == bad.quarantine  # entries of other parts stay
    file.write_bytes(content)
    good = _verify(tree)
    assert good.whole
    assert good.n_files == len([*tree.glob("*/*/*/*/*.png")])
    assert not (tree / "quarantine.csv").exists()


def test_other_differences(tree):
    study = sorted(tree.glob("train/*/*/*"))[0]
    shutil.copy(study / "image1.png", study / "image77.png")
    shutil.rmtree(sorted(tree.glob("valid/*/*/*"))[0])
    differences = _verify(tree).differences
    assert {what: len(entries) for what, entries in differences.items()} == {
        "listed studies do not exist": 1,
        "images are in no list": 1,
    }


def test_a_damaged_manifest_is_an_error(tree):
    (tree / "quarantine.csv").write_text("path\ntrain/x\n")
    with pytest.raises(DatasetError, match=r"write it again with scripts/verify_mura\.py"):
        load_mura(tree)


def test_the_command(tree, capsys):
    script.main([str(tree), "--workers", "1"])
    printed = capsys.readouterr()
    assert "Nothing differs" in printed.out
    assert "Decoding" in printed.err
    sorted(tree.glob("valid/XR_HUMERUS/*/*/image1.png"))[0].write_bytes(b"")
    (tree / "findings.parquet").unlink()  # now it counts as a copy of MURA, and a small one
    with pytest.raises(SystemExit) as ended:
        script.main([str(tree), "--workers", "1"])
    printed = capsys.readouterr().out
    assert ended.value.code == 1
    assert "Files cannot be read (1):" in printed
    assert "of    40005" in printed
