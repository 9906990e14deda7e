import json
import shutil
import signal

import numpy as np
import PIL.Image
import pytest
import torch
from datasets import Image

from mura_hf import CheckpointError, DatasetError, MuraImageProcessor, RetrievalIndex, load_mura, read_radiograph
from mura_hf.data import ViewDataset
from mura_hf.retrieval import building, digest_encoder, view_codes
from tests.conftest import make_model


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
    return RetrievalIndex.build(rows, model, processor, thumbnail_side=32, progress=False)


def _files(rows, study):
    files = rows.cast_column("image", Image(decode=False))
    return [row["image"]["path"] for row in files if row["study_id"] == study]


def _distances(index, codes):
    """The distance of each study of an index by hand: its nearest view's from the nearest of these."""
    apart = torch.cdist(torch.as_tensor(codes).double(), index.codes.double()).min(0).values
    found = {}
    for row, distance in zip(index.rows.to_pylist(), apart.tolist(), strict=True):
        name = row["study_id"]
        found[name] = min(distance, found.get(name, np.inf))
    return sorted(found.items(), key=lambda pair: pair[1])


def test_codes_are_those_of_training_and_evaluation(index, rows, model, processor):
    views = ViewDataset(rows, processor)
    pixel_values = torch.stack([views[row]["pixel_values"] for row in range(12)])
    with torch.no_grad():
        expected = view_codes(model, model.classify_views(pixel_values))
    torch.testing.assert_close(index.codes[:12], expected, rtol=1e-5, atol=1e-5)
    read = building._read_plane(rows.cast_column("image", Image(decode=False))[3]["image"])
    assert torch.equal(processor([read], return_tensors="pt")["pixel_values"][0], views[3]["pixel_values"])


def test_neighbours_are_studies_by_their_nearest_view(index, rows):
    study = rows[0]["study_id"]
    files = _files(rows, study)
    codes = index.codes[: len(files)]
    found = index.search(files, k=7)
    assert [(one.study_id, pytest.approx(one.distance, abs=1e-5)) for one in found] == _distances(index, codes)[:7]
    assert (found[0].study_id, found[0].distance) == (study, pytest.approx(0, abs=1e-4))
    for one in found:
        row = index.rows.slice(one.row, 1).to_pylist()[0]
        assert (one.study_id, one.view, one.label, one.body_part) == tuple(
            row[name] for name in ("study_id", "view", "label", "body_part")
        )
        apart = (codes[one.nearest_to].double() - index.codes[one.row].double()).norm()
        assert one.distance == pytest.approx(float(apart), abs=1e-5)
        assert one.thumbnail[:4] == b"RIFF"
    assert len(index.search(files[0], k=10_000)) == len(set(rows["study_id"]))


def test_part_and_patient_are_heeded(index, rows):
    study, patient = rows[0]["study_id"], rows[0]["patient_id"]
    files = _files(rows, study)
    found = index.search(files, k=50, body_part="wrist")
    wrists = {row["study_id"] for row in index.rows.to_pylist() if row["body_part"] == "wrist"}
    assert {one.study_id for one in found} == wrists
    found = index.search(files, k=1000, exclude_patient=patient)
    assert patient not in {one.patient_id for one in found}
    assert len(found) == len({row["study_id"] for row in index.rows.to_pylist() if row["patient_id"] != patient})
    with pytest.raises(ValueError, match="unknown body part 'knee'"):
        index.search(files, body_part="knee")
    with pytest.raises(ValueError, match="k is 0"):
        index.search(files, k=0)
    with pytest.raises(ValueError, match=r"codes must be \[views, 32\]"):
        index.search_codes(np.zeros((1, 5)))


def test_cosine_ranks_by_angle(rows, model, processor):
    index = RetrievalIndex.build(rows, model, processor, metric="cosine", progress=False)
    plain = RetrievalIndex.build(rows, model, processor, progress=False).codes.double()
    cosine = torch.nn.functional.cosine_similarity(plain[5][None], plain)
    best = index.search_codes(plain[5][None].float(), k=4)
    views = torch.tensor([one.row for one in best])
    np.testing.assert_allclose([one.distance for one in best], 1 - cosine[views], atol=1e-6)
    assert best[0].row == 5
    with pytest.raises(ValueError, match="unknown metric 'dot'"):
        RetrievalIndex.build(rows, model, processor, metric="dot", progress=False)
    with pytest.raises(ValueError, match="no views"):
        RetrievalIndex.build(rows.select([]), model, processor, progress=False)


@pytest.mark.parametrize("options", [{}, {"half": True}, {"factory": "IVF4,Flat", "parameters": "nprobe=4"}])
def test_what_is_saved_is_loaded(options, rows, model, processor, tmp_path):
    index = RetrievalIndex.build(
        rows, model, processor, split="train", data={"key": "phantoms"}, progress=False, **options
    )
    index.save(tmp_path / "retrieval")
    again = RetrievalIndex.load(tmp_path / "retrieval", model, processor)
    assert (again.record, again.rows) == (index.record, index.rows)
    assert torch.equal(again.codes, index.codes)
    file = _files(rows, rows[0]["study_id"])[0]
    assert again.search(file) == index.search(file)
    assert len(list((tmp_path / "retrieval").glob("index-*.faiss"))) == ("factory" in options)
    again.save(tmp_path / "retrieval")  # over the files that it is mapped to
    assert RetrievalIndex.load(tmp_path / "retrieval", model, processor).search(file) == index.search(file)
    RetrievalIndex.build(rows, model, processor, progress=False).save(tmp_path / "retrieval")
    assert not list((tmp_path / "retrieval").glob("index-*.faiss"))
    with pytest.raises(CheckpointError, match="no model to code"):
        RetrievalIndex.load(tmp_path / "retrieval").search(file)


def test_an_index_of_faiss_is_never_that_of_another_build(rows, model, processor, tmp_path):
    few, many = (
        RetrievalIndex.build(rows.select(range(n)), model, processor, factory="Flat", progress=False) for n in (20, 30)
    )
    few.save(tmp_path)
    many.save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / many.record.faiss_name, tmp_path / few.record.faiss_name)
    with pytest.raises(CheckpointError, match="FAISS's index of other codes"):
        RetrievalIndex.load(tmp_path, model, processor)
    (tmp_path / few.record.faiss_name).unlink()
    with pytest.raises(CheckpointError, match="cannot be read by FAISS"):
        RetrievalIndex.load(tmp_path, model, processor)


def test_what_faiss_does_not_know_is_refused_before_any_work(rows, model, processor, monkeypatch):
    monkeypatch.setattr(building, "encode_planes", None)
    with pytest.raises(ValueError, match="does not know the factory string 'Nonsense'"):
        RetrievalIndex.build(rows, model, processor, factory="Nonsense", progress=False)


def test_a_view_may_be_anything_that_a_predictor_takes(index, rows):
    file = _files(rows, rows[0]["study_id"])[0]
    picture = PIL.Image.open(file)
    expected = index.search(file)
    for view in (picture, np.asarray(picture), read_radiograph(file), open(file, "rb").read(), [picture]):  # noqa: SIM115
        assert index.search(view) == expected
    with pytest.raises(ValueError, match="no numbers"):
        index.search_codes(np.full((1, index.codes.shape[1]), np.nan))
    with pytest.raises(ValueError, match="whole number"):
        index.search(file, k=1.5)


def test_a_save_that_fails_says_where(index, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DatasetError, match="cannot be written to"):
        index.save(tmp_path / "file" / "retrieval")


def test_belongs_to_one_model_and_its_settings(index, model, processor, tmp_path):
    index.save(tmp_path)
    same = make_model()
    same.config.temperature, same.config.study_slope = 2.0, 0.5  # of answers, not of codes
    for like in (same, make_model().to(torch.bfloat16)):
        assert len(RetrievalIndex.load(tmp_path, like, processor)) == len(index)
    other = make_model()
    with torch.no_grad():
        other.mura.backbone.conv1[0].weight[0, 0, 0, 0] += 0.1
    flipped = make_model()
    flipped.config.test_time_flip = True
    larger = MuraImageProcessor(size={"height": 80, "width": 64})
    for pair in ((other, processor), (flipped, processor), (make_model(seed=1), processor), (model, larger)):
        with pytest.raises(CheckpointError, match="made with other weights, or with other settings"):
            RetrievalIndex.load(tmp_path, *pair)


def test_a_saved_model_is_known_again(model, processor, tmp_path):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path), MuraImageProcessor.from_pretrained(tmp_path)
    assert digest_encoder(*again) == digest_encoder(model, processor)


def test_damage_is_told(index, tmp_path):
    with pytest.raises(CheckpointError, match="holds no index"):
        RetrievalIndex.load(tmp_path / "nowhere")
    index.save(tmp_path / "a")
    index.save(tmp_path / "b")
    for name, content, message in (
        ("codes.safetensors", b"x" * 100, "is damaged"),
        ("rows.parquet", b"PAR1", "is damaged"),
        ("index.json", b"{}", "cannot be read"),
        ("index.json", b'{"build": "x", "coder": "y", "new": 1}', "new, which this version does not know"),
        ("index.json", b'{"build": "x", "coder": "y"}', "its random word is none"),
    ):
        folder = shutil.copytree(tmp_path / "a", tmp_path / "damaged", dirs_exist_ok=True)
        (folder / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            RetrievalIndex.load(folder)
    record = json.loads((tmp_path / "b" / "index.json").read_text())
    (tmp_path / "b" / "index.json").write_text(json.dumps({**record, "build": "0" * 32}))
    with pytest.raises(CheckpointError, match="belong to different indexes"):
        RetrievalIndex.load(tmp_path / "b")


def test_a_build_that_was_stopped_goes_on(rows, model, processor, index, tmp_path, monkeypatch):
    monkeypatch.setattr(building, "_PART", 20)
    true_encode, calls = building._encode, []

    def stop_at_the_third(part, *args):
        calls.append(len(part))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return true_encode(part, *args)

    monkeypatch.setattr(building, "_encode", stop_at_the_third)
    options = {"parts_dir": tmp_path, "thumbnail_side": 32, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        RetrievalIndex.build(rows, model, processor, **options)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    first = sorted(tmp_path.glob("*.safetensors"))[0]
    first.write_bytes(first.read_bytes()[:50])  # a damaged disk
    (tmp_path / "x.safetensors.unfinished").write_bytes(b"of a kill")
    found = RetrievalIndex.build(rows, model, processor, **options)
    assert len(calls) == 3 + -(-len(rows) // 20) - 1
    torch.testing.assert_close(found.codes, index.codes)
    assert found.rows == index.rows
    again = RetrievalIndex.build(rows, model, processor, **options)
    assert (len(calls), again.rows) == (3 + -(-len(rows) // 20) - 1, index.rows)


def test_a_file_that_is_gone_is_named(rows, model, processor, tmp_path):
    moved = rows.select([0]).cast_column("image", Image(decode=False))
    moved = moved.map(lambda row: {"image": {"path": str(tmp_path / "gone.png"), "bytes": None}})
    with pytest.raises(DatasetError, match=r"gone\.png cannot be read"):
        RetrievalIndex.build(moved, model, processor, parts_dir=tmp_path, progress=False)


KILLED = """
import os, signal, sys
from mura_hf import RetrievalIndex
from mura_hf.retrieval import storage
folder, name = sys.argv[1:]
index = RetrievalIndex.load(folder)
replace = os.replace
def kill_before(source, target):
    if str(target).endswith(name):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = kill_before
storage.write_index(storage.Path(folder), storage.StoredIndex(
    storage.IndexRecord("1" * 32, index.record.coder), index.codes, index._stored.squares, None, index.rows))
"""


@pytest.mark.parametrize("name", ["codes.safetensors", "rows.parquet", "index.json"])
def test_a_killed_save_leaves_the_old_index_or_one_that_says_so(name, forks, index, tmp_path):
    index.save(tmp_path)
    done = forks.run("-c", KILLED, tmp_path, name)
    assert done.returncode == -signal.SIGKILL
    if name == "codes.safetensors":
        assert RetrievalIndex.load(tmp_path).record == index.record
    else:
        with pytest.raises(CheckpointError, match="belong to different indexes"):
            RetrievalIndex.load(tmp_path)
    index.save(tmp_path)
    assert RetrievalIndex.load(tmp_path).rows == index.rows
