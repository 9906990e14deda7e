import pytest
import torch

from mura_hf import StudyPredictor


@pytest.fixture(scope="module")
def predictor(checkpoint):
    return StudyPredictor.from_pretrained(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def flagging(checkpoint):
    """A predictor that flags every view."""
    predictor = StudyPredictor.from_pretrained(checkpoint, device="cpu")
    with torch.no_grad():
        predictor.model.classifier.weight[1].abs_()
        predictor.model.classifier.weight[0].zero_()
        predictor.model.classifier.bias.copy_(torch.tensor([0.0, 1.0]))
    return predictor
