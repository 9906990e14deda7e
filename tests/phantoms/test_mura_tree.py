import csv
import hashlib

import pyarrow.parquet as pq
import pytest
from PIL import Image

from mura_hf import DatasetError
from mura_hf.phantoms import RENDERERS, SOLID_FINDINGS, phantom_record, write_phantom_mura


def _digest(root):
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return hashlib.sha256(
        b"".join(str(path.relative_to(root)).encode() + path.read_bytes() for path in files)
    ).hexdigest()


@pytest.mark.parametrize("renderer", RENDERERS)
def test_same_bytes_with_one_and_two_processes(renderer, tmp_path):
    one, two = (
        write_phantom_mura(
            tmp_path / str(workers), 10, seed=7, size=96, workers=workers, renderer=renderer, progress=False
        )
        for workers in (1, 2)
    )
    assert _digest(one) == _digest(two)


def test_layout_is_that_of_mura(phantom_tree):
    root = phantom_tree.parent
    patients = {}
    for split in ("train", "valid"):
        images = (phantom_tree / f"{split}_image_paths.csv").read_text().splitlines()
        studies = list(csv.reader((phantom_tree / f"{split}_labeled_studies.csv").open()))
        assert all((root / image).is_file() for image in images)
        assert {image.rsplit("/", 1)[0] + "/" for image in images} == {study for study, _ in studies}
        for study, label in studies:
            assert study.startswith(f"MURA-v1.1/{split}/XR_")
            assert study.endswith("_positive/" if label == "1" else "_negative/")
        patients[split] = {image.split("/")[3] for image in images}
    assert patients["train"].isdisjoint(patients["valid"])
    assert len(list(phantom_tree.rglob("*.png"))) == sum(
        len((phantom_tree / f"{split}_image_paths.csv").read_text().splitlines()) for split in ("train", "valid")
    )


def test_truth_lies_beside_the_pictures(phantom_tree):
    rows = pq.read_table(phantom_tree / "findings.parquet").to_pylist()
    assert {row["finding"] for row in rows} == {None, "fracture", "metal"}
    for row in rows:
        with Image.open(phantom_tree.parent / row["path"]) as image:
            assert image.size == (row["width"], row["height"])
        assert (row["finding"] is not None) == ("_positive/" in row["path"])
        if row["x0"] is not None:
            assert row["finding"] is not None
            assert 0 <= row["x0"] < row["x1"] <= row["width"]
            assert 0 <= row["y0"] < row["y1"] <= row["height"]


def test_solids_bring_every_kind_of_finding_in_its_share(tmp_path):
    tree = write_phantom_mura(tmp_path, 150, seed=4, size=64, workers=2, renderer="solids", progress=False)
    rows = pq.read_table(tree / "findings.parquet").to_pylist()
    studies = {row["path"].rsplit("/", 1)[0]: row["finding"] for row in rows}
    found = [finding for finding in studies.values() if finding]
    assert set(found) == set(SOLID_FINDINGS)
    assert found.count("hardware") <= 0.3 * len(found)
    assert found.count("subtle_fracture") >= 0.15 * len(found)  # a quarter is planned
    assert phantom_record(tree)["renderer"] == "solids"


def test_a_tree_says_that_it_is_synthetic(phantom_tree, tmp_path):
    assert phantom_record(phantom_tree)["seed"] == 3
    assert phantom_record(phantom_tree.parent) == phantom_record(phantom_tree)
    assert phantom_record(tmp_path) is None


def test_never_writes_over_anything(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DatasetError, match="not empty"):
        write_phantom_mura(tmp_path, 4)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(ValueError, match="n_studies"):
        write_phantom_mura(tmp_path / "new", 1)
    with pytest.raises(ValueError, match="unknown renderer"):
        write_phantom_mura(tmp_path / "new", 4, renderer="clay")
