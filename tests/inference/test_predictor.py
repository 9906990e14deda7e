"""`StudyPredictor` with checkpoints of every family."""

import json
import shutil
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from tempfile import NamedTemporaryFile

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import HfApi
from PIL import Image
from pydicom import Dataset
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification

from mura_hf import (
    CheckpointError,
    HubError,
    MuraForImageClassification,
    MuraImageProcessor,
    Radiograph,
    RadiographError,
    RetrievalIndex,
    StudyPredictor,
    load_mura,
    read_radiograph,
)
from mura_hf.common import BUNDLED, DEFAULT
from mura_hf.explain import grad_cam
from mura_hf.inference import PHANTOM_WARNING
from mura_hf.inference import predictor as predictor_module
from mura_hf.inference.loading import DETECTOR_IS_MISSING
from mura_hf.models import BODY_PARTS, CLASSIFIERS, write_golden
from mura_hf.models.golden_mura import digest_weights
from mura_hf.retrieval import OODDetector, view_codes
from tests.checkpoints import make_checkpoint, make_model
from tests.hub.hub_server import TOKEN, HubServer
from tests.inference.external import save_external
from tests.inference.threads import check_threads

POOLINGS = {"mura_ensemble": "ensemble", "mura_specialized": "specialized"}
INDEX = ["codes.safetensors", "index.json", "rows.parquet"]
TOKENS = {"backbone": "vit_tiny_patch16_224", "backbone_kwargs": {"depth": 3, "embed_dim": 48}}


def make_detector(in_distribution, width=128, weights=""):
    """A detector that accepts all studies, or none."""
    edge = np.full((1, 1), 1e9 if in_distribution else 0.0, np.float32)
    return OODDetector(
        np.ones(width, np.float32), np.eye(width, dtype=np.float32), np.zeros((1, width), np.float32),
        np.ones(1, bool), edge, weights,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Checkpoints of all families."""
    root = tmp_path_factory.mktemp("families")
    return {family: make_checkpoint(root / family, make_model(family)) for family in CLASSIFIERS}


def _pixel_values(folder, files):
    processor = MuraImageProcessor.from_pretrained(folder)
    return processor([Image.open(file) for file in files], return_tensors="pt")["pixel_values"]


def test_a_study_is_the_mean_of_its_views(predictor, checkpoint, phantom_files):
    study = predictor(phantom_files)
    model = MuraForImageClassification.from_pretrained(checkpoint)
    with torch.inference_mode():
        expected = model(_pixel_values(checkpoint, phantom_files)).logits.softmax(-1)[:, 1].numpy()
    np.testing.assert_allclose([view.probability for view in study.views], expected, atol=1e-5)
    assert study.probability == pytest.approx(expected.mean(), abs=1e-5)
    assert sum(view.weight for view in study.views) == pytest.approx(1)
    assert study.label == ("abnormal" if study.probability > 0.5 else "normal")
    assert (study.threshold, study.operating_point, study.in_distribution) == (0.5, "paper", None)
    assert study.body_part in BODY_PARTS
    assert not study.body_part_given
    assert [view.name for view in study.views] == [file.rsplit("/", 1)[1] for file in phantom_files]


@pytest.mark.parametrize("family", list(CLASSIFIERS))
def test_predictions_are_those_of_the_model(family, folders, phantom_files):
    study = StudyPredictor.from_pretrained(folders[family], device="cpu")(phantom_files)
    model, pixel_values = make_model(family), _pixel_values(folders[family], phantom_files)
    with torch.no_grad():
        output = model(pixel_values[None])
    probabilities, weights = output.view_logits.softmax(-1)[0, :, 1], output.view_weights[0]
    assert study.probability == pytest.approx(float(output.study_logits.exp()[0, 1]), abs=1e-5)
    np.testing.assert_allclose([view.probability for view in study.views], probabilities, atol=1e-5)
    np.testing.assert_allclose([view.weight for view in study.views], weights, atol=1e-5)
    assert study.leading_view == int((probabilities * weights).argmax())
    assert study.pooling == POOLINGS.get(family, "mean")
    assert (study.body_part is not None) == (family == "mura_specialized")
    np.testing.assert_allclose(study.codes, view_codes(model, output.views), rtol=1e-5, atol=1e-5)
    maps = grad_cam(model, output=output.views, size=(64, 64)).numpy()
    restore = MuraImageProcessor.from_pretrained(folders[family]).restore_map
    for view, heat in zip(study.views, maps, strict=True):
        assert view.heatmap.shape == (view.height, view.width)
        assert view.heatmap.max() == pytest.approx(1, abs=1e-5)
        restored = restore(heat, view.height, view.width)
        np.testing.assert_allclose(view.heatmap, restored / restored.max(), atol=0.02)
        assert (view.box is not None) == (view.band != "low")
    half = StudyPredictor.from_pretrained(folders[family], device="cpu", dtype="bfloat16")
    assert half.model.dtype == torch.bfloat16
    found = half(phantom_files)
    assert found.probability == pytest.approx(study.probability, abs=0.1)
    assert found.views[0].heatmap.max() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("pooling", ["mean", "max", "noisy_or", "gated_attention"])
def test_poolings_and_finding_types(pooling, phantom_files, tmp_path):
    model = make_model(study_pooling=pooling, finding_types=["fracture", "hardware", "other"])
    folder = make_checkpoint(tmp_path / pooling, model)
    study = StudyPredictor.from_pretrained(folder, device="cpu")(phantom_files)
    with torch.no_grad():
        expected = model(_pixel_values(folder, phantom_files)[None])
    assert study.pooling == pooling
    assert study.probability == pytest.approx(float(expected.study_logits[0, 1].exp()), abs=1e-5)
    assert list(study.finding_probabilities) == ["fracture", "hardware", "other"]
    np.testing.assert_allclose(list(study.finding_probabilities.values()), expected.finding_logits.exp()[0], atol=1e-5)


def test_fusenet_at_full_resolution_gets_larger_images(phantom_files, tmp_path):
    model = make_model("mura_fusenet", full_resolution=True)
    folder = make_checkpoint(tmp_path / "fine", model)
    coarse = StudyPredictor.from_pretrained(folder, device="cpu")(phantom_files, heatmaps=False)
    MuraImageProcessor(size={"height": 128, "width": 128}).save_pretrained(folder)
    study = StudyPredictor.from_pretrained(folder, device="cpu")(phantom_files, heatmaps=False)
    with torch.no_grad():
        expected = model(_pixel_values(folder, phantom_files)[None]).study_logits[0, 1].exp()
    assert study.probability == pytest.approx(float(expected), abs=1e-5)
    assert study.probability != coarse.probability


def test_every_form_of_input_gives_the_same(predictor, phantom_files):
    file = phantom_files[0]
    data, image = Path(file).read_bytes(), Image.open(file)
    gray = np.asarray(image)
    forms = [file, Path(file), data, bytearray(data), image, gray, gray / np.float32(255), read_radiograph(file)]
    found = [predictor([form]).probability for form in forms]
    found += [predictor(form).probability for form in (*forms, torch.tensor(gray))]  # a single view
    assert found == pytest.approx([found[0]] * len(found), abs=1e-7)
    assert len(predictor(file for file in phantom_files).views) == len(phantom_files)
    pixels = np.random.default_rng(0).random((70, 50), dtype=np.float32)
    expected = predictor([Radiograph(pixels, 16, "array")]).probability
    rounded = Radiograph(
        np.where(pixels == pixels.max(), np.float32(1.000001), pixels - np.float32(1e-6)), 16, "array"
    )
    assert predictor([rounded]).probability == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("given", ["elbow", "ELBOW", "XR_ELBOW", "xr_Elbow", " Elbow "])
def test_the_body_part_may_be_given(predictor, phantom_files, given):
    study = predictor(phantom_files, body_part=given, heatmaps=False)
    assert (study.body_part, study.body_part_given) == ("elbow", True)
    assert sum(study.body_part_probabilities.values()) == pytest.approx(1)


@pytest.mark.parametrize("given", ["knee", "XR_KNEE", "", "elbow wrist", 3])
def test_unknown_body_parts(predictor, phantom_files, given):
    with pytest.raises(ValueError, match=f"unknown body part {given!r}; choose one of elbow, finger"):
        predictor(phantom_files, body_part=given)


def test_specialized_models(folders, phantom_files, tmp_path):
    folder, model = folders["mura_specialized"], make_model("mura_specialized")
    predictor = StudyPredictor.from_pretrained(folder, device="cpu")
    for part in ("wrist", "elbow"):
        study = predictor(phantom_files, body_part=part, heatmaps=False)
        with torch.no_grad():
            expected = model.members[part](_pixel_values(folder, phantom_files)[None]).study_logits[0, 1].exp()
        assert study.probability == pytest.approx(float(expected), abs=1e-5)
        assert (study.body_part, study.body_part_given, study.body_part_probabilities) == (part, True, {})
    model = CLASSIFIERS["mura_specialized"].from_members({"wrist": make_model()})
    predictor = StudyPredictor.from_pretrained(make_checkpoint(tmp_path / "wrist", model), device="cpu")
    with pytest.raises(ValueError, match="no router that predicts the body part: give body_part"):
        predictor(phantom_files)
    with pytest.raises(ValueError, match="no model for body part hand; it has wrist"):
        predictor(phantom_files, body_part="hand")
    assert 0 < predictor(phantom_files, body_part="wrist").probability < 1
    router = make_model(body_part_head=True)
    with torch.no_grad():
        router.body_part_classifier.bias.fill_(float("nan"))
    model = CLASSIFIERS["mura_specialized"].from_members({"wrist": make_model()}, router=router)
    with pytest.raises(CheckpointError, match="weights are damaged"):
        StudyPredictor.from_pretrained(make_checkpoint(tmp_path / "damaged", model), device="cpu")


def test_phantom_checkpoints_always_warn(predictor, phantom_files, tmp_path):
    assert PHANTOM_WARNING not in predictor(phantom_files).warnings
    synthetic = StudyPredictor.from_pretrained(make_checkpoint(tmp_path / "synthetic", trained_on_phantoms=True))
    assert PHANTOM_WARNING in synthetic(phantom_files).warnings


def test_predict_many_streams(predictor, phantom_files):
    requested = []

    def studies():
        for file in phantom_files:
            requested.append(file)
            yield [file]

    stream = predictor.predict_many(studies(), heatmaps=False)
    assert next(stream).probability == predictor([phantom_files[0]]).probability
    assert len(requested) == 1
    assert len(list(stream)) == len(phantom_files) - 1


def test_a_view_is_flagged_if_a_study_of_it_alone_would_be(checkpoint, phantom_files):
    predictor = StudyPredictor.from_pretrained(checkpoint, device="cpu")
    config = predictor.model.config
    plain = predictor(phantom_files[:1], heatmaps=False)
    assert not plain.calibrated
    for slope, intercept in ((2.0, 3.0), (2.0, -3.0)):
        config.study_slope, config.study_intercept = slope, intercept
        study = predictor(phantom_files[:1])
        view = study.views[0]
        assert study.calibrated
        assert view.probability == pytest.approx(plain.probability)
        assert view.single_view_probability == pytest.approx(study.probability, abs=1e-6)
        assert view.flagged == (study.label == "abnormal") == (intercept > 0)
        assert (view.box is not None) == view.flagged


def test_sixteen_threads_share_a_predictor(phantom_files, tmp_path):
    """An ensemble with a member on tokens, whose explanations use hooks."""
    model = CLASSIFIERS["mura_ensemble"].from_members({"cnn": make_model(), "vit": make_model(**TOKENS)})
    predictor = StudyPredictor.from_pretrained(make_checkpoint(tmp_path / "both", model), device="cpu")
    check_threads(predictor, phantom_files)


def test_errors_name_the_view(predictor, phantom_files):
    with pytest.raises(RadiographError, match="view 2 is empty"):
        predictor([phantom_files[0], b""])
    with pytest.raises(RadiographError, match="view 1: float pixels"):
        predictor([np.full((40, 40), 7.0)])
    for pixels in (np.zeros((0, 5)), np.full((40, 40), 2.0), np.ones((40, 40))):
        with pytest.raises(RadiographError, match="view 1"):
            predictor([Radiograph(pixels.astype(np.float32), 8, "array")])
    cut, closed = Image.open(BytesIO(Path(phantom_files[0]).read_bytes()[:-3000])), Image.open(phantom_files[0])
    closed.close()
    for image, message in (
        (cut, r" cannot be decoded \(.+\); open it again"),
        (closed, ": Operation on closed image"),
    ):
        with pytest.raises(RadiographError, match=f"view 2{message}"):
            predictor([phantom_files[0], image])


def test_what_is_not_a_list_of_views(predictor, phantom_files, tmp_path):
    with open(phantom_files[0], "rb") as opened, NamedTemporaryFile() as other:
        files = opened, other, BytesIO(Path(phantom_files[0]).read_bytes())  # iterating over them would give lines
        for views in (np.zeros((3, 64, 64)), torch.zeros(3, 64, 64), {"view": "study.png"}, 7, None, *files):
            with pytest.raises(ValueError, match="as a list"):
                predictor(views)
    dicom, paths = Dataset(), phantom_files
    dicom.Rows = 64
    for nested in ([paths], [tuple(paths)], (iter(paths),), [{"path": "a.png"}], [None], [7], [dicom], dicom, files):
        with pytest.raises(ValueError, match=r"view 1 is a \w+, but a view is .* use predict_many"):
            predictor(nested)
    with pytest.raises(ValueError, match="at least one"):
        predictor([])
    with pytest.raises(ValueError, match="1 views but 2 names"):
        predictor(phantom_files[:1], names=["a", "b"])
    for url in ("https://host/wrist.png", "s3://bucket/wrist.png", "data:image/png;base64,AAAA", "FILE:///wrist.png"):
        with pytest.raises(RadiographError, match="is a URL, and nothing is downloaded"):
            predictor([phantom_files[0], url])
    (tmp_path / "study").mkdir()
    for folder in (tmp_path / "study", str(tmp_path / "study"), f"{tmp_path}/study/"):
        for views in (folder, [folder]):
            with pytest.raises(RadiographError, match="study is a folder, not a view"):
                predictor(views)


def test_refused_checkpoints_and_options(checkpoint, tmp_path):
    with pytest.raises(CheckpointError, match="neither a folder on this machine nor a Hub name"):
        StudyPredictor.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        StudyPredictor.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no_such_kind"}))
    with pytest.raises(CheckpointError, match=r"cannot be loaded.*no_such_kind"):
        StudyPredictor.from_pretrained(tmp_path)
    assert StudyPredictor.from_pretrained(checkpoint, abnormal_label="Abnormal").checkpoint.startswith("folder")
    with pytest.raises(CheckpointError, match="leave abnormal_label “normal” out"):
        StudyPredictor.from_pretrained(checkpoint, abnormal_label="normal")
    with pytest.raises(ValueError, match="device 'warp' cannot be used"):
        StudyPredictor.from_pretrained(checkpoint, device="warp")
    with pytest.raises(ValueError, match="floating point"):
        StudyPredictor.from_pretrained(checkpoint, dtype="float7")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("config.json", {"temperature": "1"}),
        ("config.json", {"backbone_kwargs": {"no_such_thing": 1}}),
        ("preprocessor_config.json", {"image_mean": [0.5, 0.5], "image_std": [0.5, 0.5]}),
        ("preprocessor_config.json", {"size": {"shortest_edge": 64}}),
        ("model.safetensors", None),
    ],
)
def test_damaged_checkpoints(name, changes, checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "damaged")
    file = folder / name
    if changes is None:
        tensors = load_file(file) | {"classifier.bias": torch.full((2,), float("nan"))}
        save_file(tensors, file, metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match="NaN"):
            StudyPredictor.from_pretrained(folder)
        file.write_bytes(file.read_bytes()[:5000])
    else:
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(CheckpointError):
        StudyPredictor.from_pretrained(folder)


def test_the_default_checkpoint(monkeypatch, checkpoint):
    monkeypatch.delenv("MURA_CHECKPOINT", raising=False)
    assert StudyPredictor.from_pretrained().checkpoint == f"bundled: {DEFAULT}"
    monkeypatch.setenv("MURA_CHECKPOINT", str(checkpoint))
    assert StudyPredictor.from_pretrained().checkpoint == f"folder: {checkpoint.name}"


@pytest.fixture(scope="module")
def indexed(checkpoint, phantom_tree, tmp_path_factory):
    """A checkpoint with a detector, records, and an index of its training studies."""
    folder = shutil.copytree(checkpoint, tmp_path_factory.mktemp("indexed") / "checkpoint")
    make_detector(False, weights=digest_weights(folder)).save(folder)
    for name in ("README.md", "training.json"):
        (folder / name).write_text("{}")
    shutil.copy(BUNDLED["mura-phantom"] / "evaluation.json", folder)
    predictor = StudyPredictor.from_pretrained(folder, device="cpu")
    write_golden(folder, predictor.model, predictor.processor, np.eye(64, dtype=np.uint8), 0)
    rows, data = load_mura(phantom_tree)["train"], {"key": "phantoms"}
    RetrievalIndex.build(rows, predictor.model, predictor.processor, data=data, progress=False).save(
        folder / "retrieval"
    )
    return folder


def _check_equal(first, second, files):
    one, other = first(files), second(files)
    names = set(vars(one)) - {"views", "codes", "checkpoint"}
    assert {name: getattr(one, name) for name in names} == {name: getattr(other, name) for name in names}
    assert [view.to_dict() for view in one.views] == [view.to_dict() for view in other.views]
    for view, again in zip(one.views, other.views, strict=True):
        np.testing.assert_array_equal(view.heatmap, again.heatmap)


class TestSave:
    @pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
    @pytest.mark.parametrize("family", list(CLASSIFIERS))
    def test_every_family_gives_equal_answers_again(self, folders, family, dtype, phantom_files, tmp_path):
        predictor = StudyPredictor.from_pretrained(folders[family], device="cpu", dtype=dtype)
        predictor.model.config.study_slope, predictor.model.config.operating_points = 0.5, {"mine": 0.3}
        for _ in range(2):  # a checkpoint is replaced
            predictor.save_pretrained(tmp_path / "saved")
        _check_equal(predictor, StudyPredictor.from_pretrained(tmp_path / "saved", device="cpu"), phantom_files)
        assert digest_weights(tmp_path / "saved") == digest_weights(folders[family])

    @pytest.mark.parametrize("kind", ["vit", "resnet"])
    @pytest.mark.parametrize("abnormal", ["LABEL_0", "LABEL_1"])
    def test_external_checkpoints_keep_their_abnormal_label(self, kind, abnormal, phantom_files, tmp_path):
        folder = save_external(tmp_path / kind, kind, labels=("LABEL_0", "LABEL_1"))
        predictor = StudyPredictor.from_pretrained(folder, device="cpu", abnormal_label=abnormal)
        predictor.save_pretrained(tmp_path / "saved")
        _check_equal(predictor, StudyPredictor.from_pretrained(tmp_path / "saved", device="cpu"), phantom_files)

    def test_detector_index_and_records_are_kept(self, indexed, phantom_files, tmp_path):
        predictor = StudyPredictor.from_pretrained(indexed, device="cpu")
        predictor.save_pretrained(tmp_path / "saved")
        again = StudyPredictor.from_pretrained(tmp_path / "saved", device="cpu")
        _check_equal(predictor, again, phantom_files)
        assert again(phantom_files).band == "out_of_distribution"
        assert [one.row for one in again.similar(phantom_files)] == [
            one.row for one in predictor.similar(phantom_files)
        ]
        for file in indexed.rglob("*.*"):
            if file.name != "config.json":
                assert file.read_bytes() == (tmp_path / "saved" / file.relative_to(indexed)).read_bytes()

    def test_a_predictor_made_in_memory(self, phantom_files, tmp_path):
        model, processor = make_model(), MuraImageProcessor(size={"height": 64, "width": 64})
        model = model.to(memory_format=torch.channels_last)  # as a loaded one, whose rounding differs
        predictor = StudyPredictor(model, processor, "mine", ood_detector=make_detector(False, width=32))
        predictor.save_pretrained(tmp_path)
        _check_equal(predictor, StudyPredictor.from_pretrained(tmp_path, device="cpu"), phantom_files)

    @pytest.mark.parametrize("save", ["model of the predictor", "model", "weights and config"])
    def test_a_model_without_its_detector_warns(self, indexed, phantom_files, tmp_path, save):
        predictor = StudyPredictor.from_pretrained(indexed, device="cpu")
        if save == "weights and config":
            for name in ("model.safetensors", "config.json"):
                shutil.copy(indexed / name, tmp_path)
        else:
            model = predictor.model if "of" in save else AutoModelForImageClassification.from_pretrained(indexed)
            model.save_pretrained(tmp_path)
        predictor.processor.save_pretrained(tmp_path)
        again = StudyPredictor.from_pretrained(tmp_path, device="cpu")
        assert again(phantom_files).warnings.count(DETECTOR_IS_MISSING) == 1
        in_memory = StudyPredictor(again.model, again.processor, "mine")
        assert DETECTOR_IS_MISSING in in_memory(phantom_files, heatmaps=False).warnings
        assert DETECTOR_IS_MISSING not in predictor(phantom_files, heatmaps=False).warnings

    def test_other_weights_leave_the_records_behind(self, indexed, phantom_files, tmp_path):
        predictor = StudyPredictor.from_pretrained(indexed, device="cpu")
        with torch.no_grad():
            predictor.model.classifier.bias += 1e-3
        with pytest.warns(UserWarning, match="weights are no longer those of folder: checkpoint, so its out-of-dist"):
            predictor.save_pretrained(tmp_path)
        assert {file.name for file in tmp_path.iterdir()} == {
            "config.json", "model.safetensors", "preprocessor_config.json"
        }  # fmt: skip
        again = StudyPredictor.from_pretrained(tmp_path, device="cpu")(phantom_files)
        assert again.probability == predictor(phantom_files).probability
        assert DETECTOR_IS_MISSING in again.warnings

    def test_refused_folders(self, indexed, tmp_path):
        predictor = StudyPredictor.from_pretrained(indexed, device="cpu")
        with pytest.raises(CheckpointError, match="holds the checkpoint that is to be saved"):
            predictor.save_pretrained(indexed)
        (tmp_path / "README.md").write_text("My project")
        with pytest.raises(CheckpointError, match="is not empty and holds no checkpoint"):
            predictor.save_pretrained(tmp_path)
        assert [file.name for file in tmp_path.iterdir()] == ["README.md"]

    def test_push(self, indexed, monkeypatch):
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        predictor = StudyPredictor.from_pretrained(indexed, device="cpu")
        with HubServer() as hub:
            monkeypatch.setattr(predictor_module, "HfApi", partial(HfApi, endpoint=hub.url))
            expected = {f"retrieval/{name}" for name in INDEX} | {file.name for file in indexed.glob("*.*")}
            for data in ({"key": "phantoms"}, {"key": "mura"}, None):  # the index of MURA stays here
                monkeypatch.setattr(predictor.index, "record", replace(predictor.index.record, data=data))
                url = predictor.push_to_hub("tester/mine", token=TOKEN)
                assert url.startswith(f"{hub.url}/tester/mine/commit/")
                files = hub.files("models/tester/mine")
                assert set(files) - {".gitattributes"} == expected
                assert files["in_distribution.safetensors"] == (indexed / "in_distribution.safetensors").read_bytes()
                expected = {name for name in expected if "/" not in name}
            assert hub.repos["models/tester/mine"].private
            predictor.push_to_hub("tester/mine", token=TOKEN, revision="next")
            assert set(hub.repos["models/tester/mine"].branches) == {"main", "next"}
            with pytest.raises(HubError, match=r"tester/mine was not pushed: .*Check the name, the network"):
                predictor.push_to_hub("tester/mine", token="hf_wrong")
            predictor.push_to_hub("tester/open", token=TOKEN, private=False)
            with pytest.raises(HubError, match="tester/open is public"):
                predictor.push_to_hub("tester/open", token=TOKEN)


class TestSimilar:
    def test_a_prediction_is_searched_without_another_forward_pass(self, indexed, phantom_files, monkeypatch):
        predictor = StudyPredictor.from_pretrained(indexed, device="cpu")
        study = predictor(phantom_files)
        monkeypatch.setattr(predictor, "_run", None)
        found = predictor.similar(study, k=3)
        monkeypatch.undo()
        assert found[0].distance == pytest.approx(0, abs=1e-3)
        assert found[0].study_id in phantom_files[0]
        assert len({one.study_id for one in found}) == 3
        for again in (predictor.similar(phantom_files, k=3), predictor.index.search(phantom_files, k=3)):
            assert [one.row for one in again] == [one.row for one in found]
        for part in ("hand", "XR_HAND"):
            assert {one.body_part for one in predictor.similar(study, body_part=part)} == {"hand"}

    def test_a_missing_index_and_one_of_other_weights(self, indexed, checkpoint, phantom_files, tmp_path):
        predictor = StudyPredictor.from_pretrained(checkpoint, device="cpu")
        assert predictor.index is None
        with pytest.raises(CheckpointError, match=r"has no index of studies; build one with scripts/build_index\.py"):
            predictor.similar(phantom_files)
        folder = make_checkpoint(tmp_path / "other", make_model())
        shutil.copytree(indexed / "retrieval", folder / "retrieval")
        predictor = StudyPredictor.from_pretrained(folder, device="cpu")
        assert predictor(phantom_files).codes.shape == (len(phantom_files), 32)
        with pytest.raises(CheckpointError, match="made with other weights"):
            predictor.similar(phantom_files)
