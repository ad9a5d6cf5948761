"""Ring attention (Liu et al. 2023): keys and values travel round the ranks, queries stay; `Full` alone.

Every rank meets the parts of the keys in the order own, that of the rank before, ..., that of the rank after; the next
part is on its way while one is computed. That order, the same in every run, is also the order of all sums, so results
are bit-identical from run to run where the backend's are.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from phys4d.kernels.attention.backward import attention_backward
from phys4d.kernels.attention.call import Call
from phys4d.kernels.attention.parts import Parts, part_of
from phys4d.kernels.attention.patterns import Full

Run = Callable[[Call], tuple[Tensor, Tensor | None]]


def block(call: Call, k: Tensor, v: Tensor, source: int) -> Call:
    """The call of this rank's queries on the keys and values [B, S_source, heads, D] of one rank."""
    assert call.parts is not None
    lengths = _lengths(call.key_lengths, call.parts, source, k.device)
    return Call(
        call.q, k, v, None, Full(), None, lengths, call.scale, True, qk_norm=call.qk_norm, divided=True
    )  # fmt: skip


def ring(call: Call, run: Run) -> tuple[Tensor, Tensor | None]:
    """This rank's part of out, and of lse where the call asks for it; `run` computes one block."""
    out, lse = _Ring.apply(call.q, call.k, call.v, call, run)
    return out, lse if call.return_lse else None


class _Ring(torch.autograd.Function):
    """q, k, v [B, S_own, heads, D] to out and lse; the call brings the rest."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, call: Call, run: Run) -> tuple[Tensor, Tensor]:
        parts = call.parts
        assert parts is not None
        call = replace(call, q=q, k=k, v=v)
        out = torch.zeros(q.shape, dtype=_exact(q), device=q.device)
        lse = torch.full((q.shape[0], q.shape[2], q.shape[1]), -torch.inf, dtype=out.dtype, device=q.device)
        for source, (k_source, v_source) in _travel(parts, torch.stack((k, v))):
            found, found_lse = run(block(call, k_source, v_source, source))
            assert found_lse is not None
            out, lse = _joined(out, lse, found, found_lse)
        out = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, lse, call.key_lengths)
        ctx.parts, ctx.scale = parts, call.factor
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor | None, dlse: Tensor | None) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse, key_lengths = ctx.saved_tensors
        parts: Parts = ctx.parts
        dout = torch.zeros_like(out) if dout is None else dout
        dq = torch.zeros(q.shape, dtype=_exact(q), device=q.device)
        arrived: Callable[[], Tensor] | None = None
        for source, (k_source, v_source) in _travel(parts, torch.stack((k, v))):
            lengths = _lengths(key_lengths, parts, source, k.device)
            dq_share, *shares = attention_backward(
                q, k_source, v_source, out, lse, dout, dlse, key_lengths=lengths, scale=ctx.scale
            )
            dq += dq_share
            # The gradient of a rank's keys follows them round the ring, one step behind, and ends where they began.
            total = torch.stack(shares).to(_exact(q))
            if arrived is not None:
                total += arrived()
            arrived = _pass_on(parts, total, (source - 1) % parts.size)
        assert arrived is not None
        dk, dv = arrived().to(q.dtype)
        return dq.to(q.dtype), dk, dv, None, None


def _exact(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _lengths(key_lengths: Tensor | None, parts: Parts, source: int, device: torch.device) -> Tensor | None:
    """How many of a rank's keys are no padding, [B]."""
    if key_lengths is None:
        return None
    part = part_of(parts.count, source, parts.size)
    return (key_lengths.to(device) - part.start).clamp(0, part.stop - part.start)


def _joined(out: Tensor, lse: Tensor, more: Tensor, more_lse: Tensor) -> tuple[Tensor, Tensor]:
    """out [B, S, heads, D] and lse [B, heads, S] over two sets of keys, from those over each."""
    both = torch.logaddexp(lse, more_lse)
    level = both.masked_fill(both.isneginf(), 0)  # a query that has seen no key yet: weights 0, no NaN
    weight, more_weight = ((part - level).exp().transpose(1, 2)[..., None] for part in (lse, more_lse))
    return out * weight + more * more_weight, both


def _travel(parts: Parts, own: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(rank, its keys and values [2, B, S_rank, heads, D]) of all ranks, own first; the next travels meanwhile."""
    held = own
    for step in range(parts.size):
        source = (parts.rank - step) % parts.size
        if step + 1 == parts.size:
            yield source, held
        else:
            arrived = _pass_on(parts, held, (source - 1) % parts.size)
            yield source, held
            held = arrived()


def _pass_on(parts: Parts, held: Tensor, source: int) -> Callable[[], Tensor]:
    """Starts sending [2, B, S, heads, D] to the rank after; the result waits for that of `source` from that before."""
    if parts.size == 1:
        return lambda: held
    after, before = (parts.rank + 1) % parts.size, (parts.rank - 1) % parts.size
    coming = held.new_empty(*held.shape[:2], parts.lengths[source], *held.shape[3:])
    works = dist.batch_isend_irecv(
        [
            dist.P2POp(dist.isend, held, group=parts.group, group_peer=after),
            dist.P2POp(dist.irecv, coming, group=parts.group, group_peer=before),
        ]
    )

    def arrived(sent: Tensor = held) -> Tensor:  # holds what is being sent until it is gone
        for work in works:
            work.wait()
        return coming

    return arrived
