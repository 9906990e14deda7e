"""Short vectors that are never farther apart than the codes they stand for."""

from dataclasses import dataclass

import torch

_SAMPLE = 8192  # codes that the directions are found from
_ROUNDS = 3  # of the subspace iteration
_BLOCK = 4096  # codes that are turned at once, in float64


@dataclass(frozen=True)
class Sketch:
    """Codes seen along the directions in which most of them differ, and the length of the rest.

    For a code x, with m the mean and P the orthonormal basis, its short vector is y = P'(x - m) with |x - m - P y|
    behind it. By Pythagoras, and since lengths differ by no more than vectors do, two short vectors are never farther
    apart than their codes. A scan over them can rule codes out, whatever the data; how many depends on the data.

    Attributes:
        mean: float64 `[D]`.
        basis: float64 `[D, p]`, orthonormal columns.
        vectors: float32 `[N, p + 1]`, of the codes; column by column in memory, which a product with one vector reads
            about three times as fast.
    """

    mean: torch.Tensor
    basis: torch.Tensor
    vectors: torch.Tensor

    @classmethod
    def fit(cls, codes: torch.Tensor, size: int, seed: int = 0) -> "Sketch":
        """Finds the directions by subspace iteration (Halko, Martinsson and Tropp, SIAM Review 53, 2011, algorithm
        4.4), from a sample where there are many codes.

        Args:
            codes: float32 `[N, D]`.
            size: How many directions, p.
            seed: Of the sample and the start.
        """
        generator = torch.Generator().manual_seed(seed)
        sample = codes[torch.randperm(len(codes), generator=generator)[:_SAMPLE]]
        mean = sample.double().mean(0)
        centred = sample - mean.float()
        basis = torch.randn(codes.shape[1], size, generator=generator)
        for _ in range(_ROUNDS):
            basis = torch.linalg.qr(centred.T @ (centred @ basis))[0]
        basis = torch.linalg.qr(basis.double())[0]  # orthonormal to the last digit of float64
        turned = [_turn(block, mean, basis).T for block in codes.split(_BLOCK)]
        return cls(mean, basis, torch.cat(turned, dim=1).T)

    def turn(self, codes: torch.Tensor) -> torch.Tensor:
        """Short vectors float32 `[..., p + 1]` of codes `[..., D]`."""
        return _turn(codes, self.mean, self.basis)


def _turn(codes: torch.Tensor, mean: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    # In float64, so that only the last rounding is left to be allowed for.
    centred = codes.double() - mean
    along = centred @ basis
    rest = (centred.square().sum(-1) - along.square().sum(-1)).clamp_min(0).sqrt()
    return torch.cat([along, rest[..., None]], dim=-1).float()
