import json

import numpy as np
import pytest
import torch
import transformers
from captum.attr import LayerGradCam
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import pipeline

from mura_hf import CheckpointError, StudyPredictor, read_radiograph
from mura_hf.inference import EXTERNAL_WARNING
from mura_hf.inference.external_model import find_abnormal, sounds_abnormal
from mura_hf.inference.inputs import read_view
from tests.inference.external import LABELS, SIDE, make_external, save_external, save_timm
from tests.inference.threads import check_threads

TIMM = {
    "resnet10t": {"channels": [8, 16, 24, 32]},
    "vit_tiny_patch16_224": {"img_size": SIDE, "depth": 3, "embed_dim": 48},
    "swin_tiny_patch4_window7_224": {"img_size": SIDE, "embed_dim": 24, "depths": [1, 1, 1, 1]},
}


@pytest.fixture(scope="module")
def externals(tmp_path_factory):
    """Kind -> folder of its checkpoint."""
    place = tmp_path_factory.mktemp("externals")
    folders = {kind: save_external(place / kind, kind) for kind in ("vit", "deit", "swin", "resnet", "convnext")}
    for architecture, options in TIMM.items():
        save_timm(place / architecture, architecture, **options)
        folders[architecture] = place / architecture
    return folders


@pytest.fixture(scope="module")
def picture():
    """An 8-bit film, wider than high, with a bright spot in the middle."""
    levels = np.random.default_rng(0).integers(30, 90, (100, 130)).astype(np.uint8)
    levels[40:60, 55:80] = 250
    return Image.fromarray(levels)


@pytest.mark.parametrize("kind", ["vit", "deit", "swin", "resnet", "convnext", *TIMM])
def test_predictions_are_those_of_the_transformers_pipeline(externals, phantom_files, picture, kind):
    predictor = StudyPredictor.from_pretrained(externals[kind], device="cpu")
    scores = pipeline("image-classification", model=str(externals[kind]), device="cpu")
    films = [picture, *(read_radiograph(file).to_image() for file in phantom_files)]
    expected = [
        next(one["score"] for one in scores(film.convert("RGB")) if one["label"] == "positive") for film in films
    ]
    assert np.ptp(expected) > 1e-4
    study = predictor([picture, *phantom_files])
    np.testing.assert_allclose([view.probability for view in study.views], expected, atol=1e-5)
    assert study.probability == pytest.approx(np.mean(expected), abs=1e-5)
    assert study.label == ("abnormal" if np.mean(expected) > 0.5 else "normal")
    assert (study.pooling, study.calibrated, study.threshold, study.body_part) == ("mean", False, 0.5, None)
    assert study.warnings == [EXTERNAL_WARNING]
    assert "“positive”" in study.positive_class_description
    for view, film in zip(study.views, films, strict=True):
        assert view.heatmap.shape == (film.height, film.width)
        assert view.heatmap.dtype == np.float32
        assert view.heatmap.min() >= 0
    # A map without any positive evidence is all zeros; of some views there is some.
    assert any(view.heatmap.max() == 1 and view.heatmap.std() > 0.02 for view in study.views)
    json.loads(study.to_json())


def _inputs(folder, picture):
    """The checkpoint's own model, and what it is fed of the picture."""
    predictor = StudyPredictor.from_pretrained(folder, device="cpu")
    model = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    return model, predictor.pixel_values([read_view(picture, "view 1", predictor.processor)])


def _check_heatmap(folder, picture, small):
    """A map `[h, w]` of the difference positive - negative, computed elsewhere, is the heatmap of the predictor; of an
    untrained network it may have nothing positive, and then the other label is explained.
    """
    label = LABELS[1] if (small > 0).any() else LABELS[0]
    small = (small if label == LABELS[1] else -small).detach().clamp_min(0)
    predictor = StudyPredictor.from_pretrained(folder, device="cpu", abnormal_label=label)
    heatmap = predictor([picture]).views[0].heatmap
    enlarged = (
        torch.nn.functional.interpolate(small[None, None], (SIDE, SIDE), mode="bicubic")[0, 0].clamp_min(0).numpy()
    )
    restored = predictor.processor.restore_map(enlarged, *heatmap.shape)
    assert restored.max() > 0
    np.testing.assert_allclose(heatmap, restored / restored.max(), atol=1e-5)


def test_the_heatmap_of_a_resnet_is_captums(externals, picture):
    model, pixel_values = _inputs(externals["resnet"], picture)

    def difference(pixels):
        logits = model(pixels).logits
        return logits[:, 1] - logits[:, 0]

    small = LayerGradCam(difference, model.resnet.encoder.stages[-1]).attribute(pixel_values)[0, 0]
    _check_heatmap(externals["resnet"], picture, small)


def test_the_heatmap_of_a_swin_is_its_class_activation_map(externals, picture):
    """With a mean over normed tokens and one linear layer, Grad-CAM is known in closed form."""
    model, pixel_values = _inputs(externals["swin"], picture)
    with torch.no_grad():
        tokens = model.swin(pixel_values).last_hidden_state[0]
        small = (tokens @ (model.classifier.weight[1] - model.classifier.weight[0])).view(4, 4)
    _check_heatmap(externals["swin"], picture, small)


def test_the_heatmap_of_a_vit_is_grad_cam_in_front_of_its_last_attention(externals, picture):
    model, pixel_values = _inputs(externals["vit"], picture)
    held = []
    model.vit.layers[-1].layernorm_before.register_forward_hook(lambda module, inputs, output: held.append(output))
    logits = model(pixel_values).logits[0]
    (gradient,) = torch.autograd.grad(logits[1] - logits[0], held[0])
    small = (held[0][0, 1:] @ gradient[0, 1:].mean(0)).view(4, 4)
    _check_heatmap(externals["vit"], picture, small)


def test_heatmaps_stay_inside_what_the_model_saw(externals, picture):
    heatmap = StudyPredictor.from_pretrained(externals["convnext"])([picture]).views[0].heatmap
    assert heatmap[50, 60:70].any()
    assert not heatmap[:, :20].any()  # cut off at the sides
    assert not heatmap[:, 110:].any()


def test_the_order_of_the_labels_does_not_matter(tmp_path, phantom_files):
    folder = save_external(tmp_path / "one", "resnet")
    turned = save_external(tmp_path / "two", "resnet", labels=LABELS[::-1])
    weights = load_file(turned / "model.safetensors")
    for part in ("weight", "bias"):
        weights[f"classifier.1.{part}"] = weights[f"classifier.1.{part}"].flip(0)
    save_file(weights, turned / "model.safetensors", metadata={"format": "pt"})
    one, two = (StudyPredictor.from_pretrained(place, device="cpu")(phantom_files) for place in (folder, turned))
    assert two.probability == pytest.approx(one.probability, abs=1e-6)
    assert abs(one.probability - 0.5) > 1e-3
    for first, second in zip(one.views, two.views, strict=True):
        np.testing.assert_allclose(second.heatmap, first.heatmap, atol=1e-4)


def test_unclear_labels_need_abnormal_label(tmp_path, phantom_files):
    folder = save_external(tmp_path / "vit", "vit", labels=("LABEL_0", "LABEL_1"))
    with pytest.raises(CheckpointError, match=r"“LABEL_0” and “LABEL_1”: which of them means abnormal\?"):
        StudyPredictor.from_pretrained(folder)
    chances = [
        StudyPredictor.from_pretrained(folder, abnormal_label=label)(phantom_files[:1]).probability
        for label in ("LABEL_0", "LABEL_1")
    ]
    assert sum(chances) == pytest.approx(1, abs=1e-6)
    with pytest.raises(CheckpointError, match="no label “abnormal”"):
        StudyPredictor.from_pretrained(folder, abnormal_label="abnormal")


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_sixteen_threads_share_a_predictor(externals, phantom_files, kind):
    check_threads(StudyPredictor.from_pretrained(externals[kind], device="cpu"), phantom_files)


def test_a_network_without_a_suitable_layer_has_no_heatmaps(tmp_path, phantom_files):
    study = StudyPredictor.from_pretrained(save_external(tmp_path / "hiera", "hiera"))(phantom_files)
    assert all(view.heatmap is None for view in study.views)
    assert any(warning.startswith("No heatmap: a network of type hiera") for warning in study.warnings)
    assert any("the method occlusion needs none" in warning for warning in study.warnings)


def test_a_processor_with_unknown_geometry_has_no_heatmaps(externals, phantom_files, monkeypatch):
    predictor = StudyPredictor.from_pretrained(externals["resnet"], device="cpu")
    inner = predictor.processor.processor

    def mirrored(images, return_tensors):
        return {"pixel_values": inner(images=images, return_tensors=return_tensors)["pixel_values"].flip(-1)}

    monkeypatch.setattr(predictor.processor, "processor", mirrored)
    study = predictor(phantom_files)
    assert all(view.heatmap is None for view in study.views)
    assert any("No heatmap: the part of an image that the image processor" in warning for warning in study.warnings)


def test_half_precision(externals, phantom_files):
    whole = StudyPredictor.from_pretrained(externals["resnet"], device="cpu")(phantom_files)
    half = StudyPredictor.from_pretrained(externals["resnet"], device="cpu", dtype=torch.bfloat16)(phantom_files)
    assert half.probability == pytest.approx(whole.probability, abs=0.02)
    assert half.views[0].heatmap.shape == whole.views[0].heatmap.shape


def test_inference_mode(externals, phantom_files):
    predictor = StudyPredictor.from_pretrained(externals["vit"], device="cpu")
    expected = predictor(phantom_files)
    with torch.inference_mode():
        study = predictor(phantom_files)
    np.testing.assert_allclose(study.views[0].heatmap, expected.views[0].heatmap, atol=1e-6)


def test_timm_through_transformers_wrapper(tmp_path, picture):
    """As transformers saves such a model, which is not how timm does."""
    model = save_timm(tmp_path / "timm", "resnet10t", **TIMM["resnet10t"])
    wrapped = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "timm")
    wrapped.save_pretrained(tmp_path / "wrapped")
    one, two = (
        StudyPredictor.from_pretrained(tmp_path / name, device="cpu")([picture]) for name in ("timm", "wrapped")
    )
    assert one.probability == two.probability
    assert torch.equal(wrapped.timm_model.conv1[0].weight, model.conv1[0].weight)


def test_a_model_of_one_channel(tmp_path, picture):
    folder = save_external(tmp_path / "gray", "vit", num_channels=1)
    square = {"height": SIDE, "width": SIDE}
    transformers.ViTImageProcessor(size=square, image_mean=[0.5], image_std=[0.5]).save_pretrained(folder)
    study = StudyPredictor.from_pretrained(folder, device="cpu")([picture])
    assert 0 < study.probability < 1
    assert study.views[0].heatmap is not None


class TestErrors:
    @pytest.mark.parametrize(
        ("labels", "fields", "words"),
        [
            (("score",), {}, "has one output.*regression"),
            (("normal", "fracture", "metal"), {}, "with 3 labels .*“normal”, “fracture”, “metal”.* has two"),
            (LABELS, {"problem_type": "multi_label_classification"}, "do not exclude each other"),
        ],
    )
    def test_not_a_classifier_with_two_classes(self, tmp_path, labels, fields, words):
        folder = save_external(tmp_path / "vit", "vit", labels, **fields)
        with pytest.raises(CheckpointError, match=words):
            StudyPredictor.from_pretrained(folder)

    def test_pickled_weights_are_never_read(self, externals, tmp_path):
        folder, ran = tmp_path / "pickled", tmp_path / "ran"
        make_external("resnet").config.save_pretrained(folder)
        (folder / "preprocessor_config.json").write_text(
            (externals["resnet"] / "preprocessor_config.json").read_text()
        )
        torch.save({"weight": _Runs(ran)}, folder / "pytorch_model.bin")
        with pytest.raises(CheckpointError, match=r"no model\.safetensors.*Pickled weights"):
            StudyPredictor.from_pretrained(folder)
        assert not ran.exists()

    def test_code_of_a_checkpoint_is_never_run(self, tmp_path):
        ran = tmp_path / "ran"
        (tmp_path / "odd.py").write_text(f"open({str(ran)!r}, 'w')\nclass OddConfig: pass\n")
        (tmp_path / "config.json").write_text(
            json.dumps({"model_type": "odd", "auto_map": {"AutoConfig": "odd.OddConfig"}})
        )
        with pytest.raises(CheckpointError, match="needs code of its own, which is never run"):
            StudyPredictor.from_pretrained(tmp_path)
        assert not ran.exists()

    def test_a_base_model_without_a_trained_head(self, tmp_path):
        folder = save_external(tmp_path / "base", "vit")
        make_external("vit").vit.save_pretrained(folder)
        with pytest.raises(CheckpointError, match=r"no weights for classifier\.bias, classifier\.weight"):
            StudyPredictor.from_pretrained(folder)

    def test_without_a_processor(self, tmp_path):
        make_external("vit").save_pretrained(tmp_path)
        with pytest.raises(CheckpointError, match="has no image processor"):
            StudyPredictor.from_pretrained(tmp_path)

    @pytest.mark.parametrize(
        "changed", [{"model_args": {"checkpoint_path": "weights.pth"}}, {"architecture": "hf-hub:user/model"}]
    )
    def test_a_timm_config_may_not_point_elsewhere(self, tmp_path, changed):
        save_timm(tmp_path, "resnet10t", **TIMM["resnet10t"])
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**config, **changed}))
        with pytest.raises(CheckpointError, match=r"in its config\.json"):
            StudyPredictor.from_pretrained(tmp_path)

    def test_damaged_weights(self, tmp_path):
        folder = save_external(tmp_path / "vit", "vit")
        weights = load_file(folder / "model.safetensors")
        weights["classifier.bias"] = torch.full((2,), float("nan"))
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match="NaN or infinity"):
            StudyPredictor.from_pretrained(folder)

    def test_a_processor_of_another_size(self, tmp_path):
        folder = save_external(tmp_path / "vit", "vit")
        transformers.ViTImageProcessor(size={"height": 96, "width": 96}).save_pretrained(folder)
        with pytest.raises(CheckpointError, match="cannot be loaded"):
            StudyPredictor.from_pretrained(folder)


class _Runs:
    """Pickled, it leaves a file behind when it is read with its code."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return open, (str(self.file), "w")


ABNORMAL = (
    "abnormal", "ABNORMAL", "Positive", "XR_positive", "fractured", "Fracture", "bone fracture", "hasFracture",
    "broken", "Pathologic", "pathological", "diseased", "lesion", "finding", "injured", "yes", "fracture: yes",
    "unhealthy", "not normal", "non-normal", "1_abnormal", "non-displaced fracture",
)  # fmt: skip
NORMAL = (
    "normal", "Negative", "healthy", "intact", "no", "not fractured", "Not Fractured", "NotFractured", "non_fractured",
    "Non-Fractured", "nonfractured", "no_fracture", "No fracture", "nofracture", "unfractured", "unbroken",
    "no finding", "No acute finding", "without lesion", "fracture negative", "negative for fracture", "fracture free",
    "fracture absent", "fracture: no", "not abnormal", "non_diseased", "0_normal",
)  # fmt: skip
NEITHER = ("LABEL_0", "LABEL_1", "0", "wrist", "position", "note", "nodule", "", "normal or fractured", "grade 2")


@pytest.mark.parametrize(
    ("label", "sense"),
    [*((label, True) for label in ABNORMAL), *((label, False) for label in NORMAL), *((lb, None) for lb in NEITHER)],
)
def test_meaning_of_labels(label, sense):
    assert sounds_abnormal(label) is sense


@pytest.mark.parametrize("abnormal", ABNORMAL)
def test_every_pair_is_recognised_in_either_order(abnormal):
    for normal in NORMAL:
        assert find_abnormal([normal, abnormal], "user/model") == 1
        assert find_abnormal([abnormal, normal], "user/model") == 0


@pytest.mark.parametrize(
    "labels",
    [
        ("LABEL_0", "LABEL_1"),
        ("lesion", "fracture"),
        ("normal", "healthy"),
        ("benign", "malignant"),
        ("fractured", "wrist"),
        ("fracture", "hardware"),
        ("displaced fracture", "non-displaced fracture"),
        ("normal", "other"),
    ],
)
def test_unclear_labels_are_an_error_that_names_the_argument(labels):
    with pytest.raises(CheckpointError) as refused:
        find_abnormal(labels, "user/model")
    sentence = str(refused.value)
    assert all(f"“{label}”" in sentence for label in labels)
    assert "which of them means abnormal?" in sentence
    assert f"StudyPredictor.from_pretrained(..., abnormal_label={labels[1]!r})" in sentence
    for place, label in enumerate(labels):
        assert find_abnormal(labels, "user/model", label) == place
        assert find_abnormal(labels, "user/model", f" {label.upper()}") == place


def test_the_argument_takes_precedence():
    assert find_abnormal(["normal", "abnormal"], "user/model", "normal") == 0


def test_an_unknown_label():
    with pytest.raises(CheckpointError, match=r"no label “sick”.*“well” and “ill”"):
        find_abnormal(["well", "ill"], "user/model", "sick")


def test_labels_that_differ_in_case_only():
    assert find_abnormal(["a", "A"], "user/model", "A") == 1
    with pytest.raises(CheckpointError, match="which are the same"):
        find_abnormal(["a", "a"], "user/model", "a")
