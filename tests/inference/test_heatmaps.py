"""Heatmaps and regions in an answer."""

import numpy as np
import pytest
from PIL import Image

from mura_hf import MuraImageProcessor, StudyPredictor, read_radiograph
from mura_hf.explain import Heatmaps, find_regions, grad_cam, localize
from tests.conftest import make_checkpoint, make_model


def test_heatmaps_and_boxes_have_the_views_own_size(flagging, phantom_files):
    study = flagging(phantom_files)
    for view, file in zip(study.views, phantom_files, strict=True):
        with Image.open(file) as image:
            assert view.heatmap.shape == (image.height, image.width) == (view.height, view.width)
        assert view.heatmap.dtype == np.float32
        assert view.heatmap.min() >= 0
        assert view.heatmap.max() == pytest.approx(1)
        assert 0 <= view.box.x0 < view.box.x1 <= view.width
        assert 0 <= view.box.y0 < view.box.y1 <= view.height
        assert view.heatmap[view.box.y0 : view.box.y1, view.box.x0 : view.box.x1].max() >= 0.7


def test_the_heatmap_is_grad_cam_laid_over_the_view(flagging, phantom_files):
    radiograph = read_radiograph(phantom_files[0])
    small = grad_cam(flagging.model, flagging.pixel_values([radiograph]))[0].numpy()
    expected = flagging.processor.restore_map(small, *radiograph.pixels.shape)
    found = flagging([radiograph]).views[0].heatmap
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.999


@pytest.mark.parametrize("border", [False, True])
@pytest.mark.parametrize("crop", [None, {"height": 48, "width": 40}])
@pytest.mark.parametrize("mode", ["letterbox", "squash"])
def test_heatmap_and_box_come_back_through_every_step(flagging, monkeypatch, mode, crop, border):
    picture = np.zeros((170, 130), np.uint8)
    picture[20:150, 10:110] = np.random.default_rng(0).integers(60, 90, (130, 100))
    picture[96:112, 40:54] = 255
    processor = MuraImageProcessor(
        size={"height": 64, "width": 64},
        resize_mode=mode,
        crop_border=border,
        do_center_crop=crop is not None,
        crop_size=crop,
    )
    monkeypatch.setattr(flagging, "processor", processor)

    def bright(model, pixel_values, **options):
        """A heatmap that is hot where what the model was fed is bright."""
        fed = pixel_values[:, 0]
        return Heatmaps((fed - fed.min()) / (fed.max() - fed.min()), options["method"], [(64, 64)])

    monkeypatch.setattr("mura_hf.inference.postprocessing.explain", bright)
    view = flagging([picture]).views[0]
    assert view.heatmap.shape == picture.shape
    rows, columns = np.nonzero(view.heatmap > 0.7)
    assert abs(rows.mean() - 103.5) <= 1.5
    assert abs(columns.mean() - 46.5) <= 1.5
    found, planted = (view.box.x0, view.box.y0, view.box.x1, view.box.y1), (40, 96, 54, 112)
    assert np.abs(np.subtract(found, planted)).max() <= 4
    if border:
        x0, y0, x1, y1 = processor.find_field(picture)
        assert (x0, y0, x1, y1) == (8, 18, 112, 152)
        view.heatmap[y0:y1, x0:x1] = 0
        assert not view.heatmap.any()


def test_no_box_on_a_view_that_is_not_flagged(flagging, phantom_files):
    flagging.model.config.operating_points = {"paper": 0.5, "never": 1.0}
    study = flagging(phantom_files, operating_point="never")
    assert study.label == "normal"
    assert all(view.box is None and view.heatmap is not None for view in study.views)
    with pytest.raises(ValueError, match="has paper, never"):
        flagging(phantom_files, operating_point="sometimes")


def test_heatmaps_can_be_left_out(predictor, phantom_files):
    assert all(view.heatmap is None for view in predictor(phantom_files, heatmaps=False).views)


def test_a_vision_transformer_has_heatmaps_too(phantom_files, tmp_path):
    kwargs = {"depth": 3, "embed_dim": 48}
    folder = make_checkpoint(tmp_path / "vit", make_model(backbone="vit_tiny_patch16_224", backbone_kwargs=kwargs))
    study = StudyPredictor.from_pretrained(folder, device="cpu")(phantom_files)
    assert study.heatmap_method == "head_gradient"
    assert all(view.map_size == (4, 4) for view in study.views)
    assert any(view.heatmap.max() == 1 and view.heatmap.std() > 0.02 for view in study.views)


def test_a_method_may_be_chosen_and_is_told(flagging, phantom_files):
    study = flagging(phantom_files)
    assert study.heatmap_method == "class_activation_map"
    for method, size in (("grad_cam", (2, 2)), ("layer_cam", (2, 2)), ("occlusion", (15, 15))):
        other = flagging(phantom_files, method=method)
        assert other.heatmap_method == method
        assert all(view.map_size == size for view in other.views)
        assert other.probability == study.probability
    none = flagging(phantom_files, heatmaps=False)
    assert (none.heatmap_method, none.views[0].map_size, none.views[0].regions) == (None, None, [])
    with pytest.raises(ValueError, match="unknown heatmap method 'guess'; there are auto"):
        flagging(phantom_files, method="guess")


def test_a_method_that_the_model_does_not_have_is_told_and_the_rest_is_answered(phantom_files, tmp_path):
    folder = make_checkpoint(tmp_path / "deep", make_model(head_layers=[16]))
    study = StudyPredictor.from_pretrained(folder, device="cpu")(phantom_files, method="class_activation_map")
    assert all(view.heatmap is None for view in study.views)
    assert study.heatmap_method is None
    assert any("No heatmap: this model does not end in a mean" in warning for warning in study.warnings)


def test_regions_are_told_in_the_files_own_pixels(flagging, phantom_files):
    for view in flagging(phantom_files).views:
        assert view.regions == find_regions(view.heatmap)
        assert view.box == localize(view.heatmap) == view.regions[0].box
