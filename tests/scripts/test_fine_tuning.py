import pytest
from fine_tuning import measure_fine_tuning


def test_a_little_of_it(tmp_path):
    found = measure_fine_tuning(
        tmp_path, n_train=40, n_valid=20, size=128,
        settings=["epochs=1", "image_size=96", "dev_fraction=0.3", "calib_fraction=0.2"],
    )  # fmt: skip
    assert found["studies"] == {"train": 40, "valid": 20}
    assert found["base"] == "mura-phantom"
    row = found["auroc"]
    assert row["difference"] == pytest.approx(row["after"] - row["before"])
    assert row["low"] <= row["difference"] <= row["high"]
