"""The definition of norm and rotation in plain torch, any dtype up to float64, forward and backward."""

import torch
from torch import Tensor

from phys4d.kernels.elementwise.rope import Grid, Rope


def norm_rope_reference(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, kind: str, epsilon: float, rope: Rope | None,
    grid: Grid, begin: int,
) -> Tensor:  # fmt: skip
    """`norm_rope` in plain torch: float32 inside (float64 for float64), rounded once.

    Args:
        x: [B, S, heads, D]; weight, bias: [D], or [heads * D] across heads; None for none.
        kind: "rms", "layer", "rms_across_heads", or "" for no norm; epsilon: added to the mean square.
        rope: the rotation, None for none; grid: (T, H, W) of the video.
        begin: position of token 0 among the video's tokens; tokens outside of the video are not rotated.
    """
    exact = torch.promote_types(x.dtype, torch.float32)
    y = x.to(exact)
    if kind:
        assert weight is not None
        y, _ = _normed(y, kind, epsilon)
        y = y * weight.to(exact).reshape(-1, x.shape[3])
        if bias is not None:
            y = y + bias.to(exact)
    if rope is not None:
        y = _rotated(y, rope, grid, begin, 1)
    return y.to(x.dtype)


def norm_rope_backward_reference(
    x: Tensor, dy: Tensor, weight: Tensor | None, bias: Tensor | None, kind: str, epsilon: float, rope: Rope | None,
    grid: Grid, begin: int,
) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    """Gradients of x, and, in float32 (float64 for float64), of weight and bias."""
    exact = torch.promote_types(dy.dtype, torch.float32)
    gradient = dy.to(exact)
    if rope is not None:
        gradient = _rotated(gradient, rope, grid, begin, -1)
    if not kind:
        return gradient.to(dy.dtype).contiguous(), None, None
    assert weight is not None
    unit, factor = _normed(x.to(exact), kind, epsilon)
    dweight, dbias = (
        part.sum((0, 1)).flatten() if kind == "rms_across_heads" else part.sum((0, 1, 2))
        for part in (gradient * unit, gradient)
    )
    gradient = gradient * weight.to(exact).reshape(-1, x.shape[3])
    axes = _axes(kind)
    dx = gradient - unit * (gradient * unit).mean(axes, keepdim=True)
    if kind == "layer":
        dx = dx - gradient.mean(axes, keepdim=True)
    return (dx * factor).to(dy.dtype).contiguous(), dweight, dbias if bias is not None else None


def _axes(kind: str) -> tuple[int, ...]:
    return (-2, -1) if kind == "rms_across_heads" else (-1,)


def _normed(x: Tensor, kind: str, epsilon: float) -> tuple[Tensor, Tensor]:
    if kind == "layer":
        x = x - x.mean(-1, keepdim=True)
    factor = (x.square().mean(_axes(kind), keepdim=True) + epsilon).rsqrt()
    return x * factor, factor


def _rotated(y: Tensor, rope: Rope, grid: Grid, begin: int, sign: int) -> Tensor:
    """y rotated by the angles of its tokens, or back."""
    sizes = tuple(grid)
    time, height, width = (table.to(y.dtype) for table in rope.tables)
    rotations = torch.cat(
        (
            time[: sizes[0], None, None].expand(*sizes, -1, 2),
            height[None, : sizes[1], None].expand(*sizes, -1, 2),
            width[None, None, : sizes[2]].expand(*sizes, -1, 2),
        ),
        dim=-2,
    ).flatten(0, 2)
    position = begin + torch.arange(y.shape[1], device=y.device)
    video = ((position >= 0) & (position < len(rotations)))[:, None]
    rotations = rotations[position.clamp(0, len(rotations) - 1)]
    cosine = torch.where(video, rotations[..., 0], 1)[:, None]
    sine = sign * torch.where(video, rotations[..., 1], 0)[:, None]
    if rope.layout == "half":
        first, second = y.chunk(2, dim=-1)
        return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)
    channels = 2 * rope.pairs
    first, second = y[..., 0:channels:2], y[..., 1:channels:2]
    rotated = torch.stack((first * cosine - second * sine, second * cosine + first * sine), dim=-1)
    return torch.cat((rotated.flatten(-2), y[..., channels:]), dim=-1)
