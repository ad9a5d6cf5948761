"""Gate, residual, norm and modulation: what stands between the layers of a DiT block, in one pass, trainable."""

from typing import Literal

from torch import Tensor

from phys4d.kernels.dispatch import FLOATING, expect_dtypes, expect_one_device
from phys4d.kernels.elementwise import adaptive_norm_ops as ops
from phys4d.kernels.elementwise.token_rows import TokenRows

Norm = Literal["layer", "rms"]


def adaptive_norm(
    x: Tensor, y: Tensor | None = None, *, gate: Tensor | None = None, norm: Norm | None = "layer",
    weight: Tensor | None = None, bias: Tensor | None = None, epsilon: float = 1e-6, scale: Tensor | None = None,
    shift: Tensor | None = None, rows: TokenRows | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The stream x + gate * y, and norm(stream) * (1 + scale) + shift: adaLN-Zero (Peebles and Xie 2023, figure 3).

    Everything is optional but x. Statistics and all arithmetic are float32 (float64 for float64); the stream is rounded
    to its dtype before it is normed.

    Args:
        x: [B, S, C], any strides with a contiguous last dimension, C at most 8192: the stream so far.
        y: [B, S, C], of any floating dtype: what the last layer computed; None for nothing.
        gate, scale, shift: [R, C], any stride between rows, any floating dtype: the modulation. Without `rows`, B * S
            is a multiple of R, and token number i = b * S + s takes row i // (B * S // R): R = 1 is one row for all, B
            one per clip, B * T one per frame, B * S one per token.
        norm: "layer", "rms" (with epsilon added to the mean square), or None.
        weight, bias: [C], of the norm; bias for "layer" alone.
        rows: which row each token takes, where that is not as above. Equal rows are stored once.

    Returns:
        The stream [B, S, C] (x itself without y) and what goes into the next layer (the stream itself without norm and
        modulation), contiguous, in x's dtype; differentiable once, in all tensors but `rows`. Gradients of modulation,
        weight and bias are added up in a fixed order.

    Raises:
        ValueError: shapes, strides, dtypes or devices that do not fit.
        RuntimeError: inside torch.func or forward-mode differentiation.
    """
    _check(x, y, norm, {"weight": weight, "bias": bias}, {"gate": gate, "scale": scale, "shift": shift}, rows)
    if y is None and norm is None and scale is None and shift is None:
        return x, x
    plan = (None,) * 5 if rows is None else (rows.index, rows.order, rows.forward, rows.backward, rows.begins)
    stream, out, _ = ops.call(x, y, gate, weight, bias, scale, shift, *plan, norm or "", epsilon)
    stream = x if y is None else stream
    return stream, out if norm or scale is not None or shift is not None else stream


def _check(
    x: Tensor, y: Tensor | None, norm: str | None, affine: dict[str, Tensor | None], tables: dict[str, Tensor | None],
    rows: TokenRows | None,
) -> None:  # fmt: skip
    if x.ndim != 3 or x.dtype not in FLOATING or not 0 < x.shape[2] <= ops.WIDEST:
        raise ValueError(
            f"adaptive_norm: expected floating x [B, S, C] with C from 1 to {ops.WIDEST}, got {x.dtype} {list(x.shape)}"
        )
    batch, count, width = x.shape
    if y is not None and (y.shape != x.shape or y.dtype not in FLOATING):
        raise ValueError(f"adaptive_norm: expected floating y {list(x.shape)} like x, got {y.dtype} {list(y.shape)}")
    if norm not in ("layer", "rms", None):
        raise ValueError(f"adaptive_norm: expected the norm layer, rms or None, got {norm!r}")
    for name, tensor in affine.items():
        if tensor is not None and (norm is None or (norm == "rms" and name == "bias")):
            raise ValueError(f"adaptive_norm: a {name}, but the norm {norm} has none")
        if tensor is not None and tensor.shape != (width,):
            raise ValueError(f"adaptive_norm: expected {name} [{width}], got {list(tensor.shape)}")
    if tables["gate"] is not None and y is None:
        raise ValueError("adaptive_norm: a gate, but no y to go through it")
    given = {name: table for name, table in tables.items() if table is not None}
    sizes = {len(table) for table in given.values() if table.ndim == 2 and table.shape[1] == width}
    if len(sizes) > 1 or any(table.shape[1:] != (width,) for table in given.values()):
        shapes = ", ".join(f"{name} {list(table.shape)}" for name, table in given.items())
        raise ValueError(f"adaptive_norm: expected gate, scale and shift [R, {width}] of equal R, got {shapes}")
    if rows is not None and rows.index.shape != (batch, count):
        raise ValueError(f"adaptive_norm: expected rows of {[batch, count]} tokens, got {list(rows.index.shape)}")
    if rows is not None and any(len(rows.begins) != size + 1 for size in sizes):
        raise ValueError(
            f"adaptive_norm: rows made for {len(rows.begins) - 1}, gate, scale and shift have {sizes.pop()}"
        )
    if rows is None and any(size == 0 or batch * count % size for size in sizes):
        raise ValueError(
            f"adaptive_norm: {sizes.pop()} rows do not share {batch} x {count} tokens evenly: "
            "give rows=TokenRows.of(index, R)"
        )
    for name, tensor in {"x": x, "y": y, **given}.items():
        if tensor is not None and tensor.stride(-1) != 1 and width > 1:
            raise ValueError(f"adaptive_norm: expected {name} with a contiguous last dimension: {tensor.stride()}")
    expect_dtypes("adaptive_norm", **affine, **tables)
    expect_one_device("adaptive_norm", x=x, y=y, **affine, **tables)
    if rows is not None:
        expect_one_device(
            "adaptive_norm", x=x, index=rows.index, order=rows.order, forward=rows.forward, backward=rows.backward,
            begins=rows.begins,
        )  # fmt: skip
