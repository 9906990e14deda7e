import torch
from torch import nn

from mura_hf.training.averaging import BestEpochs


def _model(value):
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    for parameter in model.parameters():
        nn.init.constant_(parameter, value)
    model[1].running_mean.fill_(2 * value)
    model[1].num_batches_tracked.fill_(int(value))
    return model


def test_the_best_are_kept_and_averaged_and_nothing_stays(tmp_path):
    best = BestEpochs(tmp_path / "epochs", 2)
    for epoch, score in enumerate([0.6, 0.8, 0.7, 0.8, 0.5], 1):
        best.offer(_model(float(epoch)), epoch, score)
        assert len(list((tmp_path / "epochs").iterdir())) == min(epoch, 2)
    assert best.scores == {2: 0.8, 4: 0.8}
    mean = best.average()
    assert torch.equal(mean["0.weight"], torch.full((2, 2), 3.0))
    assert torch.equal(mean["1.running_mean"], torch.full((2,), 6.0))
    assert mean["1.num_batches_tracked"] == 2  # of the better, the earlier of two alike
    _model(0.0).load_state_dict(mean)
    best.remove()
    assert not (tmp_path / "epochs").exists()


def test_another_process_counts_and_writes_nothing(tmp_path):
    both = [BestEpochs(tmp_path / str(writes), 2, writes) for writes in (True, False)]
    for epoch, score in enumerate([0.6, 0.5, 0.7], 1):
        for one in both:
            one.offer(_model(1.0), epoch, score)
    assert both[0].scores == both[1].scores
    assert not (tmp_path / "False").exists()
