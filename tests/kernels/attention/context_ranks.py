"""Attention over the ranks of a process group, run as a program by the tests.

torchrun ... context_ranks.py FOLDER    every rank writes what it got, of every case, to FOLDER/rank-<r>.pt
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from phys4d.engine.distributed.collectives import leave_group
from phys4d.kernels.attention import (
    Full,
    Pattern,
    Spatial,
    Temporal,
    Window,
    attention,
    explain,
    part_of,
)
from phys4d.kernels.elementwise import QKNorm, Rope

GRID = (5, 5, 5)  # 125 tokens divide over neither 2 nor 3 ranks
BATCH, DIM = 2, 8
TEXTS: list[tuple[int, Any] | None] = [None, (2, "first"), (3, "last")]
PATTERNS: list[Pattern] = [Full(), Spatial(), Temporal(), Temporal(causal=True), Window(2, 3, 4)]
TWICE = ("ring-1-1", "ulysses-4-1-1", "rounded-torch.float32")
KINDS: list[Any] = [None, "rms", "layer", "rms_across_heads"]


@dataclass(frozen=True)
class Case:
    """One call: how it is asked for, and whether with padding, norm, rotation."""

    context: Any
    pattern: Pattern
    text: tuple[int, Any] | None = None
    padded: bool = False
    heads: int = 6
    kind: Any = None
    layout: Any = None
    dtype: torch.dtype = torch.float64
    grid: tuple[int, int, int] = GRID
    kv_heads: int | None = None
    masked: bool = False

    @property
    def count(self) -> int:
        return self.grid[0] * self.grid[1] * self.grid[2] + (self.text[0] if self.text else 0)

    def tensors(self) -> dict[str, Tensor]:
        """q, k, v, dout [B, S, heads, D] and dlse [B, heads, S] of the whole sequence, and the norm's weights."""
        generator = torch.Generator().manual_seed(7)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        shared = self.kv_heads or self.heads
        heads = {"q": self.heads, "k": shared, "v": shared, "dout": self.heads}
        made = {name: draw(BATCH, self.count, number, DIM) for name, number in heads.items()}
        made["dlse"] = draw(BATCH, self.heads, self.count)
        width = DIM * self.heads if self.kind == "rms_across_heads" else DIM
        norms = ["q_weight", "k_weight"] if self.kind else []
        norms += ["q_bias", "k_bias"] if self.kind == "layer" else []
        made |= {name: draw(width) for name in norms}
        return {name: tensor.to(self.dtype) for name, tensor in made.items()}

    def _mask(self) -> Tensor:
        """What is added to the scores of each head, [1, heads, S, S]; some keys are hidden."""
        added = torch.randn(1, self.heads, self.count, self.count, generator=torch.Generator().manual_seed(8))
        return added.masked_fill(added > 1, -torch.inf).to(self.dtype)

    def asked(self, norm: dict[str, Tensor]) -> dict[str, Any]:
        lengths = torch.tensor([self.count - 9, 5]) if self.padded else None
        rope = Rope.make(self.grid, (2, 4, 2), layout=self.layout, dtype=torch.float64) if self.layout else None
        return {
            "grid": self.grid, "pattern": self.pattern, "text": self.text, "key_lengths": lengths, "scale": 0.4,
            "mask": self._mask() if self.masked else None,
            "qk_norm": QKNorm(self.kind, **norm) if self.kind else None, "rope": rope,
        }  # fmt: skip


def cases() -> dict[str, Case]:
    """All cases of both numbers of ranks."""
    made: dict[str, Case] = {}
    for i, pattern in enumerate(PATTERNS):
        for j, text in enumerate(TEXTS):
            for padded in (False, True):
                kind = KINDS[(i + j + 2 * padded) % 4]
                layout = ("interleaved", "half", None)[(i + 2 * j + padded) % 3]
                made[f"ulysses-{i}-{j}-{padded:d}"] = Case("ulysses", pattern, text, padded, 6, kind, layout)
    for j, text in enumerate(TEXTS):
        for padded in (False, True):
            kind, layout = KINDS[(j + 2 * padded) % 4], ("half", None, "interleaved")[(j + padded) % 3]
            made[f"ring-{j}-{padded:d}"] = Case("ring", Full(), text, padded, 5, kind, layout)
    made["auto-ring"] = Case("auto", Full(), TEXTS[1], heads=5)
    made["auto-ulysses"] = Case("auto", Spatial(), TEXTS[1], heads=6)
    made["few-tokens"] = Case("ring", Full(), grid=(1, 1, 4), padded=True)
    made["auto-shared"] = Case("auto", Full(), TEXTS[1], padded=True, heads=6, kv_heads=2)  # 3 ranks: the ring
    made["ulysses-shared"] = Case("ulysses", Spatial(), TEXTS[2], heads=12, kv_heads=6, layout="half")
    made["ulysses-masked"] = Case("ulysses", Full(causal=True), padded=True, masked=True)
    for dtype in (torch.float32, torch.bfloat16):
        made[f"rounded-{dtype}"] = Case("ring", Full(), TEXTS[2], dtype=dtype)
    return made


def run(case: Case, group: Any = None, part: slice = slice(None), exact: bool = False) -> dict[str, Tensor]:
    """out, lse and all gradients, with a group of this rank's part; exact: of the same numbers, in float64."""
    given = {name: tensor.double() if exact else tensor for name, tensor in case.tensors().items()}
    norm = {name: given[name].requires_grad_() for name in given if name.endswith(("weight", "bias"))}
    q, k, v = (given[name][:, part].requires_grad_() for name in "qkv")
    together = {"group": group, "context": case.context} if group is not None else {}
    out, lse = attention(q, k, v, return_lse=True, **case.asked(norm), **together)
    loss = (out * given["dout"][:, part]).sum()
    loss = loss + (torch.where(lse.isfinite(), lse, 0) * given["dlse"][..., part]).sum()
    names = ["q", "k", "v", *norm]
    gradients = torch.autograd.grad(loss, [q, k, v, *norm.values()])
    found = {f"d{name}": gradient for name, gradient in zip(names, gradients, strict=True)}
    return {"out": out.detach(), "lse": lse.detach(), **found}


def message(action: Callable[[], Any]) -> str:
    """What a ValueError says."""
    try:
        action()
    except ValueError as refusal:
        return str(refusal)
    return "not refused"


def refusals(group: Any) -> dict[str, str]:
    """What is said to calls that cannot be served; tensors are this rank's part unless they are at fault."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    own = part_of(125, rank, size)
    six, seven = (torch.zeros(1, own.stop - own.start, heads, DIM) for heads in (6, 7))

    def call(x: Tensor, *more: Tensor, **asked: Any) -> str:
        k, v = more or (x, x)
        return message(lambda: attention(x, k, v, **{"grid": GRID, "group": group} | asked))

    return {
        "heads": call(seven, context="ulysses"),
        "auto": call(seven, pattern=Spatial()),
        "pattern": call(six, pattern=Window(1, 2, 3), context="ring"),
        "shared": call(six, six[:, :, :1], six[:, :, :1], context="ulysses"),
        "causal": call(six, pattern=Full(causal=True), context="ring"),
        "masked": call(six, mask=torch.ones(1, 1, 125, 125), context="ring"),
        "wide": call(six, six, six[..., :4], context="ring"),
        "mask": call(six, mask=torch.ones(1, 1, own.stop - own.start, 125)),
        "length": call(six, grid=(5, 5, 6)),
        "text": call(six, text=(9, "last")),
        "keys": call(six, six[:, 1:], six[:, 1:]),
        "grid": call(six, grid=None),
        "few": call(six, grid=(1, 1, 1)),
        "context": call(six, context="both"),
        "window": call(six, pattern=Window(6, 1, 1)),
        "lse": call(six, context="ring", backend="sdpa"),
        "backend": call(six, backend="triton"),
    }


def chosen(group: Any) -> dict[str, str]:
    """What `explain` says."""
    own = part_of(125, dist.get_rank(group), dist.get_world_size(group))
    six, seven = (torch.zeros(1, own.stop - own.start, heads, DIM) for heads in (6, 7))
    asked = {"grid": GRID, "group": group}
    return {
        "six": str(explain(six, six, six, **asked)),
        "window": str(explain(six, six, six, pattern=Window(1, 2, 3), **asked)),
        "seven": str(explain(seven, seven, seven, **asked)),
        "ring": str(explain(six, six, six, context="ring", **asked)),
    }


def compiled(group: Any) -> list[bool]:
    """Whether out and gradients of one graph are, to the bit, those of the eager call."""
    case = Case("ulysses", Window(2, 3, 4), (2, "first"), padded=True, dtype=torch.float32)
    part = part_of(case.count, dist.get_rank(group), dist.get_world_size(group))
    given = case.tensors()
    inputs = [given[name][:, part].requires_grad_() for name in "qkv"]

    def call(*qkv: Tensor) -> Tensor:
        return attention(*qkv, **case.asked({}), group=group, context=case.context)

    outs = [call(*inputs), torch.compile(call, fullgraph=True, backend="aot_eager")(*inputs)]
    eager, graph = ([out, *torch.autograd.grad(out.square().sum(), inputs)] for out in outs)
    return [torch.equal(mine, theirs) for mine, theirs in zip(graph, eager, strict=True)]


def some(size: int) -> list[int]:
    """A group whose ranks are not those of the world: one alone, or two with another between them."""
    return [1] if size == 2 else [0, 2]


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    world = dist.group.WORLD
    # First the refusals: were something left under way by them, what follows would go wrong.
    found: dict[str, Any] = {"refusals": refusals(world), "chosen": chosen(world)}
    for name, case in cases().items():
        found[name] = run(case, world, part_of(case.count, rank, size))
    for name in TWICE:
        case = cases()[name]
        found[f"again-{name}"] = run(case, world, part_of(case.count, rank, size))
    if size == 2:
        found["compiled"] = compiled(world)
    members = some(size)
    group = dist.new_group(members)
    for name in TWICE[:2]:
        if rank in members:
            part = part_of(cases()[name].count, members.index(rank), len(members))
            found[f"some-{name}"] = run(cases()[name], group, part)
        else:
            found[f"some-{name}"] = message(partial(run, cases()[name], group))
    torch.save(found, Path(sys.argv[1]) / f"rank-{rank}.pt")
    leave_group()


if __name__ == "__main__":
    main()
