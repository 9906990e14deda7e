"""Two epochs on each open dataset, through cache, crops and a card."""

import json

import numpy as np
import pytest
from accelerate.state import AcceleratorState
from datasets import Image
from huggingface_hub import ModelCard

from mura_hf import DatasetError, MuraImageProcessor, StudyPredictor
from mura_hf.data import load_data, read_manifest
from mura_hf.evaluation import (
    calibrate_checkpoint,
    describe_evaluation,
    describe_source,
    evaluate_checkpoint,
    load_split,
    load_splits,
)
from mura_hf.hub import render_card
from mura_hf.training import MANIFEST_FILE, load_config, train

from ..open_trees import write_fracatlas, write_grazpedwri

TINY = load_config(
    "ours",
    level="view",
    layer_decay=1.0,
    ema_decay=0.0,
    average_top_k=0,
    label_smoothing=0.0,
    pretrained=False,
    crop_border=True,
    random_crop=True,
    body_part_head=False,
    sampling="balanced",
    learning_rate=1e-3,
    model_kwargs={},
    backbone="resnet10t",
    backbone_kwargs={"channels": [8, 16, 24, 32]},
    image_size=64,
    resize_size=72,
    epochs=2,
    batch_size=16,
    precision="fp32",
    region_weight=0.5,
    dev_fraction=0.2,
    calib_fraction=0.2,
)


@pytest.fixture(autouse=True)
def _fresh_state():
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("key", ["fracatlas", "grazpedwri"])
@pytest.mark.slow
def test_two_epochs_calibration_evaluation_and_a_card_that_credits(key, tmp_path):
    root = tmp_path / "data"
    {"fracatlas": write_fracatlas, "grazpedwri": write_grazpedwri}[key](root)
    config = TINY.replace(body_part_head=key == "grazpedwri")
    datasets, source = load_data(root, **config.split_options())
    folder = train(
        datasets, config, tmp_path / "run", data_description=describe_source(source, root), cpu=True,
        cache_dir=tmp_path / "cache",
    )  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert [*tmp_path.glob("cache/*/*.arrow")]
    processor = MuraImageProcessor.from_pretrained(folder)
    assert (processor.size.height, processor.output_size, processor.crop_border) == (72, (64, 64), True)
    manifest = read_manifest(tmp_path / "run" / MANIFEST_FILE)
    assert manifest.shared_with(manifest) == {}
    assert {split: len(patients) for split, patients in manifest.splits.items()} == {
        split: len(set(rows["patient_id"])) for split, rows in datasets.items()
    }

    calibrate_checkpoint(folder, load_split(folder, root, "calib")[0], cpu=True)
    splits, data = load_splits(folder, root, "valid")
    rows = splits["valid"]
    report = evaluate_checkpoint(folder, rows, "valid", train=splits["train"], data=data, cpu=True)
    assert report["study"]["overall"]["figures"]["n"] == len(set(rows["study_id"]))
    assert "pointing" in report
    card = render_card(folder, "mine")
    if key == "fracatlas":
        for name, words in {"hand": {"hand"}, "upper limb": {"hand", "shoulder"}}.items():
            shown = [bool(words & set(region.split("+"))) for region in rows["region"]]
            figures = report["region"][name]["figures"]
            assert (figures["n"], figures["n_abnormal"]) == (sum(shown), np.asarray(rows["label"])[shown].sum())
            assert f"| {name} | {figures['n']} | {figures['n_abnormal']} | {figures['auroc']:.3f} (" in card
        assert any(line.startswith("shows upper limb") for line in describe_evaluation(report))
        assert "study of the upper limb" in card
        assert "Its intended use is the upper limb" in card
        one_box = [label == 1 and len(boxes) == 1 for label, boxes in zip(rows["label"], rows["boxes"], strict=True)]
        hands = ["hand" in region for region in rows["region"]]
        assert report["pointing"]["hand"]["n"] == np.sum(np.logical_and(one_box, hands)) < sum(one_box)
    else:
        assert "region" not in report
    assert ModelCard(card).data.license == "cc-by-4.0"
    assert source.credit in card
    assert source.held_out in card
    assert "MURA" not in card.split("## Limits")[0].replace("the rule of the MURA paper", "")
    film = rows.cast_column("image", Image(decode=False))[0]["image"]["path"]
    study = StudyPredictor.from_pretrained(folder)([film])
    assert 0 <= study.probability <= 1
    assert study.positive_class_description == source.positive_class_description
    assert f"means {study.positive_class_description}." in card


@pytest.mark.slow
def test_another_copy_is_refused_unless_the_manifest_clears_it(tmp_path):
    write_fracatlas(tmp_path / "data", n=160, size=48)
    config = TINY.replace(epochs=1)
    datasets, source = load_data(tmp_path / "data", **config.split_options())
    description = describe_source(source, tmp_path / "data")
    folder = train(datasets, config, tmp_path / "run", data_description=description, cpu=True)
    table = tmp_path / "data" / "dataset.csv"
    lines = table.read_text().splitlines()
    seen = {f"{study}.jpg" for study in datasets["train"]["study_id"]}
    table.write_text("\n".join(line for line in lines if line.split(",")[0] not in list(seen)[:40]))
    with pytest.raises(DatasetError, match="patients of its valid were then in train"):
        load_split(folder, tmp_path / "data", "valid")
    with pytest.raises(DatasetError, match="may hold training patients"):
        load_split(folder, tmp_path / "data", "calib")
    (tmp_path / "run" / MANIFEST_FILE).unlink()
    with pytest.raises(DatasetError, match="not the copy"):
        load_split(folder, tmp_path / "data", "valid")
