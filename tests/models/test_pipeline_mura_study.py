"""The study pipeline, compared with `StudyPredictor` and with the model itself."""

import io
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets import Image as ImageColumn
from PIL import Image
from transformers import pipeline
from transformers.pipelines.pt_utils import KeyDataset

from mura_hf import MuraImageProcessor, StudyPredictor, read_radiograph
from mura_hf.common import BUNDLED
from mura_hf.models import BODY_PARTS, CLASSIFIERS
from tests.checkpoints import make_checkpoint, make_model

TASK = "mura-study-classification"


@pytest.fixture(scope="module")
def phantom():
    return pipeline(TASK, model=str(BUNDLED["mura-phantom"]), device="cpu")


@pytest.fixture(scope="module")
def studies(phantom_tree):
    """Studies of unequal numbers of views."""
    found = [sorted(map(str, study.glob("*.png"))) for study in sorted(phantom_tree.glob("train/*/*/*"))]
    by_count = {len(files): files for files in found}
    assert len(by_count) >= 2
    return [by_count[count] for count in sorted(by_count)][:2]


def probability(scores):
    return {row["label"]: row["score"] for row in scores}["abnormal"]


@pytest.mark.parametrize("name", BUNDLED)
def test_equals_the_predictor(name, studies):
    predictor, read = StudyPredictor.from_pretrained(name, device="cpu"), pipeline(TASK, model=str(BUNDLED[name]))
    assert probability(read(studies[:1])[0]) == pytest.approx(predictor(studies[0], heatmaps=False).probability)
    for files, full in zip(studies, read(studies, views=True), strict=True):
        expected, scores = predictor(files, heatmaps=False), [row["score"] for row in full["scores"]]
        assert full["probability"] == probability(full["scores"]) == pytest.approx(expected.probability, abs=1e-6)
        assert scores == sorted(scores, reverse=True)
        assert sum(scores) == pytest.approx(1)
        fields = (
            expected.label,
            expected.threshold,
            expected.operating_point,
            expected.body_part,
            expected.probability_band,
        )
        assert tuple(full[name] for name in ("label", "threshold", "operating_point", "body_part", "band")) == fields
        assert len(full["views"]) == len(files)
        for view, one in zip(full["views"], expected.views, strict=True):
            assert view["probability"] == pytest.approx(one.probability, abs=1e-6)
            assert view["weight"] == pytest.approx(one.weight, abs=1e-6)


@pytest.mark.parametrize("family", CLASSIFIERS)
def test_every_family_in_batches_of_studies_of_unequal_size(family, studies, tmp_path):
    model = make_model(family, study_slope=1.3, study_intercept=-0.2)
    read = pipeline(TASK, model=str(make_checkpoint(tmp_path, model)), device="cpu")
    processor = MuraImageProcessor.from_pretrained(tmp_path)
    one_by_one, batched = read(studies, views=True), read((one for one in studies), views=True, batch_size=3)
    for files, first, second in zip(studies, one_by_one, batched, strict=True):
        pixels = processor([Image.open(file) for file in files], return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            output = model(pixels[None])
        expected = float(output.study_logits.double().softmax(-1)[0, 1])
        for result in (first, second):
            assert result["probability"] == pytest.approx(expected, abs=1e-5)
            weights = [view["weight"] for view in result["views"]]
            assert weights == pytest.approx(output.view_weights[0].tolist(), abs=1e-5)


class Films(torch.utils.data.Dataset):
    """The files as a dataset of images."""

    def __init__(self, files):
        self.files = files

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return Image.open(self.files[index])


@pytest.mark.parametrize("family", CLASSIFIERS)
def test_every_family_in_the_plain_pipeline(family, studies, tmp_path):
    model, files = make_model(family), [file for study in studies for file in study] * 2
    classify = pipeline("image-classification", model=str(make_checkpoint(tmp_path, model)), device="cpu")
    pixels = classify.image_processor([Image.open(file) for file in files], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = model(pixels).logits.softmax(-1)[:, 1].tolist()
    table = Dataset.from_dict({"image": files}).cast_column("image", ImageColumn())
    images = [Image.open(file) for file in files]
    for size in (1, 3, 50):
        for inputs in (files, images, Films(files), KeyDataset(table, "image"), (one for one in images)):
            found = [probability(scores) for scores in classify(inputs, batch_size=size)]
            assert found == pytest.approx(expected, abs=1e-5)


def test_what_counts_as_a_study(phantom, studies):
    files = studies[-1]
    whole = phantom([files])
    assert isinstance(whole[0], list)
    assert phantom(tuple(files)) == whole[0]  # a tuple is one study, without a list around
    apart = phantom(files)  # a list of bare views is as many studies
    assert len(apart) == len(files)
    assert apart[0] == phantom([[files[0]]])[0] == phantom(files[0])
    assert phantom([]) == []
    with pytest.raises(ValueError, match="a study is empty"):
        phantom([[]])


def test_forms_of_a_view(phantom, studies):
    file = studies[0][0]
    image = Image.open(file)
    views = [image, np.asarray(image), torch.from_numpy(np.array(image)), Path(file).read_bytes()]
    views.append(read_radiograph(file).pixels)
    expected = phantom(file)
    for view in views:
        assert phantom([[view]])[0] == expected


def test_urls(phantom, studies):
    file = Path(studies[0][0])
    handler = partial(SimpleHTTPRequestHandler, directory=str(file.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            assert phantom([[f"{place}/{file.name}"]])[0] == phantom(str(file))
            with pytest.raises(ValueError, match=r"none\.png: it cannot be read: HTTP Error 404"):
                phantom([[f"{place}/none.png"]])
        finally:
            server.shutdown()


def _png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def test_16_bits_are_rejected(phantom, tmp_path):
    deep = np.linspace(0, 65535, 4096).astype(np.uint16).reshape(64, 64)
    file = tmp_path / "deep.png"
    file.write_bytes(_png(deep))
    for view, name in ((str(file), "deep.png"), (Image.open(file), "view 2")):
        with pytest.raises(ValueError, match=rf"{name}.*mura_hf\.read_radiograph"):
            phantom([[np.zeros((8, 8), np.uint8), view]])
    assert phantom([[read_radiograph(file).pixels]])


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"DICM" * 64, "neither PNG nor JPEG; for DICOM"), (None, "cannot be read"), ("cut", "cannot be decoded")],
)
def test_unreadable_files_are_named(phantom, tmp_path, content, said):
    file = tmp_path / "view.png"
    if content == "cut":
        rng = np.random.default_rng(0)
        content = _png(rng.integers(0, 255, (64, 64), dtype=np.uint8))[:2000]
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"view\.png.*{said}"):
        phantom([[file]])


def test_a_specialized_model_needs_the_body_part(studies, tmp_path):
    members = {"wrist": make_model(seed=1), "elbow": make_model(seed=2)}
    model = CLASSIFIERS["mura_specialized"].from_members(members)
    read = pipeline(TASK, model=str(make_checkpoint(tmp_path, model)), device="cpu")
    with pytest.raises(ValueError, match="give body_part"):
        read(studies)
    predictor = StudyPredictor.from_pretrained(tmp_path, device="cpu")
    for part in members:
        for files, answer in zip(studies, read(studies, body_part=part, views=True, batch_size=2), strict=True):
            assert answer["body_part"] == part
            expected = predictor(files, body_part=part, heatmaps=False)
            assert answer["probability"] == pytest.approx(expected.probability, abs=1e-6)
    with pytest.raises(ValueError, match="no model for body part hand"):
        read(studies, body_part="hand")


def test_options(phantom, studies):
    points = phantom.model.config.operating_points
    for name, threshold in points.items():
        answer = phantom(studies[:1], views=True, operating_point=name)[0]
        assert (answer["operating_point"], answer["threshold"]) == (name, threshold)
        assert (answer["label"] == "abnormal") == (answer["probability"] > threshold)
    with pytest.raises(ValueError, match="unknown operating point"):
        phantom(studies, operating_point="luck")
    assert phantom(studies[:1], views=True, body_part="XR_WRIST")[0]["body_part"] == "wrist"
    with pytest.raises(ValueError, match=f"unknown body part 'hip'; choose one of {', '.join(BODY_PARTS)}"):
        phantom(studies, body_part="hip")
    with pytest.raises(TypeError, match="top_k"):
        phantom(studies, top_k=1)


def test_damaged_weights_are_an_error(studies, tmp_path):
    model = make_model()
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.fill_(float("nan"))
    read = pipeline(TASK, model=str(make_checkpoint(tmp_path, model)), device="cpu")
    with pytest.raises(ValueError, match="weights are damaged"):
        read(studies)
