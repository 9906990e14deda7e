import cv2
import numpy as np
import pytest
from make_unrelated import main
from unrelated.images import KINDS, render_unrelated

from mura_hf.evaluation.ood_detection import FIRST_SEED, N_IMAGES, UNRELATED, UNRELATED_KINDS, read_unrelated


@pytest.mark.parametrize("kind", UNRELATED_KINDS)
def test_the_shipped_pictures_are_those_that_are_drawn(kind):
    pictures = list(read_unrelated(kind))
    assert len(pictures) == N_IMAGES
    assert len({picture.shape for picture in pictures}) == 1
    assert len({picture.tobytes() for picture in pictures}) == N_IMAGES
    for number in (0, N_IMAGES - 1):
        drawn, shipped = render_unrelated(FIRST_SEED + number, kind), pictures[number]
        drawn, shipped = (
            cv2.resize(one, (64, 64), interpolation=cv2.INTER_AREA).astype(int) for one in (drawn, shipped)
        )
        assert np.abs(drawn - shipped).mean() < 5
    assert KINDS == UNRELATED_KINDS


def test_the_command_writes_the_sheet_of_a_kind(tmp_path, monkeypatch):
    monkeypatch.setattr("make_unrelated.render_unrelated", lambda seed, kind: np.full((96, 80), seed % 256, np.uint8))
    main(["--output_dir", str(tmp_path), "--kinds", "skull"])
    assert [file.name for file in tmp_path.iterdir()] == ["skull.webp"]
    assert sum(file.stat().st_size for file in UNRELATED.iterdir()) <= 1_200_000
