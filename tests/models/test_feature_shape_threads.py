"""Finding out what a backbone gives, while others use it."""

import threading

import torch

from mura_hf import MuraConfig
from mura_hf.models.backbone_mura import create_backbone, feature_shape
from tests.conftest import SMALL


def test_a_backbone_is_looked_at_while_threads_ask_it():
    config = MuraConfig(**SMALL)
    backbone = create_backbone(config).eval().requires_grad_(False)
    picture = torch.zeros(1, 3, SMALL["image_size"], SMALL["image_size"])
    expected = backbone.forward_features(picture)
    wrong, ended = [], threading.Event()

    def ask():
        while not ended.is_set():
            try:
                with torch.no_grad():
                    if not torch.equal(backbone.forward_features(picture), expected):
                        wrong.append("another answer")
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(30):
            assert len(feature_shape(backbone, config)) == 4
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert wrong == []
