import numpy as np
import pytest
from PIL import Image

from mura_hf import DatasetError, load_mura
from mura_hf.evaluation import measure_giveaways
from mura_hf.evaluation.leakage import LIMITS
from mura_hf.phantoms import write_phantom_mura


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    tree = write_phantom_mura(
        tmp_path_factory.mktemp("giveaways"), 150, seed=9, size=64, valid_fraction=0.5,
        progress=False,
    )  # fmt: skip
    return load_mura(tree, dev_fraction=0.0, calib_fraction=0.0)


def test_every_giveaway_gets_a_figure_with_an_interval(splits):
    found = measure_giveaways(splits["train"], splits["valid"], epochs=1)
    assert set(found) == set(LIMITS)
    for name, row in found.items():
        assert 0 <= row["low"] <= row["auroc"] <= row["high"] <= 1, name
        assert row["passed"] == (row["high"] <= row["limit"])


def test_a_picture_that_gives_its_label_away_is_caught(splits, tmp_path):
    def brighten(row, index):
        with Image.open(row["image"]["path"]) as image:
            pixels = np.asarray(image.convert("L"))
        file = tmp_path / f"{index}_{row['patient_id']}.png"
        if row["label"]:
            pixels = np.maximum(pixels, 30)  # a haze over the abnormal ones
        Image.fromarray(pixels).save(file)
        return {"image": {"path": str(file), "bytes": None}}

    from datasets import Image as ImageFeature

    hazy = {
        name: rows.cast_column("image", ImageFeature(decode=False)).map(brighten, with_indices=True)
        for name, rows in splits.items()
        if name in ("train", "valid")
    }
    found = measure_giveaways(hazy["train"], hazy["valid"], epochs=1)
    assert found["histogram"]["auroc"] > 0.9
    assert found["thumbnail"]["auroc"] > 0.8
    assert not found["histogram"]["passed"]


def test_without_boxes_nothing_can_be_blanked(splits):
    plain = splits["valid"].remove_columns("boxes")
    with pytest.raises(DatasetError, match="no boxes"):
        measure_giveaways(plain, plain)
