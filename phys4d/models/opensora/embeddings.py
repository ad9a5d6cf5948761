"""What STDiT3 is conditioned on: places of tokens, timesteps, frames a second, captions, as vectors."""

import math

import torch
from torch import Tensor, nn

FREQUENCIES = 256


def places(rows: int, columns: int, width: int, pixels: tuple[int, int], square: int, device: torch.device) -> Tensor:
    """Sines and cosines of the places of one frame's tokens, fp32 [rows * columns, width].

    A frame of any size spans the same coordinates, 0 to round(sqrt(rows * columns)) along each axis, over its size
    relative to `square` pixels a side. The first half of the channels is the column's, the second the row's
    (`PositionEmbedding2D` of the public opensora/models/layers/blocks.py).

    pixels: height and width of a frame; device: of the result.
    """
    scale = math.sqrt(pixels[0] * pixels[1]) / square
    base = round(math.sqrt(rows * columns))
    half = width // 2
    rate = 1.0 / (10000 ** (torch.arange(0, half, 2, device=device).float() / half))

    def along(count: int) -> Tensor:
        angle = (torch.arange(count, device=device) / scale * (base / count))[:, None] * rate
        return torch.cat([angle.sin(), angle.cos()], 1)

    column = along(columns)[None].expand(rows, -1, -1)
    row = along(rows)[:, None].expand(-1, columns, -1)
    return torch.cat([column, row], -1).flatten(0, 1)


class NumberEmbedder(nn.Module):
    """Numbers [B] -> [B, width]: cosines and sines at 128 frequencies, in fp32, then two linear layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, numbers: Tensor) -> Tensor:
        half = FREQUENCIES // 2
        rate = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=numbers.device) / half)
        angle = numbers.float()[:, None] * rate
        embedding: Tensor = self.mlp(torch.cat([angle.cos(), angle.sin()], 1).to(next(self.parameters()).dtype))
        return embedding


class Mlp(nn.Module):
    """Two linear layers with the tanh form of GELU between."""

    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(width, hidden), nn.GELU("tanh"), nn.Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., out]."""
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out


class CaptionEmbedder(nn.Module):
    """Text tokens [B, L, text width] -> [B, L, width]; `y_embedding` stands for the tokens of no caption.

    Published files hold `y_embedding` among the weights; it is not trained.
    """

    def __init__(self, text_width: int, width: int, tokens: int) -> None:
        super().__init__()
        self.y_proj = Mlp(text_width, width, width)
        self.y_embedding = nn.Parameter(torch.randn(tokens, text_width) / text_width**0.5, requires_grad=False)

    def forward(self, text: Tensor) -> Tensor:
        embedded: Tensor = self.y_proj(text)
        return embedded
