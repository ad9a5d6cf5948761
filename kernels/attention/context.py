"""Context parallelism: attention of a sequence whose parts are held by the ranks of a process group.

Ulysses (Jacobs et al. 2023, DeepSpeed Ulysses) exchanges parts of the sequence for parts of the heads, so that every
rank computes an ordinary call: all tokens, some heads. The ring, for `Full` alone, is in `ring.py`.
"""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from phys4d.kernels.attention import ring
from phys4d.kernels.attention.call import Call
from phys4d.kernels.attention.parts import Parts

Context = Literal["auto", "ulysses", "ring"]
Strategy = Literal["ulysses", "ring"]


def strategy(call: Call, context: Context) -> Strategy:
    """How the ranks of the call's group work together: as asked for, or, for "auto", Ulysses where the heads divide.

    Raises:
        ValueError: heads that do not divide, or a ring of another pattern than `Full`.
    """
    assert call.parts is not None
    size, heads = call.parts.size, call.k.shape[2]  # kv_heads divide the heads of the queries
    unequal = None
    if heads % size:
        allowed = ", ".join(str(n) for n in range(1, heads + 1) if heads % n == 0)
        of = " of keys and values" if call.grouped else ""
        unequal = f"{heads} heads{of} do not divide over {size} ranks (groups of {allowed} would do)"
    full = call.pattern.sees_all and call.mask is None and not call.asymmetric
    if context == "ulysses":
        if unequal:
            raise ValueError(f"context 'ulysses': {unequal}")
        return "ulysses"
    if context == "ring":
        if not full:
            raise ValueError(f"context 'ring': serves Full() alone, not {_beyond_the_ring(call)}")
        return "ring"
    if unequal and not full:
        raise ValueError(f"context 'auto': Ulysses cannot serve, {unequal}; nor can the ring, for Full() alone")
    return "ring" if unequal else "ulysses"


def _beyond_the_ring(call: Call) -> str:
    if not call.pattern.sees_all:
        return str(call.pattern)
    return "with a mask" if call.mask is not None else "with values of another width than keys"


def local_call(call: Call, how: Strategy) -> Call:
    """The call as this rank's backend gets it, before anything is sent: a refusal is raised on every rank alike.

    Of Ulysses the tensors are stand-ins of the right shape that take no memory.
    """
    assert call.parts is not None
    if how == "ring":
        return ring.block(call, call.k, call.v, call.parts.rank)
    q, k, v = (
        t[:, :1, :1].expand(-1, call.parts.count, t.shape[2] // call.parts.size, -1) for t in (call.q, call.k, call.v)
    )
    return replace(call, q=q, k=k, v=v, mask=_own_heads(call), parts=None, divided=True)


def _own_heads(call: Call) -> Tensor | None:
    """The mask of the heads that are this rank's after the exchange."""
    if call.mask is None or call.mask.shape[1] == 1:
        return call.mask
    assert call.parts is not None
    return call.mask.chunk(call.parts.size, dim=1)[call.parts.rank]


def run_across(
    call: Call, how: Strategy, run: Callable[[Call], tuple[Tensor, Tensor | None]]
) -> tuple[Tensor, Tensor | None]:
    """This rank's part of out, and of lse where the call asks for it.

    Args:
        call: with `parts`; q and k are normed and rotated.
        how: from `strategy`, the same on every rank.
        run: computes a call on this rank.
    """
    assert call.parts is not None
    if how == "ring":
        return ring.ring(call, run)
    q, k, v = _of_equal_shape(call.parts, call.q, call.k, call.v)
    out, lse = run(replace(call, q=q, k=k, v=v, mask=_own_heads(call), parts=None))
    (out,) = _Exchange.apply(call.parts, False, out)
    if lse is not None:
        (lse,) = _Exchange.apply(call.parts, False, lse.transpose(1, 2)[..., None])
        lse = lse[..., 0].transpose(1, 2)
    return out, lse


def _of_equal_shape(parts: Parts, *tensors: Tensor) -> list[Tensor]:
    """Their sequence parts to head parts: neighbours of equal shape in one exchange."""
    found: list[Tensor] = []
    for _, same in itertools.groupby(tensors, key=lambda tensor: tensor.shape):
        found.extend(_Exchange.apply(parts, True, *same))
    return found


class _Exchange(torch.autograd.Function):
    """Tensors of equal shape, sequence parts [B, S_own, heads, D] to head parts [B, S, heads / size, D] or back.

    One all_to_all_single; its gradient is the way back.
    """

    @staticmethod
    def forward(ctx: Any, parts: Parts, to_heads: bool, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.parts, ctx.to_heads = parts, to_heads
        return (_to_heads if to_heads else _to_sequence)(parts, tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        return None, None, *_Exchange.apply(ctx.parts, not ctx.to_heads, *gradients)


def _to_heads(parts: Parts, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    batch, own, heads, dim = tensors[0].shape
    some = heads // parts.size
    sent = tensors[0].new_empty(parts.size, own, len(tensors), batch, some, dim)
    for i, tensor in enumerate(tensors):
        sent[:, :, i] = tensor.unflatten(2, (parts.size, some)).permute(2, 1, 0, 3, 4)
    # Tokens stand outermost, so that what arrives from the ranks is the whole sequence without another copy.
    got = sent.new_empty(parts.count, *sent.shape[2:])
    dist.all_to_all_single(got, sent.flatten(0, 1), parts.lengths, [own] * parts.size, group=parts.group)
    return tuple(got[:, i].transpose(0, 1) for i in range(len(tensors)))


def _to_sequence(parts: Parts, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    own = parts.lengths[parts.rank]
    sent = torch.stack([tensor.transpose(0, 1) for tensor in tensors], dim=1)
    got = sent.new_empty(parts.size * own, *sent.shape[1:])
    dist.all_to_all_single(got, sent, [own] * parts.size, parts.lengths, group=parts.group)
    got = got.unflatten(0, (parts.size, own))
    return tuple(got[:, :, i].permute(2, 1, 0, 3, 4).flatten(2, 3) for i in range(len(tensors)))
