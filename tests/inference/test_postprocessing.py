"""Heatmaps and regions at the views' own size, and warnings about views that are not one study."""

from dataclasses import replace

import numpy as np
import pytest

from mura_hf import MuraImageProcessor, Radiograph, StudyPredictor, read_radiograph
from mura_hf.explain import Heatmaps, find_regions, grad_cam, localize
from mura_hf.inference.postprocessing import find_conflicts
from mura_hf.models import BODY_PARTS
from tests.checkpoints import make_checkpoint, make_model

NAMES = ["a.png", "b.png", "c.png"]


def test_heatmaps_and_boxes_have_the_size_of_the_view(flagging, phantom_files):
    study = flagging(phantom_files)
    for view, file in zip(study.views, phantom_files, strict=True):
        radiograph = read_radiograph(file)
        assert view.heatmap.shape == radiograph.pixels.shape == (view.height, view.width)
        assert view.heatmap.dtype == np.float32
        assert view.heatmap.min() >= 0
        assert view.heatmap.max() == pytest.approx(1)
        assert view.regions == find_regions(view.heatmap)
        assert view.box == localize(view.heatmap) == view.regions[0].box
        small = grad_cam(flagging.model, flagging.pixel_values([radiograph]))[0].numpy()
        expected = flagging.processor.restore_map(small, *radiograph.pixels.shape)
        assert np.corrcoef(view.heatmap.ravel(), expected.ravel())[0, 1] > 0.999


@pytest.mark.parametrize(
    ("mode", "crop"),
    [("squash", None), ("letterbox", None), ("squash", {"height": 48, "width": 40})],
)
def test_heatmap_and_box_come_back_through_every_preprocessing_step(flagging, monkeypatch, mode, crop):
    picture = np.zeros((170, 130), np.uint8)
    picture[20:150, 10:110] = np.random.default_rng(0).integers(60, 90, (130, 100))
    picture[96:112, 40:54] = 255
    processor = MuraImageProcessor(
        size={"height": 64, "width": 64},
        resize_mode=mode,
        do_center_crop=crop is not None,
        crop_size=crop,
    )
    monkeypatch.setattr(flagging, "processor", processor)

    def bright(model, pixel_values, **options):
        """A heatmap of the brightness of the model's input."""
        seen = pixel_values[:, 0]
        return Heatmaps((seen - seen.min()) / (seen.max() - seen.min()), options["method"], [(64, 64)])

    monkeypatch.setattr("mura_hf.inference.postprocessing.explain", bright)
    view = flagging([picture]).views[0]
    assert view.heatmap.shape == picture.shape
    rows, columns = np.nonzero(view.heatmap > 0.7)
    assert abs(rows.mean() - 103.5) <= 1.5
    assert abs(columns.mean() - 46.5) <= 1.5
    found, expected = (view.box.x0, view.box.y0, view.box.x1, view.box.y1), (40, 96, 54, 112)
    assert np.abs(np.subtract(found, expected)).max() <= 4


def test_views_that_are_not_flagged_have_no_box(flagging, phantom_files):
    flagging.model.config.operating_points = {"paper": 0.5, "never": 1.0}
    study = flagging(phantom_files, operating_point="never")
    assert study.label == "normal"
    assert all(view.box is None and view.heatmap is not None for view in study.views)
    with pytest.raises(ValueError, match="has paper, never"):
        flagging(phantom_files, operating_point="sometimes")


def test_methods(flagging, phantom_files):
    study = flagging(phantom_files)
    assert study.heatmap_method == "grad_cam"
    for method, size in (("layer_cam", (2, 2)), ("occlusion", (15, 15))):
        other = flagging(phantom_files, method=method)
        assert other.heatmap_method == method
        assert all(view.map_size == size for view in other.views)
        assert other.probability == study.probability
    none = flagging(phantom_files, heatmaps=False)
    view = none.views[0]
    assert (none.heatmap_method, view.heatmap, view.map_size, view.regions) == (None, None, None, [])
    with pytest.raises(ValueError, match="unknown heatmap method 'guess'"):
        flagging(phantom_files, method="guess")


def test_networks_on_tokens(phantom_files, tmp_path):
    tokens = make_model(backbone="vit_tiny_patch16_224", backbone_kwargs={"depth": 3, "embed_dim": 48})
    study = StudyPredictor.from_pretrained(make_checkpoint(tmp_path / "vit", tokens), device="cpu")(phantom_files)
    assert study.heatmap_method == "grad_cam"
    assert all(view.map_size == (4, 4) for view in study.views)
    assert any(view.heatmap.max() == 1 and view.heatmap.std() > 0.02 for view in study.views)


@pytest.fixture
def views():
    rng = np.random.default_rng(0)
    return [Radiograph(rng.random((20, 30), dtype=np.float32), 8, "PNG") for _ in NAMES]


def _predict(*parts, probability=0.95):
    found = np.full((len(parts), len(BODY_PARTS)), (1 - probability) / 6)
    found[np.arange(len(parts)), [BODY_PARTS.index(part) for part in parts]] = probability
    return found


def test_views_of_one_study(views):
    assert find_conflicts(NAMES, views) == []
    same = [replace(view, side="left", patient_hash="aa", body_part="wrist") for view in views[:2]] + views[2:]
    assert find_conflicts(NAMES, same, _predict("hand", "hand", "wrist")) == []  # headers take precedence
    turned = replace(views[0], pixels=views[0].pixels.reshape(30, 20))
    assert find_conflicts(NAMES[:2], [views[0], turned]) == []
    assert find_conflicts(NAMES, views, _predict("wrist", "elbow", "wrist", probability=0.85)) == []


def test_conflicts(views):
    (warning,) = find_conflicts(NAMES, [views[0], views[1], replace(views[0], pixels=views[0].pixels.copy())])
    assert warning.startswith("a.png and c.png show the same picture")
    marked = [replace(view, patient_hash=patient) for view, patient in zip(views, "xyx", strict=True)]
    (warning,) = find_conflicts(NAMES, marked)
    assert "of 2 patients, according to the files: a.png and c.png; b.png." in warning
    (warning,) = find_conflicts(NAMES, [replace(views[0], side="right"), views[1], replace(views[2], side="left")])
    assert "both sides, according to the files: left: c.png; right: a.png." in warning
    (warning,) = find_conflicts(NAMES, views, _predict("wrist", "elbow", "wrist"))
    assert "different body parts: elbow: b.png; wrist: a.png and c.png." in warning
    (warning,) = find_conflicts(NAMES, [replace(views[0], body_part="hand"), *views[1:]], _predict(*["wrist"] * 3))
    assert "hand: a.png; wrist: b.png and c.png" in warning
    (warning,) = find_conflicts(["a", "a", "b"], [views[0], views[0], views[1]])
    assert warning.startswith("a (view 1) and a (view 2) show")


def test_predictions_warn_about_conflicts(predictor, phantom_files):
    study = predictor([phantom_files[0], phantom_files[0]], names=["one.png", "two.png"], heatmaps=False)
    assert any(warning.startswith("one.png and two.png show the same picture") for warning in study.warnings)
    assert not any("same picture" in warning for warning in predictor(phantom_files, heatmaps=False).warnings)
