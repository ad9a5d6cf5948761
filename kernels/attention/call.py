"""The arguments of one call of `attention`, checked."""

from dataclasses import dataclass

import torch
from torch import Tensor

from phys4d.kernels.attention.parts import Parts
from phys4d.kernels.attention.patterns import Grid, Pattern, Rows, Text, check_pattern
from phys4d.kernels.dispatch import FLOATING, expect_dtypes, has_autocast
from phys4d.kernels.elementwise import QKNorm, Rope


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The dtype of autocast for tensors on this device; None where it is off or this kind of device has none."""
    on = has_autocast(device.type) and torch.is_autocast_enabled(device.type)
    return torch.get_autocast_dtype(device.type) if on else None


@dataclass(frozen=True)
class Call:
    """The arguments of one call, checked; with `parts`, q, k, v are this rank's part and the rest is of the whole.

    qk_norm and rope are applied to q and k inside the kernel or before it; with `divided`, one rank's share of a call,
    they have come before.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    grid: Grid | None
    pattern: Pattern
    text: Text | None
    key_lengths: Tensor | None
    scale: float | None
    return_lse: bool
    parts: Parts | None = None
    qk_norm: QKNorm | None = None
    rope: Rope | None = None
    divided: bool = False

    def __post_init__(self) -> None:
        q, k, v = self.q, self.k, self.v
        if q.dtype not in FLOATING:
            expect_dtypes("attention", q=q)
        for name, tensor in (("q", q), ("k", k), ("v", v)):
            if tensor.ndim != 4:
                raise ValueError(f"{name}: expected [B, S, heads, D], got {list(tensor.shape)}")
            if tensor.dtype != q.dtype or tensor.device != q.device:
                raise ValueError(
                    f"{name}: expected q's floating dtype and device ({q.dtype} on {q.device}), "
                    f"got {tensor.dtype} on {tensor.device}"
                )
            if tensor.stride(-1) != 1 and tensor.shape[-1] > 1:
                raise ValueError(f"{name}: the last dimension must be contiguous, its stride is {tensor.stride(-1)}")
        if k.shape != v.shape or (q.shape[0], *q.shape[2:]) != (k.shape[0], *k.shape[2:]):
            raise ValueError(
                "q [B, S_q, heads, D] and k, v [B, S_k, heads, D] do not fit: "
                f"got {list(q.shape)}, {list(k.shape)}, {list(v.shape)}"
            )
        if k.shape[1] == 0:
            raise ValueError("k: no keys")
        lengths = self.key_lengths
        if lengths is not None and (
            lengths.shape != (q.shape[0],) or lengths.is_floating_point() or lengths.dtype == torch.bool
        ):
            raise ValueError(f"key_lengths: expected {q.shape[0]} integers, got {lengths.dtype} {list(lengths.shape)}")
        if lengths is not None and lengths.device != q.device:
            raise ValueError(f"key_lengths: expected on {q.device} as q is, got on {lengths.device}")
        queries, keys = q.shape[1], k.shape[1]
        if self.parts is not None:
            self.parts.check(queries, keys)
            queries = keys = self.parts.count
        check_pattern(self.pattern, self.grid, self.text, queries, keys)

    @property
    def text_tokens(self) -> int:
        """How many tokens are text."""
        return self.text[0] if self.text else 0

    @property
    def rows(self) -> Rows | None:
        """The pattern's rows of cells; None where it has none, or sees all."""
        return None if self.grid is None or self.pattern.sees_all else self.pattern.rows(self.grid)

    @property
    def factor(self) -> float:
        """The scale of the scores."""
        return self.q.shape[-1] ** -0.5 if self.scale is None else self.scale

    @property
    def training(self) -> bool:
        """Whether gradients of q, k or v, or of the weights that norm them, are recorded."""
        if not torch.is_grad_enabled():
            return False
        norm = self.qk_norm
        weights = (norm.q_weight, norm.k_weight, norm.q_bias, norm.k_bias) if norm is not None else ()
        return any(t is not None and t.requires_grad for t in (self.q, self.k, self.v, *weights))
