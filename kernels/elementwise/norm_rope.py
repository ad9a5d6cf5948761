"""Norm of queries and keys and their rotation, in one pass, trainable."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from phys4d.kernels.dispatch import expect_dtypes, expect_one_device
from phys4d.kernels.elementwise import norm_rope_ops as ops
from phys4d.kernels.elementwise.rope import Grid, Rope

Text = tuple[int, Literal["first", "last"]]
Kind = Literal["rms", "layer", "rms_across_heads"]
KINDS: tuple[Kind, ...] = ("rms", "layer", "rms_across_heads")


@dataclass(frozen=True)
class QKNorm:
    """The norm of queries and keys.

    Args:
        kind: "rms" per head (Open-Sora), "layer" per head (CogVideoX), "rms_across_heads" over all heads (Wan).
        q_weight, k_weight: [D], or [heads * D] across heads.
        q_bias, k_bias: of "layer", like the weights.
        epsilon: added to the mean square.
    """

    kind: Kind
    q_weight: Tensor
    k_weight: Tensor
    q_bias: Tensor | None = None
    k_bias: Tensor | None = None
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        _check_kind(self.kind)


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"qk_norm: expected rms, layer or rms_across_heads, got {kind!r}")


def norm_rope(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, kind: Kind | None, epsilon: float, rope: Rope | None,
    grid: Grid, begin: int = 0,
) -> Tensor:  # fmt: skip
    """Norm of every token's heads, then their rotation: one read, one write, float32 between.

    Args:
        x: [B, S, heads, D], any strides with a contiguous last dimension, D even.
        weight, bias: [D], or [heads * D] for "rms_across_heads"; bias for "layer" alone.
        kind: which norm, None for none.
        epsilon: added to the mean square.
        rope: the rotation, None for none.
        grid: (T, H, W) of the video's tokens.
        begin: position among the video's tokens at which token 0 stands; tokens before 0 and beyond the video, which
            are text, are not rotated.

    Returns:
        [B, S, heads, D], contiguous, in x's dtype; differentiable in x, weight and bias.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit.
        RuntimeError: inside torch.func or forward-mode differentiation.
    """
    check_norm_rope(x, weight, bias, kind, rope, grid)
    tables = rope.tables if rope else (None, None, None)
    return ops.call(x, weight, bias, kind or "", epsilon, *tables, rope.layout if rope else "", list(grid), begin)


def qk_norm_rope(
    q: Tensor, k: Tensor, norm: QKNorm | None, rope: Rope | None, *,
    grid: Grid, text: Text | None = None, start: int | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`norm_rope` of queries and keys [B, S, heads, D], with text before or after the video.

    Args:
        q, k: [B, S, heads, D], floating.
        norm, rope, grid: as in `norm_rope`.
        text: (n, "first" | "last"): normed, not rotated.
        start: position of token 0 in the whole sequence, where this is a part of it; None where it is the whole, to
            which grid and text then add up if there is a rotation.

    Returns:
        Queries and keys [B, S, heads, D], contiguous, in their dtypes.

    Raises:
        ValueError: shapes that do not fit.
    """
    _check_place(rope, grid, text, start, q.shape[1], k.shape[1])
    begin = (start or 0) - (text[0] if text and text[1] == "first" else 0)
    if norm is None:
        return tuple(norm_rope(x, None, None, None, 0.0, rope, grid, begin) for x in (q, k))  # type: ignore[return-value]
    return (
        norm_rope(q, norm.q_weight, norm.q_bias, norm.kind, norm.epsilon, rope, grid, begin),
        norm_rope(k, norm.k_weight, norm.k_bias, norm.kind, norm.epsilon, rope, grid, begin),
    )


def _check_place(
    rope: Rope | None, grid: Grid, text: Text | None, start: int | None, queries: int, keys: int
) -> None:
    """ValueError unless the rotation is of every token's own place."""
    if text is not None and (len(text) != 2 or text[1] not in ("first", "last") or text[0] < 0):
        raise ValueError(f'text: expected (number of tokens, "first" or "last"), got {text}')
    if rope is None:
        return
    number = text[0] if text else 0
    whole = grid[0] * grid[1] * grid[2] + number
    for count in (queries, keys):
        if (start or 0) + count > whole or (start is None and count != whole):
            raise ValueError(
                f"rope: grid {grid} with {number} text tokens makes a sequence of {whole}, "
                f"got {count} tokens from position {start or 0} on"
            )


def check_norm_rope(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, kind: str | None, rope: Rope | None, grid: Grid
) -> None:
    """ValueError unless x, the norm `kind` with its weight and bias, and the rotation fit each other."""
    expect_dtypes("norm_rope", x=x, weight=weight, bias=bias)
    expect_one_device("norm_rope", x=x, weight=weight, bias=bias)
    if x.ndim != 4 or x.shape[3] % 2 or (x.stride(3) != 1 and x.shape[3] > 1):
        raise ValueError(
            "norm_rope: expected floating [B, S, heads, D] with an even, contiguous D, "
            f"got {x.dtype} {list(x.shape)} with strides {x.stride()}"
        )
    heads, dim = x.shape[2:]
    if kind is not None:
        _check_kind(kind)
        expected = heads * dim if kind == "rms_across_heads" else dim
        for name, tensor in (("weight", weight), ("bias", bias)):
            if tensor is None and name == "bias":
                continue
            if tensor is None or tensor.shape != (expected,):
                got = None if tensor is None else list(tensor.shape)
                raise ValueError(f"qk_norm {kind}: expected {name} [{expected}], got {got}")
        if bias is not None and kind != "layer":
            raise ValueError(f"qk_norm {kind}: has no bias")
    if rope is not None:
        for axis, table, size in zip(("time", "height", "width"), rope.tables, grid, strict=True):
            if table.shape[1] and table.shape[0] < size:
                raise ValueError(f"rope: the {axis} table has {table.shape[0]} positions, the grid has {size}")
            if table.device != x.device:
                raise ValueError(
                    f"rope: the {axis} table is on {table.device}, the tokens are on {x.device}: "
                    "move the tables once, rope = rope.to(q.device)"
                )
        if 2 * rope.pairs > dim or (rope.layout == "half" and 2 * rope.pairs != dim):
            raise ValueError(f"rope: {rope.pairs} pairs ({rope.layout}) do not fit heads of {dim} channels")
