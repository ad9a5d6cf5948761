"""The arguments of one call of `attention`, checked."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

from phys4d.kernels.attention.parts import Parts
from phys4d.kernels.attention.patterns import Grid, Pattern, Rows, Text, check_pattern, tokens
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
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        q, k, v = self.q, self.k, self.v
        dtype, device = q.dtype, q.device
        if dtype not in FLOATING:
            expect_dtypes("attention", q=q)
        for name, tensor in (("q", q), ("k", k), ("v", v)):
            if tensor.ndim != 4:
                raise ValueError(f"{name}: expected [B, S, heads, D], got {list(tensor.shape)}")
            if tensor.dtype != dtype or tensor.device != device:
                raise ValueError(
                    f"{name}: expected q's floating dtype and device ({dtype} on {device}), "
                    f"got {tensor.dtype} on {tensor.device}"
                )
            if tensor.stride(-1) != 1 and tensor.shape[-1] > 1:
                raise ValueError(f"{name}: the last dimension must be contiguous, its stride is {tensor.stride(-1)}")
        clips, queries, heads, dim = q.shape  # read once: each reading makes an object
        key_clips, keys, kv_heads, key_dim = k.shape
        if (key_clips, keys, kv_heads) != tuple(v.shape[:3]) or clips != key_clips or dim != key_dim:
            raise ValueError(
                "q [B, S_q, heads, D], k [B, S_k, kv_heads, D] and v [B, S_k, kv_heads, D_v] do not fit: "
                f"got {list(q.shape)}, {list(k.shape)}, {list(v.shape)}"
            )
        if heads != kv_heads and (not kv_heads or heads % kv_heads):
            raise ValueError(f"heads: {heads} of the queries do not divide over {kv_heads} of keys and values")
        if keys == 0:
            raise ValueError("k: no keys")
        lengths = self.key_lengths
        if lengths is not None and (
            lengths.shape != (clips,) or lengths.is_floating_point() or lengths.dtype == torch.bool
        ):
            raise ValueError(f"key_lengths: expected {clips} integers, got {lengths.dtype} {list(lengths.shape)}")
        if lengths is not None and lengths.device != device:
            raise ValueError(f"key_lengths: expected on {device} as q is, got on {lengths.device}")
        if self.parts is not None:
            self.parts.check(queries, keys)
            queries = keys = self.parts.count
        if self.mask is not None:
            _check_mask(self.mask, q, queries, keys)
        check_pattern(self.pattern, self.grid, self.text, queries, keys)
        if self.rope is not None:
            _check_rotation(self.grid, self.text, queries, keys)

    @property
    def text_tokens(self) -> int:
        """How many tokens are text."""
        return self.text[0] if self.text else 0

    @property
    def one_row(self) -> bool:
        """Whether all tokens stand in one row, dense or causal, whose queries and keys may differ in number."""
        return self.pattern.crosses and (self.pattern.sees_all or not self.text_tokens)

    @property
    def rows(self) -> Rows | None:
        """The pattern's rows of cells beside the text; None where it has none, or all is `one_row`."""
        return None if self.grid is None or self.one_row else self.pattern.rows(self.grid)

    @property
    def causal(self) -> bool:
        """Whether the rows, or the one row, are causal."""
        rows = self.pattern.rows(self.grid or (1, 1, 1))
        return rows is not None and rows.causal

    @property
    def grouped(self) -> bool:
        """Whether several heads of queries share one of keys and values."""
        return self.q.shape[2] != self.k.shape[2]

    @property
    def asymmetric(self) -> bool:
        """Whether heads of values have another number of channels than those of queries and keys."""
        return self.v.shape[3] != self.q.shape[3]

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
        return any(t is not None and t.requires_grad for t in (self.q, self.k, self.v, self.mask, *weights))

    @property
    def mask_training(self) -> bool:
        """Whether the gradient of the mask is recorded."""
        return self.mask is not None and self.mask.requires_grad and torch.is_grad_enabled()


def lengths_of(key_lengths: Tensor | Sequence[int] | None, q: Tensor) -> Tensor | None:
    """The lengths as a tensor on q's device; of integers by a copy from pinned memory, for which the host never waits.

    Raises:
        ValueError: neither a tensor nor B integers.
    """
    if key_lengths is None or isinstance(key_lengths, Tensor):
        return key_lengths
    given = isinstance(key_lengths, list | tuple)
    if not given or any(isinstance(n, bool) or not isinstance(n, int | torch.SymInt) for n in key_lengths):
        raise ValueError(f"key_lengths: expected a tensor, or a list of integers, got {key_lengths!r}")
    lengths = torch.tensor(key_lengths, dtype=torch.int64)
    if not q.is_cuda or torch.compiler.is_compiling() or is_fake(q):
        return lengths.to(q.device)
    return lengths.pin_memory().to(q.device, non_blocking=True)


def _check_mask(mask: Tensor, q: Tensor, queries: int, keys: int) -> None:
    if mask.dtype != torch.bool and mask.dtype not in FLOATING:
        raise ValueError(f"mask: expected bool (true: seen) or floating (added to the scores), got {mask.dtype}")
    if mask.device != q.device:
        raise ValueError(f"mask: expected on {q.device} as q is, got on {mask.device}")
    wanted = (q.shape[0], q.shape[2], queries, keys)
    fits = mask.ndim == 4 and mask.shape[3] == keys
    if not fits or any(n not in (1, m) for n, m in zip(mask.shape[:3], wanted[:3], strict=True)):
        raise ValueError(
            f"mask: expected [B or 1, heads or 1, S_q or 1, S_k] of {list(wanted)}, got {list(mask.shape)}"
        )


def _check_rotation(grid: Grid | None, text: Text | None, queries: int, keys: int) -> None:
    """A rotation must know of every token where it stands in the video, or that it is text."""
    if grid is None or queries != keys:
        raise ValueError("rope: needs the video's grid, and as many queries as keys")
    if queries != tokens(grid, text):
        raise ValueError(
            f"rope: grid {grid} with {text[0] if text else 0} text tokens makes a sequence of {tokens(grid, text)}, "
            f"got {queries} queries"
        )
