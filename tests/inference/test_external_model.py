import json
import shutil
from contextlib import nullcontext
from itertools import product

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
from mura_hf.inference.external_model import ExternalProcessor, find_abnormal, sounds_abnormal
from mura_hf.inference.inputs import read_view
from tests.checkpoints import LeavesFile
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
    assert len(study.codes) == len(films)
    assert "“positive”" in study.positive_class_description
    for view, film in zip(study.views, films, strict=True):
        assert view.heatmap.shape == (film.height, film.width)
        assert view.heatmap.dtype == np.float32
        assert view.heatmap.min() >= 0
    # A map without any positive evidence is all zeros; of some views there is some.
    assert any(view.heatmap.max() == 1 and view.heatmap.std() > 0.02 for view in study.views)
    json.loads(study.to_json())


@pytest.mark.parametrize("kind", ["resnet", "swin", "vit"])
def test_heatmaps_are_grad_cam(externals, picture, kind):
    """Of a ResNet by Captum; of a Swin in closed form; of a ViT in front of its last attention."""
    predictor = StudyPredictor.from_pretrained(externals[kind], device="cpu")
    model = transformers.AutoModelForImageClassification.from_pretrained(externals[kind]).eval()
    pixel_values = predictor.pixel_values([read_view(picture, "view 1", predictor.processor)])
    if kind == "resnet":

        def difference(pixels):
            logits = model(pixels).logits
            return logits[:, 1] - logits[:, 0]

        small = LayerGradCam(difference, model.resnet.encoder.stages[-1]).attribute(pixel_values)[0, 0]
    elif kind == "swin":
        tokens = model.swin(pixel_values).last_hidden_state[0]
        small = (tokens @ (model.classifier.weight[1] - model.classifier.weight[0])).view(4, 4)
    else:
        held = []
        model.vit.layers[-1].layernorm_before.register_forward_hook(lambda *given: held.append(given[-1]))
        logits = model(pixel_values).logits[0]
        (gradient,) = torch.autograd.grad(logits[1] - logits[0], held[0])
        small = (held[0][0, 1:] @ gradient[0, 1:].mean(0)).view(4, 4)
    if not (small > 0).any():  # an untrained network may find nothing positive; then the other label is explained
        small = -small
        predictor = StudyPredictor.from_pretrained(externals[kind], device="cpu", abnormal_label=LABELS[0])
    small = small.detach().clamp_min(0)[None, None]
    enlarged = torch.nn.functional.interpolate(small, (SIDE, SIDE), mode="bicubic")[0, 0].clamp_min(0).numpy()
    heatmap = predictor([picture]).views[0].heatmap
    restored = predictor.processor.restore_map(enlarged, *heatmap.shape)
    assert restored.max() > 0
    np.testing.assert_allclose(heatmap, restored / restored.max(), atol=1e-5)


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


def test_sixteen_threads_share_a_predictor(externals, phantom_files):
    check_threads(StudyPredictor.from_pretrained(externals["vit"], device="cpu"), phantom_files)


def test_a_network_without_a_suitable_layer_has_no_heatmaps(tmp_path, phantom_files):
    study = StudyPredictor.from_pretrained(save_external(tmp_path / "hiera", "hiera"))(phantom_files)
    assert study.heatmap_method is None
    assert all(view.heatmap is None for view in study.views)
    assert any(warning.startswith("No heatmap: a network of type hiera") for warning in study.warnings)
    assert any("the method occlusion needs none" in warning for warning in study.warnings)
    assert study.codes is None


def test_a_processor_with_unknown_geometry_has_no_heatmaps(externals, phantom_files, monkeypatch):
    predictor = StudyPredictor.from_pretrained(externals["resnet"], device="cpu")
    inner = predictor.processor.processor

    def mirrored(images, return_tensors):
        return {"pixel_values": inner(images=images, return_tensors=return_tensors)["pixel_values"].flip(-1)}

    monkeypatch.setattr(predictor.processor, "processor", mirrored)
    study = predictor(phantom_files)
    assert all(view.heatmap is None for view in study.views)
    assert any("No heatmap: the part of an image that the image processor" in warning for warning in study.warnings)


def test_half_precision_and_inference_mode(externals, phantom_files):
    predictor = StudyPredictor.from_pretrained(externals["resnet"], device="cpu")
    expected = predictor(phantom_files)
    half = StudyPredictor.from_pretrained(externals["resnet"], device="cpu", dtype=torch.bfloat16)(phantom_files)
    assert half.probability == pytest.approx(expected.probability, abs=0.02)
    with torch.inference_mode():
        study = predictor(phantom_files)
    np.testing.assert_allclose(study.views[0].heatmap, expected.views[0].heatmap, atol=1e-6)


def test_timm_through_transformers_wrapper(externals, tmp_path, picture):
    """As transformers saves such a model, which is not how timm does."""
    transformers.AutoModelForImageClassification.from_pretrained(externals["resnet10t"]).save_pretrained(tmp_path)
    one, two = (
        StudyPredictor.from_pretrained(folder, device="cpu")([picture], heatmaps=False)
        for folder in (externals["resnet10t"], tmp_path)
    )
    assert one.probability == two.probability


def test_a_model_of_one_channel(tmp_path, picture):
    folder = save_external(tmp_path / "gray", "vit", num_channels=1)
    square = {"height": SIDE, "width": SIDE}
    transformers.ViTImageProcessor(size=square, image_mean=[0.5], image_std=[0.5]).save_pretrained(folder)
    study = StudyPredictor.from_pretrained(folder, device="cpu")([picture])
    assert 0 < study.probability < 1
    assert study.views[0].heatmap is not None


@pytest.mark.parametrize(
    ("labels", "fields", "words"),
    [
        (("score",), {}, "has one output.*regression"),
        (("normal", "fracture", "metal"), {}, "with 3 labels .*“normal”, “fracture”, “metal”.* has two"),
        (LABELS, {"problem_type": "multi_label_classification"}, "do not exclude each other"),
    ],
)
def test_models_other_than_classifiers_with_two_classes_are_refused(tmp_path, labels, fields, words):
    folder = save_external(tmp_path / "vit", "vit", labels, **fields)
    with pytest.raises(CheckpointError, match=words):
        StudyPredictor.from_pretrained(folder)


def test_pickled_weights_and_code_of_a_checkpoint_are_never_run(externals, tmp_path):
    folder, ran = tmp_path / "pickled", tmp_path / "ran"
    make_external("resnet").config.save_pretrained(folder)
    shutil.copy(externals["resnet"] / "preprocessor_config.json", folder)
    torch.save({"weight": LeavesFile(ran)}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"no model\.safetensors.*Pickled weights"):
        StudyPredictor.from_pretrained(folder)
    (tmp_path / "odd.py").write_text(f"open({str(ran)!r}, 'w')\nclass OddConfig: pass\n")
    config = {"model_type": "odd", "auto_map": {"AutoConfig": "odd.OddConfig"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="needs code of its own, which is never run"):
        StudyPredictor.from_pretrained(tmp_path)
    assert not ran.exists()


@pytest.mark.parametrize(
    ("weights", "index", "fields", "words"),
    [
        (
            "adapter_model.bin",
            None,
            {"transformers_weights": "adapter_model.bin"},
            "transformers_weights is in config",
        ),
        ("part.bin", "part.bin", {}, "names 'part.bin'; weights may only be safetensors"),
        ("../other.safetensors", "../other.safetensors", {}, "names '../other.safetensors'"),
        ("sub/a.safetensors", "sub/a.safetensors", {}, "names 'sub/a.safetensors'"),
        ("a.safetensors", 7, {}, "names 7"),
        ("a.safetensors", "a.safetensors", {}, None),
    ],
)
def test_weights_are_only_read_from_safetensors_of_the_checkpoint(tmp_path, picture, weights, index, fields, words):
    folder = save_external(tmp_path / "vit", "vit")
    state = load_file(folder / "model.safetensors")
    (folder / "sub").mkdir()
    if weights.endswith(".bin"):
        torch.save(state, folder / weights)
        (folder / "model.safetensors").unlink()
    else:
        (folder / "model.safetensors").rename(folder / weights)
    if index is not None:
        (folder / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {}, "weight_map": dict.fromkeys(state, index)})
        )
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))
    with nullcontext() if words is None else pytest.raises(CheckpointError, match=words):
        assert 0 < StudyPredictor.from_pretrained(folder)([picture]).probability < 1


@pytest.mark.parametrize(
    "changed", [{"model_args": {"checkpoint_path": "weights.pth"}}, {"architecture": "hf-hub:user/model"}]
)
def test_a_timm_config_may_not_point_elsewhere(tmp_path, changed):
    save_timm(tmp_path, "resnet10t", **TIMM["resnet10t"])
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changed}))
    with pytest.raises(CheckpointError, match=r"in its config\.json"):
        StudyPredictor.from_pretrained(tmp_path)


def test_damaged_checkpoints(externals, tmp_path):
    def fails(words):
        with pytest.raises(CheckpointError, match=words):
            StudyPredictor.from_pretrained(tmp_path)

    make_external("vit").save_pretrained(tmp_path)
    fails("has no image processor")
    transformers.ViTImageProcessor(size={"height": 96, "width": 96}).save_pretrained(tmp_path)
    fails("cannot be loaded")
    shutil.copy(externals["vit"] / "preprocessor_config.json", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["classifier.bias"] = torch.full((2,), float("nan"))
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    fails("NaN or infinity")
    make_external("vit").vit.save_pretrained(tmp_path)
    fails(r"no weights for classifier\.bias, classifier\.weight")


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


def test_meaning_of_labels():
    for labels, sense in ((ABNORMAL, True), (NORMAL, False), (NEITHER, None)):
        assert {label: sounds_abnormal(label) for label in labels} == dict.fromkeys(labels, sense)


def test_every_pair_is_recognised_in_either_order():
    for abnormal, normal in product(ABNORMAL, NORMAL):
        assert find_abnormal([normal, abnormal], "user/model") == 1
        assert find_abnormal([abnormal, normal], "user/model") == 0


def test_unclear_labels_are_an_error_that_names_the_argument():
    for labels in (
        ("LABEL_0", "LABEL_1"), ("lesion", "fracture"), ("normal", "healthy"), ("benign", "malignant"),
        ("fractured", "wrist"), ("displaced fracture", "non-displaced fracture"), ("normal", "other"),
    ):  # fmt: skip
        with pytest.raises(CheckpointError) as refused:
            find_abnormal(labels, "user/model")
        sentence = str(refused.value)
        assert all(f"“{label}”" in sentence for label in labels)
        assert "which of them means abnormal? Set abnormal_label, as in StudyPredictor" in sentence
        for place, label in enumerate(labels):
            assert find_abnormal(labels, "user/model", f" {label.upper()}") == place


def test_the_named_label_takes_precedence():
    assert find_abnormal(["normal", "abnormal"], "user/model", "normal") == 0
    with pytest.raises(CheckpointError, match=r"no label “sick”.*“well” and “ill”"):
        find_abnormal(["well", "ill"], "user/model", "sick")
    assert find_abnormal(["a", "A"], "user/model", "A") == 1
    with pytest.raises(CheckpointError, match="which are the same"):
        find_abnormal(["a", "a"], "user/model", "a")


HEIGHT, WIDTH = 130, 100


class Fake:
    """A processor made of one function from a gray plane in [0, 1] to another."""

    def __init__(self, change):
        self.change = change

    def __call__(self, images, return_tensors):
        planes = [self.change(np.asarray(image, np.float32)[..., 0] / 255) for image in images]
        return {"pixel_values": torch.stack([torch.tensor(plane.copy()).expand(3, -1, -1) for plane in planes])}


def _letterbox(plane):
    """On a gray square, the picture in its middle."""
    square = np.full((max(plane.shape),) * 2, 0.5, np.float32)
    top, left = ((max(plane.shape) - side) // 2 for side in plane.shape)
    square[top : top + plane.shape[0], left : left + plane.shape[1]] = plane
    return np.asarray(Image.fromarray(square).resize((64, 64), Image.Resampling.BILINEAR))


def _timm(**settings):
    config = {"input_size": [3, 64, 64], "crop_pct": 0.875, "mean": [0.5] * 3, "std": [0.2] * 3, **settings}
    return transformers.TimmWrapperImageProcessor(pretrained_cfg={"interpolation": "bicubic", **config})


SQUARE = {"height": 64, "width": 64}
# Edge 64 / .875 = 73 px on the short side and 94 on the long one, of which 64 in the middle are kept.
MIDDLE = (4.5 / 73 * WIDTH, 15 / 94 * HEIGHT, 68.5 / 73 * WIDTH, 79 / 94 * HEIGHT)


@pytest.mark.parametrize(
    ("processor", "window"),
    [
        (transformers.ViTImageProcessor(size=SQUARE), (0, 0, WIDTH, HEIGHT)),
        (transformers.ViTImageProcessor(do_resize=False), (0, 0, WIDTH, HEIGHT)),
        (transformers.ConvNextImageProcessor(size={"shortest_edge": 64}, crop_pct=0.875), MIDDLE),
        (transformers.ConvNextImageProcessor(size={"shortest_edge": 384}), (0, 0, WIDTH, HEIGHT)),
        (transformers.CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=SQUARE), (0, 15, WIDTH, 115)),
        (
            transformers.DeiTImageProcessor(size={"height": 80, "width": 80}, crop_size=SQUARE),
            (0.1 * WIDTH, 0.1 * HEIGHT, 0.9 * WIDTH, 0.9 * HEIGHT),
        ),
        (
            transformers.EfficientNetImageProcessor(size=SQUARE, rescale_offset=True, include_top=True),
            (0, 0, WIDTH, HEIGHT),
        ),
        (_timm(), MIDDLE),
        (_timm(crop_pct=1.0, crop_mode="squash"), (0, 0, WIDTH, HEIGHT)),
        (_timm(crop_pct=1.0, crop_mode="border"), (-7 / 49 * WIDTH, 0, 57 / 49 * WIDTH, HEIGHT)),
        (Fake(_letterbox), (-15, 0, 115, HEIGHT)),
        (Fake(lambda plane: 1 - plane), (0, 0, WIDTH, HEIGHT)),
    ],
)
def test_the_visible_part_is_measured(processor, window):
    np.testing.assert_allclose(ExternalProcessor(processor)._window(HEIGHT, WIDTH), window, atol=1.2)


@pytest.mark.parametrize(
    "change",
    [
        lambda plane: plane.T,
        lambda plane: plane[:, ::-1],
        lambda plane: np.where(plane > 0.5, 1.0, 0.0).astype(np.float32),
        lambda plane: np.random.default_rng(0).random((64, 64), np.float32),
        lambda plane: (plane - plane.mean()) / (plane.std() + 1e-6),
    ],
    ids=["transposed", "mirrored", "two tones", "noise", "by its deviation"],
)
def test_unknown_geometry_is_an_error(change):
    with pytest.raises(CheckpointError, match="cannot be determined"):
        ExternalProcessor(Fake(change)).restore_map(np.ones((4, 4), np.float32), HEIGHT, WIDTH)


def test_maps_return_to_their_position():
    size, picture = (400, 650), np.zeros((400, 650), np.uint8)
    picture[200:240, 217:282] = 255
    for inner in (transformers.ConvNextImageProcessor(size={"shortest_edge": 64}), _timm(), Fake(_letterbox)):
        processor = ExternalProcessor(inner)
        fed = processor([picture])["pixel_values"][0, 0].numpy()
        fed = (fed - fed.min()) / (fed.max() - fed.min())
        if isinstance(inner, Fake):
            fed[fed < 0.7] = 0  # its gray bars
        restored = processor.restore_map(fed, *size)
        assert restored.shape == size
        np.testing.assert_allclose(np.argwhere(restored > 0.6).mean(0), (219.5, 249), atol=0.012 * max(size))


def test_maps_are_zero_outside_of_the_visible_part():
    processor = ExternalProcessor(transformers.CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=SQUARE))
    restored = processor.restore_map(np.ones((2, 2), np.float32), HEIGHT, WIDTH)
    assert not restored[:14].any()
    assert not restored[116:].any()
    assert (restored[17:113] == 1).mean() > 0.97


def test_a_processor_of_another_modality_is_refused():
    with pytest.raises(CheckpointError, match="Fake, does not return one array"):
        ExternalProcessor(type("Fake", (), {"__call__": lambda *args, **_: {"pixel_values": torch.ones(4, 8)}})())(
            [np.eye(64, dtype=np.uint8)]
        )
