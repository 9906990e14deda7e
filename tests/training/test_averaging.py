import torch
from safetensors.torch import save_file
from torch import nn

from mura_hf.training.averaging import average_weights, is_among_best, with_epoch


def _weights(value):
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    for parameter in model.parameters():
        nn.init.constant_(parameter, value)
    model[1].running_mean.fill_(2 * value)
    model[1].num_batches_tracked.fill_(int(value))
    return model.state_dict()


def test_the_best_are_kept_and_of_two_alike_the_earlier():
    top = {}
    for epoch, score in enumerate([0.6, 0.8, 0.7, 0.8, 0.5, 0.8], 1):
        if is_among_best(top, score, 2):
            top = with_epoch(top, epoch, score, 2)
    assert top == {2: 0.8, 4: 0.8}


def test_weights_are_averaged_and_counts_are_those_of_the_best(tmp_path):
    files = {}
    for epoch in (2, 4):
        files[epoch] = tmp_path / f"top-{epoch}.safetensors"
        save_file(_weights(float(epoch)), files[epoch])
    mean = average_weights(files, {2: 0.8, 4: 0.8})
    assert torch.equal(mean["0.weight"], torch.full((2, 2), 3.0))
    assert torch.equal(mean["1.running_mean"], torch.full((2,), 6.0))
    assert mean["1.num_batches_tracked"] == 2  # of the better, the earlier of two alike
