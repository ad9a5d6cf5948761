"""Collectives on the host, and the parts of sharded tensors."""

import time
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from phys4d.engine.distributed.flat import FlatPart, part_of
from phys4d.engine.errors import FaultElsewhere, UserError

T = TypeVar("T")

_POLL = 0.02  # seconds between two checks of a collective that may take hours
_REST = 0.5  # seconds: long enough for a runnable thread to be scheduled, even on a loaded machine


def on_all_ranks(action: Callable[[], T], waiting: dist.ProcessGroup | None = None) -> T:
    """Returns `action()`, unless it raises UserError or OSError on any rank: then every rank raises.

    The lowest of the failing ranks raises its own error, all others FaultElsewhere, so that one line is printed and no
    rank waits for one that has exited. A collective on the host.

    action: called on every rank.
    waiting: group without a time limit, in which signals are handled while this rank waits; default: the process group,
        within its time limit.
    """
    fault: UserError | OSError | None = None
    try:
        result = action()
    except (UserError, OSError) as error:
        fault = error
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    reporting = fault.rank if isinstance(fault, FaultElsewhere) else rank
    first = torch.tensor([world_size if fault is None else reporting])
    if waiting is not None:
        work = dist.all_reduce(first, op=dist.ReduceOp.MIN, group=waiting, async_op=True)
        while not work.is_completed():
            time.sleep(_POLL)
        work.wait()
    elif dist.is_initialized():
        dist.all_reduce(first, op=dist.ReduceOp.MIN)
    if first.item() == world_size:
        return result
    if fault is not None and first.item() == rank:
        raise fault
    raise FaultElsewhere(int(first.item()))


def leave_group() -> None:
    """Destroys torch's process group and waits for gloo's threads; not a collective.

    A gloo thread releases the tensors of its last collective asynchronously and needs the Python interpreter for that.
    If the interpreter is already shutting down, the process aborts (torch 2.13: "terminate called without an active
    exception"), after all work is done. torch has no function to wait for these threads.
    """
    dist.destroy_process_group()
    time.sleep(_REST)


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this rank holds, sharing memory; the tensor itself unless it is divided."""
    if isinstance(tensor, DTensor):
        return tensor.to_local()
    part = tensor if isinstance(tensor, FlatPart) else part_of(tensor)
    return tensor if part is None else part.own


def full(tensor: Tensor) -> Tensor:
    """The whole tensor, without gradient where it is gathered from all ranks (then a collective).

    tensor: of a parameter divided by ZeRO-3 the parameter itself, since what is detached from it has lost its part.
    """
    if isinstance(tensor, DTensor):
        return tensor.full_tensor()
    if (part := part_of(tensor)) is None:
        return tensor
    held = tensor.ds_tensor  # type: ignore[attr-defined]
    whole = held.new_empty(len(held) * dist.get_world_size())
    dist.all_gather_into_tensor(whole, held)
    return whole[: part.numel()].view(part.shape)
