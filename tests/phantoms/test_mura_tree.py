import csv
from collections import defaultdict

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mura_hf import DatasetError
from mura_hf.phantoms import FINDINGS, phantom_record, write_phantom_mura
from mura_hf.phantoms.findings import MIX
from mura_hf.phantoms.mura_tree import _CORNERS, _plan, _shifted


def _files(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def _findings(tree):
    return pq.read_table(tree / "findings.parquet").to_pylist()


def _studies(n, **options):
    return [study for job in _plan(n, 10, 0, **options) for study in job]


def test_same_bytes_with_one_and_two_processes(tmp_path):
    made = {"seed": 7, "size": 64, "counterfactuals": True, "progress": False}
    one, two = (write_phantom_mura(tmp_path / str(workers), 6, workers=workers, **made) for workers in (1, 2))
    assert _files(one) == _files(two)


def test_layout_is_that_of_mura(phantom_tree):
    written = {str(path.relative_to(phantom_tree.parent)) for path in phantom_tree.rglob("*.png")}
    patients, listed = {}, []
    for split in ("train", "valid"):
        images = (phantom_tree / f"{split}_image_paths.csv").read_text().splitlines()
        studies = list(csv.reader((phantom_tree / f"{split}_labeled_studies.csv").open()))
        listed += images
        assert {image.rsplit("/", 1)[0] + "/" for image in images} == {study for study, _ in studies}
        for study, label in studies:
            assert study.startswith(f"MURA-v1.1/{split}/XR_")
            assert study.endswith("_positive/" if label == "1" else "_negative/")
        patients[split] = {image.split("/")[3] for image in images}
    assert patients["train"].isdisjoint(patients["valid"])
    assert sorted(listed) == sorted(written)


def test_truth_lies_beside_the_pictures(phantom_tree):
    rows = _findings(phantom_tree)
    assert {None, "displaced_fracture", "subtle_fracture"} <= {row["finding"] for row in rows} <= {None, *FINDINGS}
    for row in rows:
        with Image.open(phantom_tree.parent / row["path"]) as image:
            assert image.size == (row["width"], row["height"])
        assert (row["finding"] is not None) == ("_positive/" in row["path"])
        boxes = [prefix for prefix in ("", "decoy_") if row[f"{prefix}x0"] is not None]
        assert boxes in ([], ["" if row["finding"] else "decoy_"])
        for prefix in boxes:
            assert 0 <= row[f"{prefix}x0"] < row[f"{prefix}x1"] <= row["width"]
            assert 0 <= row[f"{prefix}y0"] < row[f"{prefix}y1"] <= row["height"]
    assert np.mean([row["x0"] is not None or row["decoy_x0"] is not None for row in rows]) > 0.8


def test_every_kind_of_finding_comes_in_its_share():
    found = [study.finding for study in _studies(4000) if study.abnormal]
    assert {kind: found.count(kind) / len(found) for kind in set(found)} == pytest.approx(MIX, abs=0.03)


def test_counterfactual_pairs_are_one_patient_with_and_without_the_finding(tmp_path):
    tree = write_phantom_mura(tmp_path, 20, seed=2, size=64, counterfactuals=True, progress=False)
    studies, rows = defaultdict(lambda: ({}, {})), _findings(tree)
    for row in rows:
        _, split, _, patient, _, name = row["path"].split("/")
        prefix = "" if row["finding"] else "decoy_"
        box = [row[prefix + corner] for corner in _CORNERS]
        studies[row["seed"], split][bool(row["finding"])][name] = (patient, box)
    paired, alone = 0, 0
    for (_, split), (normal, abnormal) in studies.items():
        assert split == "train" or not (abnormal and normal)
        alone += split == "train" and not normal
        if abnormal and normal:
            assert abnormal == normal  # the same patient, and a decoy where the finding is
            paired += 1
    assert paired >= 4
    assert alone <= 1  # the last one, where there is no room for two
    assert 0.25 < np.mean([row["finding"] is not None for row in rows]) < 0.55


def test_views_are_as_many_as_in_mura():
    views = [study.views for study in _studies(8_000)]
    assert np.mean(views) == pytest.approx(2.73, abs=0.04)
    assert set(views) == set(range(1, 12))


def test_a_tree_is_marked_as_synthetic(phantom_tree, tmp_path):
    assert phantom_record(phantom_tree)["seed"] == 3
    assert phantom_record(phantom_tree.parent) == phantom_record(phantom_tree)
    (tmp_path / "MURA-v1.1").mkdir()
    (tmp_path / "MURA-v1.1" / "MURA-v1.1").symlink_to(phantom_tree)
    assert phantom_record(tmp_path) == phantom_record(phantom_tree)
    assert phantom_record(tmp_path / "elsewhere") is None


def test_refuses_a_folder_that_is_not_empty_and_options_that_do_not_fit(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DatasetError, match="not empty"):
        write_phantom_mura(tmp_path, 4)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    for n, options, message in (
        (1, {}, "n_studies"),
        (4, {"body_parts": ["knee"]}, "unknown body part"),
        (4, {"findings": ["gout"]}, "unknown finding"),
        (4, {"findings": []}, "unknown finding"),
        (4, {"exposure": "night"}, "unknown exposure"),
    ):
        with pytest.raises(ValueError, match=message):
            write_phantom_mura(tmp_path / "new", n, **options)


def test_a_tree_of_some_parts_findings_and_another_exposure(tmp_path):
    chosen = {"body_parts": ["wrist", "hand"], "findings": ["sclerotic_lesion"], "exposure": "underexposed"}
    tree = write_phantom_mura(tmp_path / "odd", 8, seed=3, size=64, progress=False, **chosen)
    rows = _findings(tree)
    assert {row["finding"] for row in rows} == {None, "sclerotic_lesion"}
    assert {row["path"].split("/")[2] for row in rows} == {"XR_WRIST", "XR_HAND"}
    assert chosen.items() <= phantom_record(tree).items()


def test_more_of_a_finding_in_train_leaves_valid_as_it_is(tmp_path):
    made = {"seed": 3, "size": 64, "valid_fraction": 0.5, "progress": False}
    plain = write_phantom_mura(tmp_path / "plain", 12, **made)
    more = write_phantom_mura(tmp_path / "more", 12, train_shares={"dislocation": 1.0}, **made)
    assert _files(plain / "valid") == _files(more / "valid")
    for before, after in zip(_findings(plain), _findings(more), strict=True):
        assert before["path"] == after["path"]
        if "/valid/" in before["path"]:
            assert before == after
        elif after["finding"]:  # drawn as a fracture where no joint is visible
            assert after["finding"] in ("dislocation", "displaced_fracture")
    assert phantom_record(more)["train_shares"] == {"dislocation": 1.0}
    assert "train_shares" not in phantom_record(plain)


def test_the_other_findings_of_train_keep_their_proportions():
    shares = _shifted(MIX, {"dislocation": 0.22})
    assert shares["dislocation"] == 0.22
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["hardware"] / shares["degeneration"] == pytest.approx(MIX["hardware"] / MIX["degeneration"])
    for wrong in ({"dislocation": 1.1}, {"dislocation": -0.1}, {"hardware": 0.6, "dislocation": 0.6}, {"gout": 0.1}):
        with pytest.raises(ValueError, match=r"shares of findings|unknown finding 'gout'"):
            _shifted(MIX, wrong)


def test_a_planted_marker_reveals_the_label_in_most_studies():
    planted, plain = (_studies(2000, counterfactuals=True, planted_marker=marked) for marked in (True, False))
    assert np.mean([study.marker == study.abnormal for study in planted]) == pytest.approx(0.95, abs=0.02)
    assert all(study.marker is None for study in plain)
    assert [study.seed for study in plain] == [study.seed for study in planted]
    pairs = [job for job in _plan(2000, 10, 0, counterfactuals=True) if len(job) == 2]
    assert {job[1].number - job[0].number for job in pairs} == {1}
    assert np.mean([job[0].abnormal for job in pairs]) == pytest.approx(0.5, abs=0.05)  # the number reveals nothing
