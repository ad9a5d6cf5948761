"""What a head does first with tapped tokens: their norm, and how it depends on the noise level."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TimestepModulation(nn.Module):
    """A non-affine LayerNorm, then a shift and a scale that depend on sigma; the identity modulation at the start."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.rate: Tensor
        self.register_buffer("rate", torch.exp(torch.linspace(0, 5, 32)), persistent=False)
        self.project = nn.Linear(65, 2 * width)
        self.reset()

    def reset(self) -> None:
        """The identity modulation."""
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, hidden: Tensor, sigma: Tensor) -> Tensor:
        """hidden [B, tokens, width], sigma [B] -> [B, tokens, width]."""
        angle = sigma[:, None].float() * self.rate
        features = torch.cat([angle.sin(), angle.cos(), sigma[:, None].float()], 1)
        scale, shift = self.project(features)[:, None].chunk(2, -1)
        return F.layer_norm(hidden, hidden.shape[-1:]) * (1 + scale) + shift
