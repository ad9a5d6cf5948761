"""The ranks of one start find each other at a store that is full of what earlier starts left."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.distributed as dist

from phys4d.engine.distributed.meeting import meet


def start(store: dist.Store, world_size: int, *, late: int | None = None, seconds: float = 20.0) -> list[str]:
    """The names that the ranks of a start get; `late`: the rank that comes last, when the others wait."""
    order = [rank for rank in range(world_size) if rank != late] + ([] if late is None else [late])
    with ThreadPoolExecutor(world_size) as threads:
        names = {rank: threads.submit(meet, store, rank, world_size, seconds) for rank in order}
        return [names[rank].result() for rank in range(world_size)]


def test_every_start_on_one_store_has_a_name_of_its_own() -> None:
    store = dist.HashStore()
    names = [start(store, 3, late=late) for late in (None, 0, 2)]
    assert all(len(set(of_start)) == 1 for of_start in names)
    assert len({of_start[0] for of_start in names}) == 3


def test_a_rank_that_died_before_it_was_answered_does_not_stand_for_its_successor() -> None:
    """Rank 0 finds the question of the dead one first, and waits for that of the process that lives."""
    store = dist.HashStore()
    store.set("asks/1", "of the dead")
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(meet, store, 0, 2, 20.0)
        store.wait(["answer/of the dead"])
        assert not first.done()
        assert threads.submit(meet, store, 1, 2, 20.0).result() == first.result()


def test_ranks_that_do_not_come_are_named() -> None:
    store = dist.HashStore()
    with pytest.raises(dist.DistStoreError, match="not there: rank 1, 3$"), ThreadPoolExecutor(1) as threads:
        threads.submit(meet, store, 2, 4, 20.0)
        meet(store, 0, 4, 0.5)
    with pytest.raises(dist.DistStoreError):
        meet(dist.HashStore(), 1, 2, 0.2)
