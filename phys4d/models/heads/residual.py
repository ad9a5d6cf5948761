"""The residual unit of convolutional heads."""

import torch.nn.functional as F
from torch import Tensor, nn


class ResidualUnit(nn.Module):
    """x + conv(gelu(conv(gelu(x)))), as in DPT's fusion blocks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """[N, width, H, W] -> the same."""
        y = x
        for convolution in self.convolutions:
            y = convolution(F.gelu(y))
        return x + y
