"""A block of Open-Sora 1.2's STDiT3 in plain torch, spatial or temporal, with its operators or ours.

Source of the computation: hpcaitech/Open-Sora v1.2, opensora/models/stdit/stdit3.py (STDiT3Block) and
opensora/models/layers/blocks.py (Attention, MultiHeadCrossAttention). Where the original calls flash-attn or xformers,
this file calls torch's scaled_dot_product_attention; as there, many short sequences use explicit matrix products.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phys4d.kernels.attention import Spatial, Temporal, attention, attention_packed
from phys4d.kernels.attention.patterns import Grid
from phys4d.kernels.elementwise import QKNorm, Rope, adaptive_norm

_EPSILON = 1e-6


class OpenSoraBlock(nn.Module):
    """Self-attention within frames or along time, cross-attention to text, and feed-forward, in this order.

    Args:
        width: channels.
        heads: attention heads.
        hidden: channels inside the feed-forward layer.
        grid: T, H, W of the video.
        temporal: tokens attend along time, with rotary embedding; else within their frame.
        attention: "stock" or "ours", of both attentions.
        norm: "stock" or "ours": gate, residual, norm and modulation.
    """

    def __init__(
        self, width: int, heads: int, hidden: int, grid: Grid, *, temporal: bool, attention: str = "stock",
        norm: str = "stock",
    ) -> None:  # fmt: skip
        super().__init__()
        self.width, self.heads, self.grid, self.temporal = width, heads, grid, temporal
        self.attention, self.norm = attention, norm
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.q_norm, self.k_norm = (nn.Parameter(torch.ones(width // heads)) for _ in range(2))
        self.q_linear, self.kv_linear = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.cross_proj = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))
        self.scale_shift_table = nn.Parameter(torch.randn(6, width) / width**0.5)
        self._rope: Rope | None = None

    def forward(self, x: Tensor, text: Tensor, t: Tensor, t0: Tensor, masked: Tensor) -> Tensor:
        """One block.

        Args:
            x: [B, T * H * W, C].
            text: [B, words, C].
            t: [B, 6 * C], the modulation of the timestep; t0: that of timestep 0.
            masked: [B, T] bool: frames that use t; the others, which are conditions, use t0.
        """
        rows = (self.scale_shift_table + t.unflatten(1, (6, -1)), self.scale_shift_table + t0.unflatten(1, (6, -1)))
        kind = _Rows if self.norm == "ours" else _Chosen
        between = kind(*rows, masked, self.grid)
        x = between.added(x, self._self_attention(between.normed(x, 0)), 2)
        x, out = between.added_and_normed(x, self._cross_attention(x, text), 3)
        return between.added(x, self.mlp(out), 5)

    def rope(self, device: torch.device) -> Rope:
        """Rotation by time only; computed once."""
        if self._rope is None:
            self._rope = Rope.make(self.grid, (self.width // self.heads, 0, 0), device=device)
        return self._rope

    def _self_attention(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        rope = self.rope(x.device) if self.temporal else None
        if self.attention == "ours":
            pattern = Temporal() if self.temporal else Spatial()
            norm = QKNorm("rms", self.q_norm, self.k_norm, epsilon=_EPSILON)
            out = attention_packed(qkv, grid=self.grid, pattern=pattern, qk_norm=norm, rope=rope)
            return self.proj(out.flatten(2))
        # [B, T * places, 3, heads, D] to rows [B * T, places, ...], or [B * places, T, ...]
        rows = qkv.unflatten(1, (self.grid[0], -1))
        rows = (rows.transpose(1, 2) if self.temporal else rows).flatten(0, 1)
        q, k, v = rows.permute(2, 0, 3, 1, 4).unbind(0)
        q, k = _rms_norm(q, self.q_norm), _rms_norm(k, self.k_norm)
        if rope is not None:
            q, k = _turned(q, rope.tables[0]), _turned(k, rope.tables[0])
        out = _attended(q, k, v).transpose(1, 2).flatten(2)
        out = out.unflatten(0, (len(x), -1))
        return self.proj((out.transpose(1, 2) if self.temporal else out).flatten(1, 2))

    def _cross_attention(self, x: Tensor, text: Tensor) -> Tensor:
        q = self.q_linear(x).unflatten(-1, (self.heads, -1))
        k, v = self.kv_linear(text).unflatten(-1, (2, self.heads, -1)).unbind(2)
        if self.attention == "ours":
            return self.cross_proj(attention(q, k, v).flatten(2))
        out = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)))
        return self.cross_proj(out.transpose(1, 2).flatten(2))


def _attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of rows [N, heads, S, D]: fused where S > N, else matrix products with softmax in float32."""
    if q.shape[2] > len(q):
        return F.scaled_dot_product_attention(q, k, v)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    return scores.float().softmax(-1).to(q.dtype) @ v


def _rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    exact = x.float()
    return weight * (exact * (exact.square().mean(-1, keepdim=True) + _EPSILON).rsqrt()).to(x.dtype)


def _turned(x: Tensor, table: Tensor) -> Tensor:
    """x [N, heads, T, D] with pairs of neighbouring lanes rotated by a table [T, D / 2, 2], in the table's dtype."""
    first, second = x.to(table.dtype).unflatten(-1, (-1, 2)).unbind(-1)
    cosine, sine = table.unbind(-1)
    turned = torch.stack((first * cosine - second * sine, second * cosine + first * sine), dim=-1)
    return turned.flatten(-2).to(x.dtype)


class _Chosen:
    """The published code: computes all tokens with the rows of both timesteps and selects one result per frame."""

    def __init__(self, rows: Tensor, rows0: Tensor, masked: Tensor, grid: Grid) -> None:
        self.rows, self.masked, self.grid = (rows, rows0), masked, grid

    def _choose(self, of_row: Callable[[Tensor], Tensor]) -> Tensor:
        """Selects between the results of `of_row`, rows [B, 6, C] -> tokens [B, S, C], for the two timesteps."""
        first, second = (of_row(rows).unflatten(1, (self.grid[0], -1)) for rows in self.rows)
        return torch.where(self.masked[:, :, None, None], first, second).flatten(1, 2)

    def normed(self, x: Tensor, shift: int) -> Tensor:
        """norm(x) * (1 + scale) + shift; `shift` is the number of the row, scale is the next one."""

        def of_row(rows: Tensor) -> Tensor:
            return F.layer_norm(x, x.shape[-1:], eps=_EPSILON) * (1 + rows[:, shift + 1, None]) + rows[:, shift, None]

        return self._choose(of_row)

    def added(self, x: Tensor, y: Tensor, gate: int) -> Tensor:
        """x + gate * y."""
        return x + self._choose(lambda rows: rows[:, gate, None] * y)

    def added_and_normed(self, x: Tensor, y: Tensor, shift: int) -> tuple[Tensor, Tensor]:
        """x + y, and its norm and modulation."""
        x = x + y
        return x, self.normed(x, shift)


class _Rows:
    """The same by `adaptive_norm`, with one row per frame."""

    def __init__(self, rows: Tensor, rows0: Tensor, masked: Tensor, grid: Grid) -> None:
        chosen = torch.where(masked[:, :, None, None], rows[:, None], rows0[:, None])
        self.rows = chosen.flatten(0, 1).unbind(1)

    def normed(self, x: Tensor, shift: int) -> Tensor:
        """As in `_Chosen`."""
        return adaptive_norm(x, scale=self.rows[shift + 1], shift=self.rows[shift], epsilon=_EPSILON)[1]

    def added(self, x: Tensor, y: Tensor, gate: int) -> Tensor:
        """As in `_Chosen`."""
        return adaptive_norm(x, y, gate=self.rows[gate], norm=None)[0]

    def added_and_normed(self, x: Tensor, y: Tensor, shift: int) -> tuple[Tensor, Tensor]:
        """As in `_Chosen`."""
        return adaptive_norm(x, y, scale=self.rows[shift + 1], shift=self.rows[shift], epsilon=_EPSILON)
