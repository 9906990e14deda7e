"""Codes like pooled ones: never negative, in clusters."""

import torch


def clustered_codes(n: int, width: int, clusters: int = 20, noise: float = 0.3, seed: int = 0) -> torch.Tensor:
    """float32 `[n, width]`; whatever the seed, clusters lie at the same places."""
    centres = torch.randn(clusters, width, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed + 1)
    chosen = torch.randint(clusters, (n,), generator=generator)
    return torch.relu(centres[chosen] + noise * torch.randn(n, width, generator=generator))
