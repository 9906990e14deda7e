import json

import numpy as np
import pytest
import torch

from mura_hf import StudyPredictor
from mura_hf.evaluation.saliency import measure_sensitivity, projection_agreement

from .test_pointing_game import boxed, boxes, play  # noqa: F401 (fixtures)


@pytest.mark.usefixtures("train_rows")
def test_projections_agree_as_counted(boxed, boxes):  # noqa: F811
    studies = boxed["study_id"]
    hit = [number % 3 != 0 for number in range(len(boxes))]
    inside = [(box[1], box[0]) for box in boxes]
    places = [place if one else None for place, one in zip(inside, hit, strict=True)]
    pairs = [(hit[i], hit[j]) for i in range(len(hit)) for j in range(i + 1, len(hit)) if studies[i] == studies[j]]
    found = projection_agreement(play(places, boxed))
    assert found["n"] == len(pairs) > 5
    assert found["both"] == pytest.approx(np.mean([all(pair) for pair in pairs]))
    assert found["neither"] == pytest.approx(np.mean([not any(pair) for pair in pairs]))
    assert found["both"] + found["one"] + found["neither"] == pytest.approx(1)
    assert found["expected"] == pytest.approx(np.mean(pairs) ** 2)
    assert -1 <= found["kappa"] < 1
    assert projection_agreement(play(inside, boxed))["both"] == 1
    first = [n for n, study in enumerate(studies) if study not in studies[:n]]  # one view of each study
    assert projection_agreement(play([(0, 0)] * len(first), boxed.select(first))) is None


def test_heat_follows_an_added_finding(monkeypatch):
    predictor = StudyPredictor.from_pretrained("mura-phantom", device="cpu")
    found = measure_sensitivity(predictor, 7, size=256, progress=False)
    assert json.loads(json.dumps(found)) == found
    overall = found["overall"]
    assert 0 < overall["n"] <= 7
    assert sum(row["n"] for name, row in found.items() if name != "overall") == overall["n"]
    assert overall["difference"] == pytest.approx(overall["inside"] - overall["inside_without"])
    assert overall["low"] <= overall["difference"] <= overall["high"]
    assert overall["inside"] > overall["area"]

    inner = predictor.pixel_values  # a model that cannot see the finding
    monkeypatch.setattr(predictor, "pixel_values", lambda images: inner(images) * 0 + torch.linspace(0, 1, 384))
    assert measure_sensitivity(predictor, 3, size=128, progress=False)["overall"]["difference"] == 0
