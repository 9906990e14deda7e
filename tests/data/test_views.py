import shutil

import numpy as np
import pytest
import torch
from accelerate import skip_first_batches
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image as PilImage
from torch.utils.data import DataLoader, Subset
from transformers import pipeline

from mura_hf import DatasetError, MuraImageProcessor, StudyPredictor, load_mura, read_radiograph
from mura_hf.data import (
    UNKNOWN_PART,
    Augmentation,
    BalancedSampler,
    StudyDataset,
    ViewDataset,
    build_pixel_cache,
    collate_studies,
)
from mura_hf.phantoms import render_phantom, write_phantom_mura

CROPPING = {"size": {"height": 72, "width": 72}, "do_center_crop": True, "crop_size": {"height": 64, "width": 64}}
STRONG = Augmentation(flip=0.5, rotation=30, scale=0.2, shift=0.1, brightness=0.1, contrast=0.2)
STILL = {"flip": 0.0, "rotation": 0.0, "scale": 0.0}


@pytest.fixture(scope="module")
def rows(phantom_tree):
    return load_mura(phantom_tree)["train"]


@pytest.fixture(scope="module")
def processor(checkpoint):
    return MuraImageProcessor.from_pretrained(checkpoint)


@pytest.fixture(scope="module")
def whole(rows, processor):
    """Every view without augmentation."""
    views = ViewDataset(rows, processor)
    return [views[index] for index in range(len(rows))]


@pytest.fixture(scope="module")
def cache(rows, processor, tmp_path_factory):
    files = [image["path"] for image in rows.cast_column("image", ImageFeature(decode=False))["image"]]
    return build_pixel_cache(files, processor, tmp_path_factory.mktemp("cache"), progress=False)


def _equal(one, other):
    return all(torch.equal(torch.as_tensor(one[name]), torch.as_tensor(other[name])) for name in one)


def _find(plane, piece):
    """Places of a piece in a plane."""
    height, width = piece.shape
    tops, lefts = (range(side - piece_side + 1) for side, piece_side in zip(plane.shape, piece.shape, strict=True))
    return [
        (top, left)
        for top in tops
        for left in lefts
        if np.array_equal(plane[top : top + height, left : left + width], piece)
    ]


class TestBitEquality:
    def test_one_png_gives_the_same_bits_everywhere(self, rows, whole, checkpoint):
        predictor = StudyPredictor.from_pretrained(checkpoint, device="cpu")
        plain = pipeline("image-classification", model=str(checkpoint), device="cpu")
        images = rows.cast_column("image", ImageFeature(decode=False))["image"]
        for index in range(0, len(rows), 17):
            path = images[index]["path"]
            trained_on = whole[index]["pixel_values"]
            assert trained_on.dtype == torch.float32
            assert torch.equal(trained_on, predictor.pixel_values([read_radiograph(path)])[0])
            assert torch.equal(trained_on, plain.preprocess(path)["pixel_values"][0])

    @pytest.mark.parametrize("mode", ["letterbox", "squash"])
    @pytest.mark.parametrize(
        "options",
        [
            {"do_center_crop": True, "crop_size": {"height": 56, "width": 48}},
            {"enhance": "clahe_lab"},
            {"enhance": "clahe_gray"},
            {"enhance": "high_frequency_emphasis"},
            {"enhance": "unsharp"},
            {
                "size": {"height": 72, "width": 64},
                "do_center_crop": True,
                "crop_size": {"height": 64, "width": 64},
                "enhance": ["high_frequency_emphasis", "clahe_gray", {"name": "unsharp", "amount": 0.5}],
                "image_mean": [0.5] * 3,
                "image_std": [0.5] * 3,
            },
        ],
        ids=["crop", "clahe_lab", "clahe_gray", "high_frequency_emphasis", "unsharp", "all"],
    )
    def test_with_every_option_of_the_processor(self, checkpoint, tmp_path, mode, options):
        pixels = render_phantom(5, body_part="hand", size=120).pixels
        height, width = pixels.shape
        path = str(tmp_path / "view.png")
        PilImage.fromarray(np.pad(pixels, 20)).save(path)
        row = {"image": path, "label": 1, "body_part": 0, "boxes": [[20, 20, 20 + width, 20 + height]]}
        rows = Dataset.from_list([row]).cast_column("image", ImageFeature())
        folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
        processor = MuraImageProcessor(**{"size": {"height": 64, "width": 64}, "resize_mode": mode, **options})
        processor.save_pretrained(folder)

        item = ViewDataset(rows, processor)[0]
        pixel_values = item["pixel_values"]
        predicted_on = StudyPredictor.from_pretrained(folder, device="cpu").pixel_values([read_radiograph(path)])[0]
        piped = pipeline("image-classification", model=str(folder), device="cpu").preprocess(path)["pixel_values"][0]
        assert tuple(pixel_values.shape[1:]) == processor.output_size == tuple(item["regions"].shape)
        assert torch.equal(pixel_values, predicted_on)
        assert torch.equal(pixel_values, piped)
        plain = ViewDataset(rows, MuraImageProcessor(size=dict(processor.size), resize_mode=mode))[0]["pixel_values"]
        assert pixel_values.shape != plain.shape or not torch.equal(pixel_values, plain)
        # The mask covers the image; beside it there is only the black frame.
        shown = pixel_values[0] > pixel_values[0].min() + 0.5
        assert shown.any()
        assert (shown & ~item["regions"]).float().mean() < 0.02

    def test_with_a_cache_no_file_is_read(self, rows, processor, cache, monkeypatch):
        before = [ViewDataset(rows, processor, STRONG, seed=4)[index] for index in range(0, len(rows), 5)]
        views = ViewDataset(rows, processor, STRONG, seed=4, cache=cache)
        monkeypatch.setattr("mura_hf.data.views.prepare_view", None)
        assert all(_equal(views[5 * number], item) for number, item in enumerate(before))

    def test_with_workers_and_after_a_resume_in_mid_epoch(self, rows, processor, cache):
        def batches(workers, skip=0):
            views = ViewDataset(rows, processor, STRONG, seed=2, cache=cache)
            sampler = BalancedSampler(rows["label"], seed=2)
            views.set_epoch(3)
            sampler.set_epoch(3)
            return list(skip_first_batches(DataLoader(views, 8, sampler=sampler, num_workers=workers), skip))

        full, resumed = batches(0), batches(2, skip=5)
        assert len(full) == len(resumed) + 5 > 8
        assert all(_equal(expected, found) for expected, found in zip(full[5:], resumed, strict=True))

    def test_augmentation_depends_on_seed_epoch_and_index_only(self, rows, processor):
        first, again = (ViewDataset(rows, processor, STRONG, seed=1) for _ in range(2))
        for dataset, order in ((first, range(6)), (again, reversed(range(6)))):
            dataset.set_epoch(2)
            dataset.seen = {index: dataset[index] for index in order}
        assert all(_equal(first.seen[index], again.seen[index]) for index in range(6))
        first.set_epoch(3)
        assert not _equal(first[0], again.seen[0])
        assert not _equal(ViewDataset(rows, processor, STRONG, seed=9)[0], again.seen[0])
        few = [list(DataLoader(Subset(again, range(6)), 3, num_workers=workers)) for workers in (0, 2)]
        assert all(_equal(alone, shared) for alone, shared in zip(*few, strict=True))


class TestItems:
    def test_carry_labels_and_regions(self, rows, whole):
        kinds = set()
        for index, item in enumerate(whole):
            label, boxes = rows["label"][index], rows["boxes"][index]
            assert (item["labels"], item["body_parts"], item["index"]) == (label, rows["body_part"][index], index)
            assert item["regions"].any() == bool(boxes)
            assert item["regions_known"] == (label == 0 or bool(boxes))
            kinds.add((label, bool(boxes)))
        assert {(0, False), (1, True)} <= kinds

    def test_regions_are_where_the_box_is(self, rows):
        index = next(index for index, boxes in enumerate(rows["boxes"]) if boxes)
        x0, y0, x1, y1 = rows["boxes"][index][0]
        image = rows[index]["image"]
        squashed = MuraImageProcessor(size={"height": image.height, "width": image.width}, resize_mode="squash")
        regions = ViewDataset(rows, squashed)[index]["regions"].numpy()
        expected = np.zeros_like(regions)
        expected[y0:y1, x0:x1] = True
        np.testing.assert_array_equal(regions, expected)

    def test_an_unknown_body_part(self, rows, processor):
        unknown = rows.select([0]).map(lambda row: {"body_part": None}, features=rows.features)
        assert ViewDataset(unknown, processor)[0]["body_parts"] == UNKNOWN_PART


class TestAugmentation:
    def test_never_moves_a_finding_out_of_the_image(self, rows, processor, cache, whole):
        views = ViewDataset(rows, processor, Augmentation(rotation=180, shift=0.9), cache=cache)
        assert all(views[index]["regions"].any() == item["regions"].any() for index, item in enumerate(whole))

    @pytest.mark.parametrize("patch_size", [None, 64])
    def test_a_zoom_frames_a_view_around_a_finding_or_the_body(self, rows, patch_size):
        processor = MuraImageProcessor(size={"height": 96, "width": 96})
        side = patch_size or 96
        changed = {"zoom_in": 3.0, "zoom_out": 2.0, "zoom_probability": 1.0}
        views = ViewDataset(rows, processor, Augmentation(**STILL, **changed), patch_size=patch_size)
        still = ViewDataset(rows, processor)
        zooms, grown = [], []
        for index in range(0, len(rows), 3):
            item, before = views[index], still[index]
            assert item["pixel_values"].shape == (3, side, side)
            assert item["regions"].shape == (side, side)
            assert item["regions"].any() == before["regions"].any()
            zooms.append(views.augmentation.draw(0, 0, index).zoom)
            if item["regions"].any() and zooms[-1] < 1:  # the whole finding, of the drawn size
                grown.append(item["regions"].sum() / before["regions"].sum() / zooms[-1] ** 2)
        assert min(zooms) < 0.8 < 2 < max(zooms)
        assert patch_size or np.median(grown) == pytest.approx(1, abs=0.25)

    def test_gray_levels_and_quality_change_and_the_place_does_not(self, rows, processor, whole):
        sources = {"gamma_power": 1.0, "inversion": 1.0, "degradation": 1.0}
        kinds = set()
        for name, value in sources.items():
            views = ViewDataset(rows, processor, Augmentation(**STILL, **{name: value}))
            for index in range(8):
                item, before = views[index], whole[index]
                assert torch.equal(item["regions"], before["regions"])
                old, new = before["pixel_values"][0].flatten(), item["pixel_values"][0].flatten()
                assert not torch.equal(old, new)
                alike = np.corrcoef(old, new)[0, 1]
                assert alike < -0.9 if name == "inversion" else alike > 0.7
                quality = views.augmentation.draw(0, 0, index).quality
                kinds |= {int(quality[0] * 4)} if quality else set()
        assert len(kinds) >= 3

    def test_random_crops_are_pieces_of_the_size_of_the_centre_crop(self, rows):
        processor = MuraImageProcessor(**CROPPING)
        cropped = ViewDataset(rows, processor, Augmentation(**STILL, random_crop=True), seed=1)
        places = set()
        for index in range(20):
            item = cropped[index]
            assert item["pixel_values"].shape == (3, 64, 64)
            assert item["regions"].shape == (64, 64)
            plane = processor.to_pixel_values(cropped._read(cropped.rows[index]["image"]).plane[None])[0, 0]
            places.add(_find(plane, item["pixel_values"][0].numpy())[0])
        assert len(places) > 8

    def test_counterfactual_pairs_with_one_key_are_changed_alike(self, tmp_path):
        tree = write_phantom_mura(tmp_path, 20, seed=1, size=96, counterfactuals=True, progress=False)
        rows = load_mura(tree, dev_fraction=0.0, calib_fraction=0.0)["train"]
        first = {}
        keys = [first.setdefault(pair, n) for n, pair in enumerate(rows["twin"])]
        processor = MuraImageProcessor(size={"height": 96, "width": 96})
        views = ViewDataset(rows, processor, STRONG, patch_size=48, augmentation_keys=keys)
        pairs = [(key, n) for n, key in enumerate(keys) if key != n]
        assert len(pairs) >= 5
        assert {rows["label"][n] for pair in pairs for n in pair} == {0, 1}
        alike = [(views[a]["pixel_values"] == views[b]["pixel_values"]).float().mean().item() for a, b in pairs]
        assert np.median(alike) > 0.4  # everything but the finding


def test_patches_are_around_findings(rows):
    processor = MuraImageProcessor(size={"height": 128, "width": 128})
    views, whole_views = ViewDataset(rows, processor, patch_size=64), ViewDataset(rows, processor)
    indices = range(0, len(rows), 4)
    shown = 0
    for index in indices:
        patch = views[index]
        assert patch["pixel_values"].shape == (3, 64, 64)
        assert patch["regions"].shape == (64, 64)
        assert not patch["regions"].any() or rows["label"][index] == 1
        shown += bool(patch["regions"].any())
        assert _find(whole_views[index]["pixel_values"][0].numpy(), patch["pixel_values"][0].numpy())
    assert shown >= 0.9 * sum(bool(rows["boxes"][index]) for index in indices)


@pytest.mark.parametrize("shared", [["1"] * 3, ["1", "2", "1"], ["1", "1", "1"]])
def test_a_study_of_two_patients_is_refused(rows, processor, shared):
    changed = rows.select(range(3)).remove_columns(["study_id", "patient_id"])
    changed = changed.add_column("study_id", shared).add_column("patient_id", ["a", "b", "c"])
    with pytest.raises(DatasetError, match=r"study_id 1 belongs to the patients a and [bc]; make it unique"):
        ViewDataset(changed, processor)


def test_studies_have_all_their_views_and_batches_are_padded(rows, processor):
    views = ViewDataset(rows, processor, Augmentation())
    studies = StudyDataset(views)
    assert studies.study_ids == list(dict.fromkeys(rows["study_id"]))
    sizes = [len(members) for members in studies.members]
    assert sum(sizes) == len(rows)
    small, large = sizes.index(min(sizes)), sizes.index(max(sizes))
    assert sizes[small] < sizes[large]
    studies.set_epoch(3)
    batch = collate_studies([studies[small], studies[large]])
    assert batch["pixel_values"].shape == (2, sizes[large], 3, 64, 64)
    assert batch["view_mask"].sum(1).tolist() == [sizes[small], sizes[large]]
    assert not batch["pixel_values"][0, sizes[small] :].any()
    assert batch["index"].tolist() == [small, large]
    for place, number in enumerate((small, large)):
        for view, row in enumerate(studies.members[number]):
            assert torch.equal(batch["pixel_values"][place, view], views[row]["pixel_values"])
            assert batch["labels"][place] == rows["label"][row]
            assert batch["body_parts"][place] == rows["body_part"][row]
    first = studies[large]["pixel_values"]
    studies.set_epoch(4)
    assert not torch.equal(first, studies[large]["pixel_values"])
