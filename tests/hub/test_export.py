import io
import json
import os
import shutil
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.numpy import load_file, save

from mura_hf import (
    CardError,
    CheckpointError,
    MuraForImageClassification,
    MuraImageProcessor,
    RetrievalIndex,
    StudyPredictor,
    load_mura,
)
from mura_hf.common import BUNDLED
from mura_hf.hub import export_checkpoint, push, render_card
from mura_hf.hub.push_checks import check_checkpoint
from mura_hf.inference import loading
from mura_hf.inference.loading import Source, load_index
from mura_hf.models import CLASSIFIERS
from tests.checkpoints import make_checkpoint, make_model
from tests.hub.conftest import ALONE, assert_refused, change_record, changed, check_alone

PREPROCESS = """
import sys
opencv = sys.modules.pop("cv2")
for name in ("mura_hf", "cv2"):
    sys.modules[name] = None
import numpy as np
from PIL import Image
from transformers import AutoImageProcessor

def process(name):
    processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=True)
    np.save(f"{name}.npy", processor(Image.open(sys.argv[1]), return_tensors="np")["pixel_values"])

process("plain")
try:
    process("blind")
except ImportError as error:
    print(error)
sys.modules["cv2"] = opencv
process("clahe")
"""


def run_alone(forks, code, *arguments, cwd):
    environment = {**os.environ, "HF_HOME": str(cwd), "HF_HUB_OFFLINE": "1"}
    return forks.run("-c", code, *arguments, env=environment, cwd=cwd)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return export_checkpoint(BUNDLED["mura-phantom"], tmp_path_factory.mktemp("export") / "out")


@pytest.fixture(scope="module")
def exported_families(tmp_path_factory):
    root, out = tmp_path_factory.mktemp("families"), tmp_path_factory.mktemp("exported")
    for family in CLASSIFIERS:
        export_checkpoint(make_checkpoint(root / family, make_model(family)), out / family)
    return out


def test_every_family_works_where_the_package_cannot_be_imported(
    forks, exported, exported_families, phantom_files, tmp_path
):
    folders = {str(exported_families / family): make_model(family) for family in CLASSIFIERS}
    folders[str(exported)] = MuraForImageClassification.from_pretrained(BUNDLED["mura-phantom"])
    done = run_alone(forks, ALONE, ",".join(folders), *phantom_files, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for folder, model in folders.items():
        check_alone(found[folder], model, MuraImageProcessor.from_pretrained(folder), phantom_files)


def test_each_family_takes_the_files_that_it_needs_and_no_others(exported_families):
    files = {family: {path.stem for path in (exported_families / family).glob("*.py")} for family in CLASSIFIERS}
    for family, names in files.items():
        assert {"image_processing_mura", "pipeline_mura_study", CLASSIFIERS[family].__module__.split(".")[-1]} <= names
        targets = json.loads((exported_families / family / "config.json").read_text())["auto_map"].values()
        assert {target.partition(".")[0] for target in targets} <= names
    assert "modeling_mura_fusenet" not in files["mura"] | files["mura_metric_learning"]
    assert "modeling_mura_metric_learning" not in files["mura"] | files["mura_fusenet"]
    assert not any("modeling_mura_specialized" in names for family, names in files.items() if "special" not in family)


def test_preprocessing_travels_along_and_only_clahe_needs_opencv(forks, checkpoint, phantom_files, tmp_path):
    folder, expected = shutil.copytree(checkpoint, tmp_path / "checkpoint"), {}
    for name, clahe in (("plain", []), ("blind", ["clahe_lab"]), ("clahe", ["clahe_lab"])):
        processor = MuraImageProcessor(
            size={"height": 72, "width": 80}, do_center_crop=True, crop_size={"height": 64, "width": 64},
            enhance=["high_frequency_emphasis", "unsharp", *clahe],
        )  # fmt: skip
        processor.save_pretrained(folder)
        export_checkpoint(folder, tmp_path / name)
        expected[name] = processor(Image.open(phantom_files[0]), return_tensors="np")["pixel_values"]
    done = run_alone(forks, PREPROCESS, phantom_files[0], cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "CLAHE in enhance needs OpenCV: pip install opencv-python-headless" in done.stdout
    for name in ("plain", "clahe"):
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), expected[name])


def test_every_file_is_there(exported):
    source = BUNDLED["mura-phantom"]
    wanted = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    assert all((exported / name).is_file() for name in wanted)
    for name in wanted - {"config.json", "preprocessor_config.json"}:
        assert (exported / name).read_bytes() == (source / name).read_bytes()


def test_refuses_half_a_checkpoint_and_never_writes_over_anything(checkpoint, tmp_path):
    half = shutil.copytree(checkpoint, tmp_path / "half", ignore=lambda *_: ["model.safetensors"])
    for source, target, message in ((half, "out", r"model\.safetensors missing"), (checkpoint, "half", "not empty")):
        with pytest.raises(CheckpointError, match=message):
            export_checkpoint(source, tmp_path / target)


PHANTOMS = {"key": "phantoms", "name": "phantoms"}
INDEX = {"retrieval/index.json", "retrieval/codes.safetensors", "retrieval/rows.parquet"}
FIGURES = {"auroc": 0.7, "kappa": 0.4, "intervals": {"auroc": [0.6, 0.8], "kappa": [0.3, 0.5]}}


@pytest.fixture(scope="module")
def built(whole, phantom_tree):
    predictor = StudyPredictor.from_pretrained(whole, device="cpu")
    rows = load_mura(phantom_tree)["train"].select(range(8))

    def build(**options):
        options = {"data": PHANTOMS, "split": "train", "progress": False, **options}
        return RetrievalIndex.build(rows, predictor.model, predictor.processor, **options)

    return build


@pytest.fixture
def indexed(built, pushable):
    """A checkpoint with an index of phantoms, which its evaluation is about."""

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
    return {name for name, _ in push(folder, "tester/x", dry_run=True).files}


def test_an_index_of_phantoms_is_exported_with_its_thumbnails(indexed, tmp_path):
    folder = indexed(thumbnail_side=32)
    assert _names(folder) >= INDEX
    out = export_checkpoint(folder, tmp_path / "out")
    assert StudyPredictor.from_pretrained(out, device="cpu").index.rows["thumbnail"][0].as_py()[:4] == b"RIFF"
    card = render_card(folder, "tester/x")
    assert "| body part | 9 | 0.987 (0.700-0.900) | 0.500 |" in card
    assert "It includes an index of 3 studies" in card


@pytest.mark.parametrize("data", [{"key": "mura"}, {"key": "folder"}, {"key": "hub"}, None])
def test_an_index_of_other_data_stays_here(data, indexed, tmp_path):
    folder = indexed(data=data)
    check_checkpoint(folder)
    assert not [name for name in _names(folder) if name.startswith("retrieval")]
    assert not (export_checkpoint(folder, tmp_path / "out") / "retrieval").exists()
    assert "which is not shared" in render_card(folder, "tester/x")


def test_an_index_of_open_films_is_exported_with_thumbnails_and_without_ids_of_mura(indexed):
    folder = indexed(data={"key": "fracatlas"}, thumbnail_side=32)  # whose rows are called as MURA's
    assert_refused(folder, r"rows\.parquet names a patient or a study")
    films = dict.fromkeys(("study_id", "patient_id"), lambda n: f"IMG{n:07d}")
    with changed(folder / "retrieval" / "rows.parquet", _rows(folder, **films)):
        assert _names(folder) >= INDEX


def _rows(folder, note=None, **columns):
    """Content of the file of an index's rows with other columns, or with a note in its metadata."""
    rows, file = pq.read_table(folder / "retrieval" / "rows.parquet"), io.BytesIO()
    for name, make in columns.items():
        place = rows.schema.get_field_index(name)
        field = rows.schema.field(place)
        rows = rows.set_column(place, field, pa.array([make(n) for n in range(len(rows))], field.type))
    pq.write_table(rows.replace_schema_metadata({**rows.schema.metadata, b"who": note}) if note else rows, file)
    return file.getvalue()


def test_what_does_not_belong_to_an_index_is_named(indexed):
    folder = indexed()
    place = folder / "retrieval"
    tensors, record = load_file(place / "codes.safetensors"), json.loads((place / "index.json").read_text())
    build, settings = {"build": record["build"]}, json.loads((folder / "preprocessor_config.json").read_text())
    ids, many = {"note": "XR_WRIST/patient11185/study1_positive"}, {"pixels": [0] * 5000}
    for name, content, message in (
        ("film.png", b"x", r"film\.png does not belong to an index"),
        ("rows.parquet", _rows(folder, thumbnail=lambda n: bytes(30_000)), "a picture of 30000 bytes, too large for"),
        ("rows.parquet", _rows(folder, note=b"Jane Doe"), "holds more than rows"),
        ("codes.safetensors", save({**tensors, "films": np.zeros(3)}, build), r"codes\.safetensors holds films"),
        ("codes.safetensors", save(tensors, {**build, "made_from": "x"}), r"codes\.safetensors holds made_from"),
        ("index.json", {**record, "data": {"key": "phantoms", **ids}}, "names a patient or a study"),
        ("index.json", {**record, "data": {"key": "phantoms", **many}}, "a list of 5000 numbers"),
        ("index.json", {**record, "build": "Jane Doe"}, "invalid build id"),
        (
            "../preprocessor_config.json",
            {**settings, "image_mean": [0.4] * 3},
            "made with other weights, or with other",
        ),
    ):
        with changed(place / name, json.dumps(content).encode() if isinstance(content, dict) else content):
            assert_refused(folder, message)
    folder = indexed(factory="Flat")
    assert_refused(folder, "searches with FAISS, whose files are not loaded from others")


def test_a_card_is_about_the_index_that_is_there(indexed, built):
    folder = indexed()
    built().save(folder / "retrieval")  # after the evaluation
    with pytest.raises(CardError, match=r"evaluation\.json is not about the index in retrieval/"):
        render_card(folder, "mine")
    change_record(folder / "evaluation.json", "retrieval")
    with pytest.raises(CardError, match="is not about the index"):
        render_card(folder, "mine")
    shutil.rmtree(folder / "retrieval")
    assert "has no index of studies" in render_card(folder, "mine")


def test_what_was_pushed_finds_similar_studies(indexed, api, phantom_files, monkeypatch, tmp_path):
    folder = indexed(thumbnail_side=16)
    push(folder, "tester/x", api=api)
    monkeypatch.setattr(loading, "snapshot_download", partial(api.snapshot_download, cache_dir=tmp_path))
    here = StudyPredictor.from_pretrained(folder, device="cpu")
    there = load_index(Source("tester/x", None, "tester/x"), here.model, here.processor)
    assert there.search(phantom_files[:1]) == here.similar(phantom_files[:1])
    assert {path.name for path in tmp_path.rglob("*.*") if path.is_symlink()} == {name[10:] for name in INDEX}
    with pytest.raises(CheckpointError, match="tester/y has an index of studies: it cannot be reached"):
        load_index(Source("tester/y", None, "tester/y"), here.model, here.processor)
