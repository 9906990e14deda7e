import shutil

import numpy as np
import pytest
import torch
from accelerate import skip_first_batches
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image as PilImage
from transformers import pipeline

from mura_hf import MuraImageProcessor, StudyPredictor, load_mura, read_radiograph
from mura_hf.data import UNKNOWN_PART, Augmentation, BalancedSampler, ViewDataset, build_pixel_cache
from mura_hf.models.image_processing_mura import NORMALIZATIONS
from mura_hf.phantoms import render_phantom, write_phantom_mura

CROPPING = {"size": {"height": 72, "width": 72}, "do_center_crop": True, "crop_size": {"height": 64, "width": 64}}
STRONG = Augmentation(flip=0.5, rotation=30, scale=0.2, shift=0.1, brightness=0.1, contrast=0.2)


@pytest.fixture(scope="module")
def rows(phantom_tree):
    return load_mura(phantom_tree)["train"]


@pytest.fixture(scope="module")
def processor(checkpoint):
    return MuraImageProcessor.from_pretrained(checkpoint)


def test_one_png_gives_the_same_bits_everywhere(rows, processor, checkpoint):
    views = ViewDataset(rows, processor)
    predictor = StudyPredictor.from_pretrained(checkpoint, device="cpu")
    plain = pipeline("image-classification", model=str(checkpoint), device="cpu")
    paths = rows.cast_column("image", ImageFeature(decode=False))["image"]
    for index in range(0, len(rows), 17):
        path = paths[index]["path"]
        trained_on = views[index]["pixel_values"]
        predicted_on = predictor.pixel_values([read_radiograph(path)])[0]
        piped = plain.preprocess(path)["pixel_values"][0]
        assert torch.equal(trained_on, predicted_on)
        assert torch.equal(trained_on, piped)
        assert trained_on.dtype == torch.float32


def test_items_carry_the_truth(rows, processor):
    views = ViewDataset(rows, processor)
    seen = set()
    for index in range(len(rows)):
        item, row = views[index], views.rows[index]
        assert (item["labels"], item["body_parts"], item["index"]) == (row["label"], row["body_part"], index)
        assert item["regions"].any() == bool(row["boxes"])
        assert item["regions_known"] == (row["label"] == 0 or bool(row["boxes"]))
        seen.add((row["label"], bool(row["boxes"])))
    assert {(0, False), (1, True)} <= seen


def test_regions_lie_where_the_box_lies(rows):
    index = next(index for index, boxes in enumerate(rows["boxes"]) if boxes)
    x0, y0, x1, y1 = rows["boxes"][index][0]
    picture = rows[index]["image"]
    squashed = MuraImageProcessor(size={"height": picture.height, "width": picture.width}, resize_mode="squash")
    regions = ViewDataset(rows, squashed)[index]["regions"].numpy()
    expected = np.zeros_like(regions)
    expected[y0:y1, x0:x1] = True
    np.testing.assert_array_equal(regions, expected)


def test_augmentation_depends_on_seed_epoch_and_index_alone(rows, processor):
    first, again = (ViewDataset(rows, processor, STRONG, seed=1) for _ in range(2))
    for dataset, order in ((first, range(6)), (again, reversed(range(6)))):
        dataset.set_epoch(2)
        dataset.seen = {index: dataset[index]["pixel_values"] for index in order}
    assert all(torch.equal(first.seen[index], again.seen[index]) for index in range(6))
    first.set_epoch(3)
    assert not torch.equal(first[0]["pixel_values"], first.seen[0])
    assert not torch.equal(ViewDataset(rows, processor, STRONG, seed=9)[0]["pixel_values"], again.seen[0])


def test_workers_give_the_same_batches(rows, processor):
    dataset = ViewDataset(rows, processor, STRONG, seed=1)
    few = torch.utils.data.Subset(dataset, range(12))
    batches = [list(torch.utils.data.DataLoader(few, batch_size=4, num_workers=workers)) for workers in (0, 2)]
    for alone, shared in zip(*batches, strict=True):
        assert all(torch.equal(alone[name], shared[name]) for name in alone)


def test_picture_and_mask_move_together():
    plane = np.zeros((80, 80), np.uint8)
    plane[20:30, 50:62] = 255
    for index in range(10):
        change = STRONG.draw(0, 0, index)
        moved, mask = change.tone(change.place(plane)), change.regions(plane)
        bright = moved > (int(moved.max()) + int(moved.min())) / 2
        overlap = (bright & (mask > 127)).sum() / (bright | (mask > 127)).sum()
        assert overlap > 0.75


def test_no_augmentation_by_zero_ranges():
    plane = np.arange(400, dtype=np.uint8).reshape(20, 20)
    change = Augmentation(flip=0, rotation=0, scale=0).draw(0, 0, 0)
    np.testing.assert_array_equal(change.tone(change.place(plane)), plane)
    flipped = Augmentation(flip=1, rotation=0, scale=0).draw(0, 0, 0)
    np.testing.assert_array_equal(flipped.place(plane), plane[:, ::-1])


def test_patches_are_cut_where_the_finding_is_or_would_be(rows):
    processor = MuraImageProcessor(size={"height": 128, "width": 128})
    views = ViewDataset(rows, processor, patch_size=64)
    whole = ViewDataset(rows, processor)
    shown = 0
    for index in range(0, len(rows), 3):
        patch, row = views[index], views.rows[index]
        assert patch["pixel_values"].shape == (3, 64, 64)
        assert patch["regions"].shape == (64, 64)
        assert not patch["regions"].any() or row["label"] == 1
        shown += bool(patch["regions"].any())
        # The patch is a piece of the whole processed picture.
        plane, piece = whole[index]["pixel_values"][0].numpy(), patch["pixel_values"][0].numpy()
        assert any(
            np.array_equal(plane[top : top + 64, left : left + 64], piece) for top in range(65) for left in range(65)
        )
    assert shown >= 0.9 * sum(bool(rows[index]["boxes"]) for index in range(0, len(rows), 3))


def test_twins_with_one_key_are_changed_alike(tmp_path):
    tree = write_phantom_mura(tmp_path, 20, seed=1, size=96, counterfactuals=True, progress=False)
    rows = load_mura(tree, dev_fraction=0.0, calib_fraction=0.0)["train"]
    first = {}
    keys = [first.setdefault(twin, n) for n, twin in enumerate(rows["twin"])]
    views = ViewDataset(
        rows, MuraImageProcessor(size={"height": 96, "width": 96}), STRONG, patch_size=48, keys=keys
    )  # fmt: skip
    pairs = [(key, n) for n, key in enumerate(keys) if key != n]
    assert len(pairs) >= 5
    alike = [(views[a]["pixel_values"] == views[b]["pixel_values"]).float().mean().item() for a, b in pairs]
    assert {rows["label"][a] for a, _ in pairs} | {rows["label"][b] for _, b in pairs} == {0, 1}
    assert np.median(alike) > 0.4  # all but the finding


def test_no_augmentation_moves_a_finding_out_of_the_picture(rows, processor):
    views = ViewDataset(rows, processor, Augmentation(rotation=180, shift=0.9))
    whole = ViewDataset(rows, processor)
    for index in range(len(rows)):
        assert views[index]["regions"].any() == whole[index]["regions"].any()


def test_a_cache_gives_the_same_bits_without_reading(rows, processor, monkeypatch, tmp_path):
    strong = {"augmentation": STRONG, "seed": 4}
    before = [ViewDataset(rows, processor, **strong)[index] for index in range(len(rows))]
    files = [picture["path"] for picture in rows.cast_column("image", ImageFeature(decode=False))["image"]]
    views = ViewDataset(rows, processor, **strong, cache=build_pixel_cache(files, processor, tmp_path, progress=False))
    monkeypatch.setattr("mura_hf.data.views.prepare_view", None)
    for index, item in enumerate(before):
        assert all(torch.equal(torch.as_tensor(views[index][name]), torch.as_tensor(item[name])) for name in item)


def test_batches_are_the_same_with_workers_and_after_a_resume(rows, processor, tmp_path):
    """Same seed with 0 or 2 workers, resumed in the middle of an epoch."""
    files = [picture["path"] for picture in rows.cast_column("image", ImageFeature(decode=False))["image"]]
    cache = build_pixel_cache(files, processor, tmp_path, progress=False)

    def batches(workers, skip=0):
        views = ViewDataset(rows, processor, STRONG, seed=2, cache=cache)
        sampler = BalancedSampler(rows["label"], seed=2)
        views.set_epoch(3)
        sampler.set_epoch(3)
        loader = torch.utils.data.DataLoader(views, 8, sampler=sampler, num_workers=workers)
        return list(skip_first_batches(loader, skip))

    whole, workers, resumed = batches(0), batches(2), batches(2, skip=5)
    assert len(whole) == len(workers) == len(resumed) + 5 > 8
    for other, start in ((workers, 0), (resumed, 5)):
        for expected, found in zip(whole[start:], other, strict=True):
            assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("mode", ["letterbox", "squash"])
@pytest.mark.parametrize(
    "options",
    [
        {"do_center_crop": True, "crop_size": {"height": 56, "width": 48}},
        {"crop_border": True},
        {"enhance": "clahe_lab"},
        {"enhance": "clahe_gray"},
        {"enhance": "high_frequency_emphasis"},
        {"enhance": "unsharp"},
        {
            "size": {"height": 72, "width": 64},
            "do_center_crop": True,
            "crop_size": {"height": 64, "width": 64},
            "crop_border": True,
            "enhance": ["high_frequency_emphasis", "clahe_gray", {"name": "unsharp", "amount": 0.5}],
            **NORMALIZATIONS["minus_one_to_one"],
        },
    ],
    ids=["crop", "border", "clahe_lab", "clahe_gray", "high_frequency_emphasis", "unsharp", "all"],
)
def test_every_option_gives_the_same_bits_everywhere(checkpoint, tmp_path, mode, options):
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
    predicted_on = StudyPredictor.from_pretrained(folder, device="cpu").pixel_values([read_radiograph(path)])[0]
    piped = pipeline("image-classification", model=str(folder), device="cpu").preprocess(path)["pixel_values"][0]
    assert tuple(item["pixel_values"].shape[1:]) == processor.output_size == tuple(item["regions"].shape)
    assert torch.equal(item["pixel_values"], predicted_on)
    assert torch.equal(item["pixel_values"], piped)
    plain = ViewDataset(rows, MuraImageProcessor(size=dict(processor.size), resize_mode=mode))[0]["pixel_values"]
    assert item["pixel_values"].shape != plain.shape or not torch.equal(item["pixel_values"], plain)
    # What is marked is where the picture shows it: beside it there is only the black frame.
    shown = item["pixel_values"][0] > item["pixel_values"][0].min() + 0.5
    assert shown.any()
    assert (shown & ~item["regions"]).float().mean() < 0.02


def test_random_crops_have_the_size_of_the_centre_crop(rows):
    processor = MuraImageProcessor(**CROPPING)
    still = {"flip": 0.0, "rotation": 0.0, "scale": 0.0}
    for augmentation in (Augmentation(**still, random_crop=True), Augmentation(**still, resized_crop=0.5)):
        views, whole = ViewDataset(rows, processor, augmentation), ViewDataset(rows, processor)
        items = [views[index] for index in range(12)]
        assert all(item["pixel_values"].shape == (3, 64, 64) for item in items)
        assert all(item["regions"].shape == (64, 64) for item in items)
        assert any(not torch.equal(item["pixel_values"], whole[n]["pixel_values"]) for n, item in enumerate(items))


def test_a_random_crop_is_a_piece_of_the_picture(rows):
    processor = MuraImageProcessor(**CROPPING)
    cropped = ViewDataset(
        rows, processor, Augmentation(flip=0.0, rotation=0.0, scale=0.0, random_crop=True), seed=1
    )  # fmt: skip
    places = set()
    for index in range(20):
        piece = cropped[index]["pixel_values"][0].numpy()
        plane = processor.to_pixel_values(cropped._read(cropped.rows[index]["image"]).plane[None])[0, 0]
        found = [
            (top, left)
            for top in range(9)
            for left in range(9)
            if np.array_equal(plane[top : top + 64, left : left + 64], piece)
        ]
        assert found
        places.add(found[0])
    assert len(places) > 8


def test_holes_hide_no_more_than_half_of_a_finding(rows, processor):
    still = {"flip": 0.0, "rotation": 0.0, "scale": 0.0}
    holes = Augmentation(**still, erasing=1.0, erasing_holes=8, erasing_side=0.5)
    views, whole = ViewDataset(rows, processor, holes), ViewDataset(rows, processor)
    darkened = 0
    for index in range(len(rows)):
        item, before = views[index], whole[index]
        black = (item["pixel_values"][0] == item["pixel_values"][0].min()) & (
            item["pixel_values"][0] != before["pixel_values"][0]
        )
        darkened += bool(black.any())
        if before["regions"].any():
            assert (black & before["regions"]).sum() <= before["regions"].sum() / 2
    assert darkened > len(rows) / 3


def test_an_unknown_body_part_has_a_number_of_its_own(rows, processor):
    unknown = rows.select([0]).map(lambda row: {"body_part": None}, features=rows.features)
    assert ViewDataset(unknown, processor)[0]["body_parts"] == UNKNOWN_PART
