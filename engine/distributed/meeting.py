"""How the ranks of one start find each other at a store that may hold what an earlier start left.

torchrun keeps its store when it starts the ranks again, and does not count every start on every machine. So neither the
store nor the environment distinguishes one start from the next, and ranks that read the addresses of their dead
predecessors would wait for them for ever. Here rank 0 draws a name for the start and gives it to each rank that asks,
and everything else is kept under that name.
"""

import time
import uuid
from datetime import timedelta
from typing import Any

import torch.distributed as dist

_POLL = 0.05  # seconds between two looks at the store


def meet(store: Any, rank: int, world_size: int, seconds: float) -> str:
    """The name of this start, which no other start has; returns when rank 0 has answered this rank, or all ranks.

    store: torch's key-value store, shared by all ranks.
    rank, world_size: of this process.
    seconds: for how long it waits.

    Raises torch's DistStoreError if the others did not come in time.
    """
    own = uuid.uuid4().hex
    if rank == 0:
        _answer(store, own, set(range(1, world_size)), seconds)
        return own
    store.set(f"asks/{rank}", own)  # replaces what an earlier start left
    store.wait([f"answer/{own}"], timedelta(seconds=seconds))
    name = store.get(f"answer/{own}").decode()
    store.set(f"{name}/heard/{rank}", "")
    return name


def _answer(store: Any, name: str, missing: set[int], seconds: float) -> None:
    """Gives every rank that asks the name of the start, until all of them have heard it.

    The question of a dead process is answered, too; its successor asks again under another name.
    """
    answered: dict[int, bytes] = {}
    end = time.monotonic() + seconds
    while missing:
        for rank in sorted(missing):
            if store.check([f"asks/{rank}"]) and (asks := store.get(f"asks/{rank}")) != answered.get(rank):
                store.set(f"answer/{asks.decode()}", name)
                answered[rank] = asks
            if store.check([f"{name}/heard/{rank}"]):
                missing.remove(rank)
        if missing and time.monotonic() > end:
            few = ", ".join(map(str, sorted(missing)[:8])) + (", ..." if len(missing) > 8 else "")
            raise dist.DistStoreError(f"not there: rank {few}")
        time.sleep(_POLL)
