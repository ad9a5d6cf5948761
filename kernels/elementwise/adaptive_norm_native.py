"""`adaptive_norm` by native code on a CPU: one pass over tokens, each in the innermost cache while it is worked on."""

import torch
from torch import Tensor

from phys4d.kernels import native
from phys4d.kernels.dispatch import contiguous_integers

NORMS = ("", "layer", "rms")  # numbered as in native/src/adaptive_norm.h
DTYPES = (torch.float32, torch.bfloat16)


def serves(*tensors: Tensor | None) -> bool:
    """Whether native code is there and knows the dtypes of all of these; else torch's own operators compute."""
    return native.status()[0] and all(t is None or t.dtype in DTYPES for t in tensors)


def forward(
    x: Tensor, y: Tensor | None, gate: Tensor | None, weight: Tensor | None, bias: Tensor | None, scale: Tensor | None,
    shift: Tensor | None, index: Tensor | None, rows: int, kind: str, epsilon: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Stream, out and stats as the operator gives them; `rows` of the tables."""
    weight, bias = _affine(weight), _affine(bias)
    arguments = x, y, gate, weight, bias, scale, shift, contiguous_integers(index), rows, NORMS.index(kind), epsilon
    return torch.ops.phys4d.native_adaptive_norm(*arguments)


def backward(
    stream: Tensor, y: Tensor | None, dy_dtype: torch.dtype, gate: Tensor | None, weight: Tensor | None,
    scale: Tensor | None, stats: Tensor, dstream: Tensor | None, dout: Tensor | None, order: Tensor | None,
    long: Tensor | None, begins: Tensor | None, kind: str, rows: int, tables_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients as the operator's backward gives them; the sums have the same bits for any number of threads."""
    plan_of = [contiguous_integers(t) for t in (order, long, begins)]
    given = stream, y, dy_dtype == torch.bfloat16, gate, _affine(weight), scale, stats, dstream, dout
    return torch.ops.phys4d.native_adaptive_norm_backward(*given, *plan_of, NORMS.index(kind), rows, tables_gradient)


def _affine(vector: Tensor | None) -> Tensor | None:
    return None if vector is None else vector.contiguous()
