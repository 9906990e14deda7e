"""Which indexes of studies leave this machine."""

import json
import shutil
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from mura_hf import CardError, CheckpointError, RetrievalIndex, StudyPredictor, load_mura
from mura_hf.hub import export_checkpoint, push, render_card
from mura_hf.hub.push_checks import check_checkpoint
from mura_hf.inference import loading as index_loading
from mura_hf.inference.loading import LazyIndex, Source

PHANTOMS = {"key": "phantoms", "name": "phantoms"}
INDEX = {"retrieval/index.json", "retrieval/codes.safetensors", "retrieval/rows.parquet"}
FIGURES = {"auroc": 0.7, "kappa": 0.4, "intervals": {"auroc": [0.6, 0.8], "kappa": [0.3, 0.5]}}


@pytest.fixture(scope="module")
def built(whole, phantom_tree):
    predictor = StudyPredictor.from_pretrained(whole, device="cpu")
    rows = load_mura(phantom_tree)["train"].select(range(8))

    def build(**options):
        return RetrievalIndex.build(
            rows,
            predictor.model,
            predictor.processor,
            **{"data": PHANTOMS, "split": "train", **options},
            progress=False,
        )

    return build


@pytest.fixture
def indexed(built, pushable):
    """A checkpoint with an index of phantoms, which its evaluation speaks of."""

    def make(**options):
        index = built(**options)
        shutil.rmtree(pushable / "retrieval", ignore_errors=True)
        index.save(pushable / "retrieval")
        evaluation = json.loads((pushable / "evaluation.json").read_text())
        row = {"n": 9, "at": 5, "mean": 0.8, "low": 0.7, "high": 0.9, "chance": 0.5}
        evaluation["retrieval"] = {
            "index": {"build": index.record.build, "studies": 3, "views": 8, "split": "train", "metric": "l2"},
            "n": 9,
            "precision": {"label": row, "body_part": {**row, "mean": 0.987}},
            "classification": {"voters": 25, "neighbours": FIGURES, "classifier": FIGURES},
        }
        (pushable / "evaluation.json").write_text(json.dumps(evaluation))
        return pushable

    return make


def _names(folder):
    return {name for name, _ in push(folder, "tester/x", dry_run=True, progress=False).files}


def test_an_index_of_phantoms_travels_with_its_thumbnails(indexed, tmp_path):
    folder = indexed(thumbnail_side=32)
    assert _names(folder) >= INDEX
    out = export_checkpoint(folder, tmp_path / "out")
    assert StudyPredictor.from_pretrained(out, device="cpu").index.rows["thumbnail"][0].as_py()[:4] == b"RIFF"
    card = render_card(folder, "tester/x")
    assert "| body part | 9 | 0.987 (0.700-0.900) | 0.500 |" in card
    assert "comes with it" in card


@pytest.mark.parametrize("data", [{"key": "mura"}, {"key": "folder"}, {"key": "hub"}, None])
def test_that_of_other_data_stays_behind(data, indexed, tmp_path):
    folder = indexed(data=data, thumbnail_side=32)
    check_checkpoint(folder)
    assert not [name for name in _names(folder) if name.startswith("retrieval")]
    assert not (export_checkpoint(folder, tmp_path / "out") / "retrieval").exists()
    assert "stays with those who hold the data" in render_card(folder, "tester/x")


def test_open_films_travel_without_pictures_and_names_of_mura(indexed):
    folder = indexed(data={"key": "fracatlas"}, thumbnail_side=32)
    with pytest.raises(CheckpointError, match="small pictures of films"):
        check_checkpoint(folder)
    folder = indexed(data={"key": "fracatlas"})  # whose rows are called as MURA's
    with pytest.raises(CheckpointError, match=r"rows\.parquet names a patient or a study"):
        check_checkpoint(folder)
    _change_rows(folder, study_id=lambda n: f"IMG{n:07d}", patient_id=lambda n: f"IMG{n:07d}")
    assert _names(folder) >= INDEX


def _change_rows(folder, **columns):
    file = folder / "retrieval" / "rows.parquet"
    rows = pq.read_table(file)
    for name, make in columns.items():
        place = rows.schema.get_field_index(name)
        field = rows.schema.field(place)
        rows = rows.set_column(place, field, pa.array([make(n) for n in range(len(rows))], field.type))
    pq.write_table(rows, file)


def test_what_does_not_belong_into_an_index_is_named(indexed):
    folder = indexed()
    place = folder / "retrieval"
    (place / "film.png").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"film\.png is no file of an index"):
        check_checkpoint(folder)
    (place / "film.png").unlink()
    _change_rows(folder, thumbnail=lambda n: bytes(30_000))
    with pytest.raises(CheckpointError, match="a picture of 30000 bytes, too large for a thumbnail"):
        check_checkpoint(folder)
    folder = indexed()
    tensors = load_file(place / "codes.safetensors")
    build = json.loads((place / "index.json").read_text())["build"]
    for changed, told in (({"films": np.zeros(3)}, {}), ({}, {"made_from": "x"})):
        save_file({**tensors, **changed}, place / "codes.safetensors", metadata={"build": build, **told})
        with pytest.raises(CheckpointError, match=r"codes\.safetensors holds (films|made_from)"):
            check_checkpoint(folder)
    folder = indexed()
    record = json.loads((place / "index.json").read_text())
    for changed, told in (
        ({"data": {"key": "phantoms", "note": "XR_WRIST/patient11185/study1_positive"}}, "names a patient or a study"),
        ({"data": {"key": "phantoms", "pixels": [0] * 5000}}, "a list of 5000 numbers"),
        ({"build": "Jane Doe"}, "its random word is none"),
    ):
        (place / "index.json").write_text(json.dumps({**record, **changed}))
        with pytest.raises(CheckpointError, match=told):
            check_checkpoint(folder)
    (place / "index.json").write_text(json.dumps(record))
    rows = pq.read_table(place / "rows.parquet")
    pq.write_table(rows.replace_schema_metadata({**rows.schema.metadata, b"who": b"Jane Doe"}), place / "rows.parquet")
    with pytest.raises(CheckpointError, match="holds more than rows"):
        check_checkpoint(folder)
    folder = indexed(factory="Flat")
    with pytest.raises(CheckpointError, match="searches by FAISS, whose files are not read from strangers"):
        check_checkpoint(folder)


def test_an_index_of_other_weights_stops_the_push(indexed):
    folder = indexed()
    config = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**config, "image_mean": [0.4, 0.4, 0.4]}))
    with pytest.raises(CheckpointError, match="made with other weights, or with other settings"):
        check_checkpoint(folder)


def test_a_card_speaks_of_the_index_that_is_there(indexed, built):
    folder = indexed()
    built().save(folder / "retrieval")  # after the evaluation
    with pytest.raises(CardError, match=r"index in retrieval/ is not the one that evaluation\.json speaks of"):
        render_card(folder, "mine")
    evaluation = json.loads((folder / "evaluation.json").read_text())
    del evaluation["retrieval"]
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    with pytest.raises(CardError, match="not the one"):
        render_card(folder, "mine")
    shutil.rmtree(folder / "retrieval")
    assert "has no index of studies" in render_card(folder, "mine")


def test_what_was_pushed_finds_similar_studies(indexed, api, phantom_files, monkeypatch, tmp_path):
    folder = indexed(thumbnail_side=16)
    push(folder, "tester/x", api=api, progress=False)
    monkeypatch.setattr(index_loading, "snapshot_download", partial(api.snapshot_download, cache_dir=tmp_path))
    here = StudyPredictor.from_pretrained(folder, device="cpu")
    there = LazyIndex(Source("tester/x", None, "tester/x"), here.model, here.processor).get()
    assert there.search(phantom_files[:1]) == here.similar(phantom_files[:1])
    assert {path.name for path in tmp_path.rglob("*.*") if path.is_symlink()} == {name[10:] for name in INDEX}
    with pytest.raises(CheckpointError, match="tester/y has an index of studies cannot be found out"):
        LazyIndex(Source("tester/y", None, "tester/y"), here.model, here.processor).get()
