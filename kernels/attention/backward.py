"""The gradients of attention from its results, as needed where a call is computed in blocks."""

from collections.abc import Sequence

import torch
from torch import Tensor

from phys4d.kernels.attention import ops
from phys4d.kernels.attention.backends.triton import TRITON
from phys4d.kernels.attention.call import Call, lengths_of
from phys4d.kernels.attention.patterns import Full, Grid, Pattern, Text
from phys4d.kernels.attention.qk_transform import NO_TRANSFORM
from phys4d.kernels.attention.reference import attention_backward_reference
from phys4d.kernels.dispatch import INTERPRETED, expect_dtypes, expect_one_device


def attention_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    dout: Tensor,
    dlse: Tensor | None = None,
    *,
    grid: Grid | None = None,
    pattern: Pattern = Full(),  # noqa: B008 (frozen)
    text: Text | None = None,
    key_lengths: Tensor | Sequence[int] | None = None,
    mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `attention` from out and lse, recomputing its weights (Dao et al. 2022, Appendix B.2).

    Of `Full()`, k and v may be a part of the keys that out and lse are over: then dk and dv are those of that part, and
    the parts' dq add up to that of the whole.

    Args:
        q: [B, S_q, heads, D], normed and rotated.
        k, v: [B, S_k, kv_heads, D] and [B, S_k, kv_heads, D_v], likewise.
        out: [B, S_q, heads, D_v] of the forward call, in q's dtype.
        lse: [B, heads, S_q] of the forward call, natural log, float32 (float64 for float64).
        dout: gradient of out, in its dtype.
        dlse: gradient of lse, [B, heads, S_q]; None for none.
        grid, pattern, text, key_lengths, mask, scale: as `attention`.

    Returns:
        dq, dk, dv, shaped like q, k, v, in their dtype: by the Triton kernels where they serve (CUDA; 16 and 32 bit),
        else by the definition.

    Raises:
        ValueError: shapes, dtypes, strides or devices that do not fit.
    """
    key_lengths = lengths_of(key_lengths, q)
    call = Call(q, k, v, grid, pattern, text, key_lengths, scale, return_lse=True, mask=mask)
    rows, whole = (q.shape[0], q.shape[2], q.shape[1]), (*q.shape[:3], v.shape[3])
    given = (("out", out, whole), ("lse", lse, rows), ("dout", dout, whole), ("dlse", dlse, rows))
    for name, tensor, shape in given:
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name}: expected {list(shape)}, got {list(tensor.shape)}")
    for name, tensor in (("out", out), ("dout", dout)):
        if tensor.dtype != q.dtype:
            raise ValueError(f"{name}: expected q's dtype {q.dtype}, got {tensor.dtype}")
    expect_dtypes("attention_backward", lse=lse, dlse=dlse)
    expect_one_device("attention_backward", q=q, out=out, lse=lse, dout=dout, dlse=dlse)
    if TRITON.refusal(call) is not None and (INTERPRETED or q.device.type not in ("cpu", "meta")):
        return attention_backward_reference(
            q, k, v, out, lse, dout, dlse,
            grid=grid, pattern=pattern, text=text, key_lengths=key_lengths, mask=mask, scale=scale,
        )  # fmt: skip
    lse = lse.to(lse.dtype if q.dtype == torch.float64 else torch.float32)
    dq, dk, dv, _ = ops.attention_backward_op(
        q, k, v, out, lse, dout, dlse, *ops.flat_pattern(pattern, grid, text), key_lengths, mask, call.factor,
        *NO_TRANSFORM, False,
    )  # fmt: skip
    return dq, dk, dv
