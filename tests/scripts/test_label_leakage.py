import numpy as np
from datasets import Image as ImageFeature
from label_leakage import LIMITS, measure_leakage
from PIL import Image

from mura_hf import load_mura


def test_images_that_reveal_their_label_are_caught(phantom_tree, tmp_path):
    splits = load_mura(phantom_tree, dev_fraction=0.5, calib_fraction=0.0)

    def brighten(row, index):
        with Image.open(row["image"]["path"]) as image:
            pixels = np.asarray(image.convert("L"))
        file = tmp_path / f"{index}_{row['patient_id']}.png"
        Image.fromarray(np.maximum(pixels, 30) if row["label"] else pixels).save(file)  # a haze over abnormal images
        return {"image": {"path": str(file), "bytes": None}}

    fit, held_out = (
        splits[name].cast_column("image", ImageFeature(decode=False)).map(brighten, with_indices=True)
        for name in ("train", "dev")
    )
    found = measure_leakage(fit, held_out, epochs=1)
    assert set(found) == set(LIMITS)
    assert found["histogram"]["auroc"] > 0.9
    assert not found["histogram"]["passed"]
