import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
from datasets import Image
from safetensors.torch import load_file, save_file

from mura_hf import CheckpointError, DatasetError, MuraImageProcessor, RetrievalIndex, load_mura, read_radiograph
from mura_hf.data import ViewDataset
from mura_hf.retrieval import digest_encoder, storage, view_codes
from mura_hf.retrieval import index as retrieval_index
from mura_hf.retrieval.codes import read_plane
from tests.checkpoints import make_model


@pytest.fixture(scope="module")
def rows(phantom_tree):
    return load_mura(phantom_tree)["train"]


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def processor():
    return MuraImageProcessor(size={"height": 64, "width": 64})


@pytest.fixture(scope="module")
def index(rows, model, processor):
    return RetrievalIndex.build(rows, model, processor, thumbnail_side=32, data={"key": "phantoms"}, progress=False)


@pytest.fixture(scope="module")
def files(rows):
    """The views of the first study."""
    paths = rows.cast_column("image", Image(decode=False))
    return [row["image"]["path"] for row in paths if row["study_id"] == rows[0]["study_id"]]


def test_codes_are_those_of_training_and_evaluation(index, rows, model, processor):
    views = ViewDataset(rows, processor)
    pixel_values = torch.stack([views[row]["pixel_values"] for row in range(12)])
    with torch.no_grad():
        expected = view_codes(model, model.classify_views(pixel_values))
    torch.testing.assert_close(index.codes[:12], expected, rtol=1e-5, atol=1e-5)
    plane = read_plane(rows.cast_column("image", Image(decode=False))[3]["image"])
    assert torch.equal(processor([plane], return_tensors="pt")["pixel_values"][0], views[3]["pixel_values"])


def test_neighbours_are_studies_by_their_nearest_view(index, rows, files):
    codes = index.codes[: len(files)]
    apart = torch.cdist(codes.double(), index.codes.double()).min(0).values.numpy()
    nearest = pd.Series(apart).groupby(index.rows["study_id"].to_pylist()).min().nsmallest(7)
    found = index.search(files, k=7)
    assert [(one.study_id, pytest.approx(one.distance, abs=1e-5)) for one in found] == list(nearest.items())
    assert (found[0].study_id, found[0].distance) == (rows[0]["study_id"], pytest.approx(0, abs=1e-4))
    for one in found:
        row = index.rows.slice(one.row, 1).to_pylist()[0]
        assert row == {name: getattr(one, name) for name in row}
        apart = (codes[one.nearest_to].double() - index.codes[one.row].double()).norm()
        assert one.distance == pytest.approx(float(apart), abs=1e-5)
        assert one.thumbnail[:4] == b"RIFF"
    assert len(index.search(files[0], k=10_000)) == len(set(rows["study_id"]))


def test_filters_and_invalid_arguments(index, rows, files):
    all_rows, patient = index.rows.to_pylist(), rows[0]["patient_id"]
    found = index.search(files, k=50, body_part="wrist")
    assert {one.study_id for one in found} == {row["study_id"] for row in all_rows if row["body_part"] == "wrist"}
    found = index.search(files, k=1000, exclude_patient=patient)
    assert {one.study_id for one in found} == {row["study_id"] for row in all_rows if row["patient_id"] != patient}
    for search, asked, options, message in (
        (index.search, files, {"body_part": "knee"}, "unknown body part 'knee'"),
        (index.search, files, {"k": 0}, "k is 0; it must be an integer"),
        (index.search, files, {"k": 1.5}, "k is 1.5; it must be an integer"),
        (index.search_codes, np.zeros((1, 5)), {}, r"codes must be \[views, 32\]"),
        (index.search_codes, np.full((1, 32), np.nan), {}, "NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            search(asked, **options)


def test_cosine_ranks_by_angle(index, rows, model, processor):
    few = rows.select(range(30))
    plain = index.codes[:30].double()
    cosine = torch.nn.functional.cosine_similarity(plain[5][None], plain)
    built = RetrievalIndex.build(few, model, processor, metric="cosine", progress=False)
    best = built.search_codes(plain[5][None].float(), k=4)
    np.testing.assert_allclose([one.distance for one in best], 1 - cosine[[one.row for one in best]], atol=1e-6)
    assert best[0].row == 5


def test_invalid_options_are_refused_before_any_work(rows, model, processor, monkeypatch):
    monkeypatch.setattr(retrieval_index, "encode_rows", None)
    for dataset, options, message in (
        (rows, {"metric": "dot"}, "unknown metric 'dot'"),
        (rows, {"factory": "Nonsense"}, "does not know the factory string 'Nonsense'"),
        (rows.select([]), {}, "no views"),
        (rows, {"thumbnail_side": 96}, "license of these data does not allow thumbnails, or is unknown"),
        (rows, {"thumbnail_side": 96, "data": {"key": "mura", "name": "MURA"}}, "license of MURA does not allow"),
        (rows, {"thumbnail_side": 96, "data": {"key": "folder", "name": "films"}}, "license of films does not allow"),
    ):
        with pytest.raises(ValueError, match=message):
            RetrievalIndex.build(dataset, model, processor, progress=False, **options)


@pytest.mark.parametrize("options", [{}, {"half": True}, {"factory": "IVF4,Flat", "parameters": "nprobe=4"}])
def test_save_and_load(options, index, rows, model, processor, files, tmp_path):
    built = RetrievalIndex.build(
        rows.select(range(40)), model, processor, split="train", data={"key": "phantoms"}, progress=False, **options
    )
    folder = tmp_path / "retrieval"
    built.save(folder)
    again = RetrievalIndex.load(folder, model, processor)
    assert (again.record, again.rows) == (built.record, built.rows)
    assert torch.equal(again.codes, built.codes)
    assert again.search(files[0]) == built.search(files[0])
    assert len(list(folder.glob("index-*.faiss"))) == ("factory" in options)
    again.save(folder)  # over the files that it is mapped from
    assert RetrievalIndex.load(folder, model, processor).search(files[0]) == built.search(files[0])
    index.save(folder)
    assert not list(folder.glob("index-*.faiss"))
    with pytest.raises(CheckpointError, match="no model to encode"):
        RetrievalIndex.load(folder).search(files[0])
    with pytest.raises(ValueError, match="without its image processor"):
        RetrievalIndex.load(folder, model)


def test_indexes_of_the_first_edition_load(index, model, processor, files, tmp_path):
    """Large ones held a projection of their codes (`sketch_...`)."""
    index.save(tmp_path)
    tensors = load_file(tmp_path / "codes.safetensors") | {"sketch_vectors": torch.zeros(5, len(index))}
    save_file(tensors, tmp_path / "codes.safetensors", metadata={"format": "pt", "build": index.record.build})
    assert RetrievalIndex.load(tmp_path, model, processor).search(files) == index.search(files)


def test_faiss_files_of_another_build_are_refused(rows, model, processor, tmp_path):
    options = {"factory": "Flat", "progress": False}
    few, many = (RetrievalIndex.build(rows.select(range(n)), model, processor, **options) for n in (20, 30))
    few.save(tmp_path)
    many.save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / many.record.faiss_name, tmp_path / few.record.faiss_name)
    with pytest.raises(CheckpointError, match="FAISS's index of other codes"):
        RetrievalIndex.load(tmp_path, model, processor)
    (tmp_path / few.record.faiss_name).unlink()
    with pytest.raises(CheckpointError, match="cannot be read by FAISS"):
        RetrievalIndex.load(tmp_path, model, processor)


def test_every_form_of_a_view(index, files):
    picture, expected = PIL.Image.open(files[0]), index.search(files[0])
    for view in (picture, np.asarray(picture), read_radiograph(files[0]), Path(files[0]).read_bytes(), [picture]):
        assert index.search(view) == expected


def test_belongs_to_one_model_and_its_settings(index, model, processor, tmp_path):
    index.save(tmp_path)
    same = make_model()
    same.config.temperature, same.config.study_slope = 2.0, 0.5  # these change predictions, but not codes
    for like in (same, make_model().to(torch.bfloat16)):
        assert len(RetrievalIndex.load(tmp_path, like, processor)) == len(index)
    other = make_model()
    with torch.no_grad():
        other.mura.backbone.conv1[0].weight[0, 0, 0, 0] += 0.1
    flipped = make_model()
    flipped.config.test_time_flip = True
    larger = MuraImageProcessor(size={"height": 80, "width": 64})
    for pair in ((other, processor), (flipped, processor), (model, larger)):
        with pytest.raises(CheckpointError, match="made with other weights, or with other settings"):
            RetrievalIndex.load(tmp_path, *pair)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path), MuraImageProcessor.from_pretrained(tmp_path)
    assert digest_encoder(*again) == index.record.coder


def test_damage_is_reported(index, tmp_path):
    with pytest.raises(CheckpointError, match="has no index"):
        RetrievalIndex.load(tmp_path / "nowhere")
    index.save(tmp_path / "a")
    for name, content, message in (
        ("codes.safetensors", b"x" * 100, "is damaged"),
        ("rows.parquet", b"PAR1", "is damaged"),
        ("index.json", b"{}", "cannot be read"),
        ("index.json", b'{"build": "x", "coder": "y", "new": 1}', "unknown field new"),
        ("index.json", b'{"build": "x", "coder": "y"}', "invalid build id"),
        ("index.json", json.dumps({"build": "0" * 32, "coder": "y"}).encode(), "belong to different indexes"),
    ):
        folder = shutil.copytree(tmp_path / "a", tmp_path / "damaged", dirs_exist_ok=True)
        (folder / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            RetrievalIndex.load(folder)
    (tmp_path / "file").write_text("x")
    with pytest.raises(DatasetError, match="cannot be written to"):
        index.save(tmp_path / "file" / "retrieval")


class Killed(BaseException):
    pass


@pytest.mark.parametrize("name", ["codes.safetensors", "rows.parquet", "index.json"])
def test_a_killed_save_leaves_the_old_index_or_one_that_is_refused(name, index, tmp_path, monkeypatch):
    index.save(tmp_path)
    replace_file, stored = os.replace, storage.read_index(tmp_path)

    def kill_before(source, target):
        if str(target).endswith(name):
            raise Killed
        replace_file(source, target)

    killed = replace(stored, record=replace(stored.record, build="1" * 32))
    monkeypatch.setattr(os, "replace", kill_before)
    with pytest.raises(Killed):
        storage.write_index(tmp_path, killed)
    monkeypatch.undo()
    if name == "codes.safetensors":
        assert RetrievalIndex.load(tmp_path).record == index.record
    else:
        with pytest.raises(CheckpointError, match="belong to different indexes"):
            RetrievalIndex.load(tmp_path)
    index.save(tmp_path)
    assert RetrievalIndex.load(tmp_path).rows == index.rows
