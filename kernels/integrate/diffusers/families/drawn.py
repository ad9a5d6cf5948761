"""Random numbers for the tiny models of the families."""

import torch
from torch import Tensor


def numbers(*shape: int, seed: int) -> Tensor:
    """Normal numbers of this shape, float32, that depend on the seed alone."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).float()
