"""Norm and rotation as they are defined, in plain torch: the truth that the kernels are held to."""

import torch
from torch import Tensor

from phys4d.kernels.elementwise.rope import Grid, Rope


def norm_rope_reference(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, kind: str, epsilon: float, rope: Rope | None,
    grid: Grid, begin: int,
) -> Tensor:  # fmt: skip
    """`norm_rope` in plain torch: float32 inside (float64 for float64), rounded once."""
    exact = torch.promote_types(x.dtype, torch.float32)
    y = x.to(exact)
    if kind:
        assert weight is not None
        y, _ = _normed(y, kind, epsilon)
        y = y * weight.to(exact).reshape(-1, x.shape[3])
        if bias is not None:
            y = y + bias.to(exact).reshape(-1, x.shape[3])
    if rope is not None:
        y = _turned(y, rope, grid, begin, 1)
    return y.to(x.dtype)


def norm_rope_backward_reference(
    x: Tensor, dy: Tensor, weight: Tensor | None, bias: Tensor | None, kind: str, epsilon: float, rope: Rope | None,
    grid: Grid, begin: int,
) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    """Gradients of x, and, in float32 (float64 for float64), of weight and bias."""
    exact = torch.promote_types(dy.dtype, torch.float32)
    gradient = dy.to(exact)
    if rope is not None:
        gradient = _turned(gradient, rope, grid, begin, -1)
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


def _turned(y: Tensor, rope: Rope, grid: Grid, begin: int, sign: int) -> Tensor:
    """y rotated by the angles of its tokens, or back."""
    sizes = tuple(grid)
    time, height, width = (table.to(y.dtype) for table in rope.tables)
    turns = torch.cat(
        (
            time[: sizes[0], None, None].expand(*sizes, -1, 2),
            height[None, : sizes[1], None].expand(*sizes, -1, 2),
            width[None, None, : sizes[2]].expand(*sizes, -1, 2),
        ),
        dim=-2,
    ).flatten(0, 2)
    position = begin + torch.arange(y.shape[1], device=y.device)
    video = ((position >= 0) & (position < len(turns)))[:, None]
    turns = turns[position.clamp(0, len(turns) - 1)]
    cosine = torch.where(video, turns[..., 0], 1)[:, None]
    sine = sign * torch.where(video, turns[..., 1], 0)[:, None]
    if rope.layout == "half":
        first, second = y.chunk(2, dim=-1)
        return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)
    lanes = 2 * rope.pairs
    first, second = y[..., 0:lanes:2], y[..., 1:lanes:2]
    turned = torch.stack((first * cosine - second * sine, second * cosine + first * sine), dim=-1)
    return torch.cat((turned.flatten(-2), y[..., lanes:]), dim=-1)


def adaptive_norm_reference(
    x: Tensor, y: Tensor | None, gate: Tensor | None, weight: Tensor | None, bias: Tensor | None, scale: Tensor | None,
    shift: Tensor | None, index: Tensor | None, kind: str, epsilon: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`adaptive_norm` in plain torch: float32 inside (float64 for float64); index: the row of each token."""
    exact = torch.promote_types(x.dtype, torch.float32)

    def of_tokens(table: Tensor) -> Tensor:
        if index is not None:
            return table.to(exact)[index.long()]
        each = x.shape[0] * x.shape[1] // len(table)
        return table.to(exact)[:, None].expand(-1, each, -1).reshape(x.shape)

    stream = x
    if y is not None:
        stream = (x.to(exact) + (1 if gate is None else of_tokens(gate)) * y.to(exact)).to(x.dtype)
    out = stream.to(exact)
    if kind:
        out, _ = _normed(out, kind, epsilon)
    if weight is not None:
        out = out * weight.to(exact)
    if bias is not None:
        out = out + bias.to(exact)
    if scale is not None:
        out = out * (1 + of_tokens(scale))
    if shift is not None:
        out = out + of_tokens(shift)
    return stream, out.to(x.dtype)
