"""The vision transformer of DINOv2, in the key layout that its authors publish.

transformers' Dinov2 differs in one thing: it resizes the position embedding to an exact size, where the published code
scales it by (n + 0.1) / 37 patches, so that every frame but a square one of 518 pixels would have other positions.

Source: Oquab et al., DINOv2, 2023; dinov2/models/vision_transformer.py.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH = 14
"""Pixels of a side of a patch."""

_PUBLISHED = 518 // PATCH  # patches of a side of the published position embedding
_OFFSET = 0.1
_EPS = 1e-6


class DINOv2(nn.Module):
    """Features of frames after chosen blocks.

    width: of a token. depth: number of blocks. heads: of attention.
    """

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + _PUBLISHED**2, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))  # of its training; published with the others
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, PATCH, PATCH)})
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=_EPS)

    def forward(self, frames: Tensor, after: Sequence[int]) -> list[Tensor]:
        """frames float [N, 3, H, W], sides multiples of 14 -> for each block of `after`, by number, its normalised
        features [N, width, H / 14, W / 14]."""
        patches = self.patch_embed["proj"](frames)
        size = patches.shape[2:]
        tokens = torch.cat((self.cls_token.expand(len(frames), -1, -1), patches.flatten(2).mT), dim=1)
        tokens, found = tokens + self._positions(*size), []
        for number, block in enumerate(self.blocks):
            tokens = block(tokens)
            if number in after:
                found.append(self.norm(tokens)[:, 1:].mT.unflatten(2, size).contiguous())
        return found

    def _positions(self, rows: int, columns: int) -> Tensor:
        if rows == columns == _PUBLISHED:
            return self.pos_embed
        grid = self.pos_embed[:, 1:].mT.unflatten(2, (_PUBLISHED, _PUBLISHED))
        scale = [(side + _OFFSET) / _PUBLISHED for side in (rows, columns)]
        resized = F.interpolate(grid, scale_factor=scale, mode="bicubic")
        return torch.cat((self.pos_embed[:, :1], resized.flatten(2).mT), dim=1)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=_EPS), nn.LayerNorm(width, eps=_EPS)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})
        self.ls1, self.ls2 = (nn.ParameterDict({"gamma": torch.ones(width)}) for _ in range(2))

    def forward(self, tokens: Tensor) -> Tensor:
        qkv = self.attn["qkv"](self.norm1(tokens)).unflatten(2, (3, self.heads, -1))
        mixed = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4)).transpose(1, 2).flatten(2)
        tokens = tokens + self.ls1["gamma"] * self.attn["proj"](mixed)
        hidden = F.gelu(self.mlp["fc1"](self.norm2(tokens)))
        return tokens + self.ls2["gamma"] * self.mlp["fc2"](hidden)
