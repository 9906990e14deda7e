"""Averages of weights."""

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn


@dataclass
class BestEpochs:
    """The weights of the best epochs of a stage, on disk, no more than are to be averaged.

    Izmailov et al., "Averaging weights leads to wider optima and better generalization", arXiv 1803.05407, average
    along the way; here the epochs are chosen by dev, as in a greedy soup of one run (Wortsman et al., arXiv
    2203.05482, with every candidate taken).

    Attributes:
        folder: Where they lie; made when the first comes.
        most: How many are kept.
        writes: Whether this process writes the files; the others only keep count.
        scores: Epoch -> its score, of those that are kept.
    """

    folder: Path
    most: int
    writes: bool = True
    scores: dict[int, float] = field(default_factory=dict)

    def offer(self, model: nn.Module, epoch: int, score: float) -> None:
        """Keeps an epoch that is among the best; of two alike the earlier. The worst goes once the new one stands."""
        if len(self.scores) >= self.most and score <= min(self.scores.values()):
            return
        if self.writes:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_weights(model, self._file(epoch))
        self.scores[epoch] = score
        if len(self.scores) > self.most:
            worst = min(self.scores, key=lambda one: (self.scores[one], -one))
            del self.scores[worst]
            if self.writes:
                self._file(worst).unlink()

    def average(self) -> dict[str, torch.Tensor]:
        """The mean of the kept weights, statistics of batch norms too; whole numbers are those of the best epoch."""
        best = max(self.scores, key=lambda one: (self.scores[one], -one))
        mean = load_file(self._file(best))
        others = [epoch for epoch in self.scores if epoch != best]
        summed = {name: value.double() for name, value in mean.items() if value.is_floating_point()}
        for epoch in others:
            for name, value in load_file(self._file(epoch)).items():
                if name in summed:
                    summed[name] += value
        return mean | {name: (value / len(self.scores)).to(mean[name].dtype) for name, value in summed.items()}

    def remove(self) -> None:
        """Removes what is on disk."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch}.safetensors"


def save_weights(model: nn.Module, file: Path) -> None:
    """Writes a model's weights, whole or not at all."""
    fresh = file.with_name(file.name + ".new")
    save_file({name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}, fresh)
    os.replace(fresh, file)
