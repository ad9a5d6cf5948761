"""Attention over time inside a head."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phys4d.kernels.attention import Temporal, attention_packed
from phys4d.kernels.elementwise import Rope

HEAD = 64  # channels of an attention head


class TemporalBlock(nn.Module):
    """Each place's features over all latent frames attend to each other, then pass through two linear layers; both are
    added to what comes in.

    Queries and keys are rotated by the number of their latent frame (RoPE), so that only distances in time count. As
    the motion modules of Video Depth Anything (Chen et al. 2025), which stand in its DPT head.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // HEAD)
        inner = self.heads * HEAD
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.qkv, self.out = nn.Linear(width, 3 * inner), nn.Linear(inner, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T', h, w, width] -> the same."""
        grid = (x.shape[1], x.shape[2], x.shape[3])
        tokens = x.flatten(1, 3)
        qkv = self.qkv(self.norms[0](tokens)).unflatten(-1, (3, self.heads, HEAD))
        table = torch.float64 if x.dtype == torch.float64 else torch.float32
        rope = Rope.make(grid, (HEAD, 0, 0), device=x.device, dtype=table)
        tokens = tokens + self.out(attention_packed(qkv, grid=grid, pattern=Temporal(), rope=rope).flatten(2))
        tokens = tokens + self.narrow(F.gelu(self.widen(self.norms[1](tokens))))
        return tokens.view_as(x)
