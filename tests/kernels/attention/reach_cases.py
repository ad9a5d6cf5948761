"""Calls of attention beyond plain ones: heads that share keys, causal sequences, masks, values of another width."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from phys4d.kernels.attention import Full, Pattern, Spatial, Temporal, Window, allowed

GRID = (3, 2, 2)
HIDDEN = float("-inf")


@dataclass(frozen=True)
class Case:
    """One call; queries and keys are those of the grid and the text unless they are said.

    Attributes:
        mask: "" or the kind, bool or float, and which of the sizes [B, heads, S_q, S_k] are 1 (letters b, h, q).
    """

    pattern: Pattern = Full()  # noqa: RUF009 (frozen)
    heads: int = 4
    kv_heads: int = 4
    dim: int = 16
    value_dim: int = 16
    mask: str = ""
    padded: bool = False
    queries: int | None = None
    keys: int | None = None
    text: Any = None
    batch: int = 2
    grid: Any = field(default=GRID)

    @property
    def sizes(self) -> tuple[int, int]:
        """Queries and keys."""
        whole = math.prod(self.grid) + (self.text[0] if self.text else 0)
        return self.queries or whole, self.keys or whole

    def tensors(self, dtype: torch.dtype = torch.float64, device: Any = "cpu") -> tuple[list[Tensor], dict[str, Any]]:
        """(q, k, v as leaves), the other arguments."""
        generator = torch.Generator().manual_seed(3)
        queries, keys = self.sizes
        shapes = (queries, self.heads, self.dim), (keys, self.kv_heads, self.dim), (keys, self.kv_heads, self.value_dim)
        qkv = [torch.randn(self.batch, *shape, generator=generator, dtype=torch.float64) for shape in shapes]
        asked: dict[str, Any] = {"pattern": self.pattern, "text": self.text, "scale": 0.4}
        if queries == keys:
            asked["grid"] = self.grid
        if self.padded:
            asked["key_lengths"] = torch.tensor([keys // 2, keys - 1][: self.batch], device=device)
        if self.mask:
            kind, _, ones = self.mask.partition(" ")
            sizes = (self.batch, self.heads, queries, keys)
            sizes = [1 if letter in ones else size for letter, size in zip("bhqk", sizes, strict=True)]
            seen = torch.rand(sizes, generator=generator) < 0.7
            if "q" not in ones:
                seen[..., -1, :] = False  # a query that sees no key
            added = torch.randn(sizes, generator=generator, dtype=torch.float64).masked_fill(~seen, HIDDEN)
            asked["mask"] = (seen if kind == "bool" else added.to(dtype)).to(device)
        return [t.to(device, dtype).requires_grad_() for t in qkv], asked


CASES = {
    "two heads share keys": Case(kv_heads=2),
    "all heads share keys": Case(kv_heads=1, padded=True),
    "heads share keys across": Case(kv_heads=2, queries=5, keys=9),
    "heads share keys, rows": Case(Spatial(), kv_heads=2, text=(3, "last"), padded=True),
    "heads share keys, causal rows": Case(Temporal(causal=True), kv_heads=1, text=(3, "first")),
    "heads share keys, windows": Case(Window(2, 1, 2), kv_heads=2, text=(2, "first")),
    "causal": Case(Full(causal=True)),
    "causal, padded, shared": Case(Full(causal=True), kv_heads=2, padded=True),
    "causal, few queries": Case(Full(causal=True), queries=5, keys=9),
    "causal, few keys": Case(Full(causal=True), queries=9, keys=5),
    "causal after a text": Case(Full(causal=True), text=(3, "first")),
    "causal before a text": Case(Full(causal=True), text=(3, "last"), padded=True),
    "mask of pairs": Case(mask="bool"),
    "mask of keys": Case(mask="bool hq"),
    "mask of pairs for all clips and heads": Case(mask="bool bh"),
    "added": Case(mask="float"),
    "added for all clips and queries": Case(mask="float bq", kv_heads=2),
    "mask of keys in rows": Case(Temporal(causal=True), mask="bool bhq", text=(2, "last"), padded=True),
    "mask of keys in spatial rows": Case(Spatial(), mask="bool hq"),
    "mask of pairs in rows": Case(Spatial(), mask="bool b", kv_heads=2, text=(2, "first")),
    "added in windows": Case(Window(2, 1, 2), mask="float h", padded=True),
    "added, causal": Case(Full(causal=True), mask="float", padded=True),
    "mask, causal, few keys": Case(Full(causal=True), mask="bool h", queries=7, keys=5, kv_heads=1),
    "narrow values": Case(value_dim=8),
    "wide values, all at once": Case(Full(causal=True), value_dim=24, kv_heads=2, mask="float", padded=True),
}


def seen_and_added(case: Case, asked: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Which query sees which key, and what is added to its score: [B, heads, S_q, S_k], by the words of the page."""
    queries, keys = case.sizes
    sizes = (case.batch, case.heads, queries, keys)
    seen, added = torch.ones(sizes, dtype=torch.bool), torch.zeros(sizes, dtype=torch.float64)
    if case.pattern == Full(causal=True) and not case.text:
        seen &= torch.arange(keys)[None, :] <= torch.arange(queries)[:, None]
    elif queries == keys:
        seen &= allowed(case.pattern, case.grid, case.text)
    if "key_lengths" in asked:
        seen &= (torch.arange(keys) < asked["key_lengths"].cpu()[:, None])[:, None, None]
    mask = asked.get("mask")
    if mask is not None and mask.dtype == torch.bool:
        seen &= mask.cpu()
    elif mask is not None:
        seen &= mask.cpu() != HIDDEN
        added += mask.detach().cpu().double().clamp(min=-1e9)
    return seen, added


def by_query(case: Case, qkv: list[Tensor], asked: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """out and lse from the formula, one query of one head at a time, in float64."""
    seen, added = seen_and_added(case, asked)
    q, k, v = (t.cpu().double() for t in qkv)
    share = case.heads // case.kv_heads
    out, lse = [], []
    for b in range(case.batch):
        for h in range(case.heads):
            for i in range(q.shape[1]):
                at = seen[b, h, i].nonzero()[:, 0]
                if not len(at):
                    out.append(torch.zeros(case.value_dim, dtype=torch.float64))
                    lse.append(torch.tensor(-math.inf, dtype=torch.float64))
                    continue
                scores = asked["scale"] * k[b, at, h // share] @ q[b, i, h] + added[b, h, i, at]
                lse.append(scores.exp().sum().log())
                out.append(scores.softmax(0) @ v[b, at, h // share])
    shape = case.batch, case.heads, q.shape[1]
    return torch.stack(out).view(*shape, case.value_dim).transpose(1, 2), torch.stack(lse).view(shape)
