"""Weights and inputs that a formula gives, equal everywhere: what the public Open-Sora computed of them is known."""

import math
import zlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def numbers(name: str, *shape: int, size: float = 1.0) -> Tensor:
    """Values between -size and size that depend on the name and the place alone, fp64."""
    phase = zlib.crc32(name.encode()) % 10_007
    return size * torch.sin(1.7 * torch.arange(math.prod(shape), dtype=torch.float64) ** 1.1 + phase).view(shape)


def filled(module: nn.Module, size: float, kept: Iterable[str] = ()) -> nn.Module:
    """The module in fp64 with weights by their names, but those named in `kept`."""
    module.double()
    for name, parameter in module.named_parameters():
        if name not in kept:
            parameter.data = numbers(name, *parameter.shape, size=size)
    return module
