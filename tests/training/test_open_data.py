"""An epoch on each open dataset, through cache, crops and a card."""

import shutil

import calibrate
import numpy as np
import pytest
from accelerate.state import AcceleratorState
from datasets import Image
from huggingface_hub import ModelCard

from mura_hf import DatasetError, MuraImageProcessor, StudyPredictor
from mura_hf.data import load_data, read_manifest
from mura_hf.evaluation import (
    describe_source,
    evaluate_checkpoint,
    load_split,
    load_splits,
)
from mura_hf.hub import render_card
from mura_hf.training import MANIFEST_FILE, train

from ..open_trees import write_fracatlas, write_grazpedwri
from .conftest import TINY

CONFIG = TINY.replace(
    random_crop=True, resize_size=72, sampling="balanced", epochs=1, region_weight=0.5,
    dev_fraction=0.2,
)  # fmt: skip


WRITERS = {"fracatlas": (write_fracatlas, {"n": 160}), "grazpedwri": (write_grazpedwri, {"n_patients": 30})}


def run(key, folder):
    """Trains for an epoch on a small tree of a dataset; returns the checkpoint, the splits and their source."""
    AcceleratorState._reset_state(reset_partial_state=True)
    write, size = WRITERS[key]
    write(folder / "data", size=64, **size)
    config = CONFIG.replace(body_part_head=key == "grazpedwri")
    datasets, source = load_data(folder / "data", **config.split_options())
    checkpoint = train(
        datasets, config, folder / "run", data_description=describe_source(source, folder / "data"), cpu=True,
        cache_dir=folder / "cache",
    )  # fmt: skip
    return checkpoint, datasets, source


@pytest.fixture(scope="module")
def fracatlas(tmp_path_factory):
    return run("fracatlas", tmp_path_factory.mktemp("fracatlas"))


@pytest.fixture(scope="module")
def grazpedwri(tmp_path_factory):
    return run("grazpedwri", tmp_path_factory.mktemp("grazpedwri"))


@pytest.mark.parametrize("key", ["fracatlas", "grazpedwri"])
@pytest.mark.slow
def test_an_epoch_calibration_evaluation_and_a_card_that_credits(key, request):
    folder, datasets, source = request.getfixturevalue(key)
    home = folder.parents[1]
    root = home / "data"
    assert len((home / "run" / "metrics.jsonl").read_text().splitlines()) == 1
    assert [*home.glob("cache/**/*.arrow")]
    processor = MuraImageProcessor.from_pretrained(folder)
    assert (processor.size.height, processor.output_size) == (72, (64, 64))
    manifest = read_manifest(home / "run" / MANIFEST_FILE)
    assert manifest.shared_with(manifest) == {}
    assert {split: len(patients) for split, patients in manifest.splits.items()} == {
        split: len(set(rows["patient_id" if key == "grazpedwri" else "study_id"])) for split, rows in datasets.items()
    }

    calibrate.main([str(folder), "--data_dir", str(root), "--cpu"])
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
            assert f"| {name} | {figures['n']} | {figures['n_abnormal']} | {figures['auroc']:.3f} " in card
        found = report["region_head"]
        assert (found["names"], found["n"]) == (["hand", "shoulder"], len(rows))
        assert f"(hand, shoulder) is predicted correctly in {found['mean']:.3f}" in card
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
def test_another_copy_is_refused_unless_the_manifest_clears_it(fracatlas, tmp_path):
    checkpoint, datasets, _ = fracatlas
    for name in ("data", "run"):
        shutil.copytree(checkpoint.parents[1] / name, tmp_path / name)
    folder = tmp_path / "run" / checkpoint.name
    table = tmp_path / "data" / "dataset.csv"
    lines = table.read_text().splitlines()
    seen = {f"{study}.jpg" for study in datasets["train"]["study_id"]}
    table.write_text("\n".join(line for line in lines if line.split(",")[0] not in sorted(seen)[:40]))
    with pytest.raises(DatasetError, match="patients or studies of its valid were then in train"):
        load_split(folder, tmp_path / "data", "valid")
    with pytest.raises(DatasetError, match="may hold training patients"):
        load_split(folder, tmp_path / "data", "calib")
    (tmp_path / "run" / MANIFEST_FILE).unlink()
    with pytest.raises(DatasetError, match="not the copy"):
        load_split(folder, tmp_path / "data", "valid")
