"""Where tokens lie: rows and columns of a latent frame, latent frames of a clip, places in the image."""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from phys4d.models.interface import Grid


def rows_of(hidden: Sequence[Tensor], noisy: Tensor) -> tuple[int, int]:
    """Rows and columns of tokens: a token is a square of latents in one latent frame.

    hidden: tapped tokens [B, T' h w, C]. noisy: the latents [B, C, T', H', W'].
    """
    frames, height, width = noisy.shape[2:]
    side = math.isqrt(frames * height * width // hidden[0].shape[1])
    return height // side, width // side


def latent_frames(tokens: Tensor, count: int, own: slice | None) -> Tensor:
    """Tokens [B, T' h w, C] of a clip of `count` latent frames -> [B, T'', h w, C], those of the frames `own`; None:
    all."""
    whole = tokens.unflatten(1, (count, -1))
    return whole if own is None else whole[:, own]


def at_size(place: Tensor, h: int, w: int) -> Tensor:
    """An embedding of places [h', w', C] for h x w tokens: as it is at its own size, elsewhere interpolated, so that a
    place keeps its share of the image's height and width."""
    if place.shape[:2] == (h, w):
        return place
    image = place.permute(2, 0, 1)[None]
    return F.interpolate(image, (h, w), mode="bicubic", align_corners=False)[0].permute(1, 2, 0)


def token_side(grid: Grid, least: int, kind: str) -> int:
    """Rows and columns of pixels of a token; ValueError unless that is a square of a power of two from `least` on."""
    _, sh, sw = grid.token_stride
    if sh != sw or sh & (sh - 1) or sh < least:
        sides = ", ".join(str(least << k) for k in range(3))
        raise ValueError(f"{kind} head: a token of {sh}x{sw} pixels; needs a square of {sides}, ... pixels")
    return sh
