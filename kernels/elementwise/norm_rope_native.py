"""`norm_rope` by native code on a CPU: one pass over tokens, each in the innermost cache while it is worked on."""

import torch
from torch import Tensor

from phys4d.kernels import native
from phys4d.kernels.dispatch import with_rows

NORMS = ("", "rms", "layer", "rms_across_heads")  # numbered as in native/src/norm_rope.h
DTYPES = (torch.float32, torch.bfloat16)
WIDEST = 8192  # channels of all heads of a token


def serves(x: Tensor) -> bool:
    """Whether native code is there and knows the dtype and the width of x; else torch's own operators compute."""
    return native.status()[0] and x.dtype in DTYPES and x.shape[2] * x.shape[3] <= WIDEST


def forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, kind: str, epsilon: float, tables: list[Tensor | None],
    layout: str, grid: list[int], begin: int,
) -> Tensor:  # fmt: skip
    """What the operator gives."""
    norm = _vector(weight), _vector(bias), NORMS.index(kind), epsilon
    rotation = *map(_table, tables), layout == "half", grid, begin
    return torch.ops.phys4d.native_norm_rope(with_rows(x), *norm, *rotation)


def backward(
    x: Tensor, dy: Tensor, weight: Tensor | None, bias: Tensor | None, kind: str, epsilon: float,
    tables: list[Tensor | None], layout: str, grid: list[int], begin: int, weight_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients as the operator's backward gives them; the sums have the same bits for any number of threads."""
    norm = _vector(weight), NORMS.index(kind), epsilon
    rotation = *map(_table, tables), layout == "half", grid, begin
    dx, sums = torch.ops.phys4d.native_norm_rope_backward(
        with_rows(x) if kind else None, with_rows(dy), *norm, *rotation, weight_gradient
    )
    nothing = sums.new_empty(0)
    if not sums.numel():
        return dx, nothing, nothing.clone()
    if kind == "rms_across_heads":
        return dx, sums[0], nothing
    dweight, dbias = (by_head.view(dy.shape[2:]).sum(0) for by_head in sums)  # heads share their weight
    return dx, dweight, nothing if bias is None else dbias


def _vector(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.to(torch.float32).contiguous()


def _table(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.to(torch.float32).contiguous()
