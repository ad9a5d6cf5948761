"""Batches are read and put together ahead, in order; errors come with their batch; no read is waited for too long."""

import threading
import time
from collections.abc import Sequence

import pytest

from phys4d.engine.data.stream import Late, stream


class Numbers:
    """Tens of the indices; `held` makes index 7 wait, index 5 is bad."""

    def __init__(self) -> None:
        self.held, self.read = threading.Event(), set[int]()

    def __getitem__(self, index: int) -> int:
        self.read.add(index)
        if index == 7:
            self.held.wait(20)
        if index == 5:
            raise ValueError("5 is bad")
        return 10 * index


BATCHES = [[0, 1], [2, 3], [4, 6], [5, 8], [9, 9]]


def test_batches_come_in_order_and_one_is_made_ahead() -> None:
    numbers, threads = Numbers(), set[str]()

    def total(samples: list[int]) -> int:
        threads.add(threading.current_thread().name.split("_")[0])
        return sum(samples)

    ahead = stream(numbers, BATCHES[:3], total, prefetch=1)
    assert next(ahead) == 10
    deadline = time.monotonic() + 20
    while numbers.read != {0, 1, 2, 3} and time.monotonic() < deadline:
        time.sleep(0.001)
    assert numbers.read == {0, 1, 2, 3}  # and no further batch
    assert list(ahead) == [50, 100] and threads == {"batches"}


@pytest.mark.parametrize("where", ["reading", "collating"])
def test_an_error_comes_when_its_batch_is_due(where: str) -> None:
    def checked(samples: list[int]) -> list[int]:
        if where == "collating" and 40 in samples:
            raise ValueError("40 is bad")
        return samples

    got: list[Sequence[int]] = []
    with pytest.raises(ValueError, match="5 is bad" if where == "reading" else "40 is bad"):
        got.extend(iter(stream(Numbers(), BATCHES, checked)))
    assert got == ([[0, 10], [20, 30], [40, 60]] if where == "reading" else [[0, 10], [20, 30]])


def test_what_is_not_read_in_time_is_named() -> None:
    numbers = Numbers()
    ahead = stream(numbers, [[0, 7, 1]], threads=2, limit=0.2)
    begun = time.monotonic()
    with pytest.raises(Late) as caught:
        next(ahead)
    assert caught.value.missing == [7] and time.monotonic() - begun < 10
    numbers.held.set()


def test_what_was_not_begun_is_not_read_after_the_end() -> None:
    numbers = Numbers()
    ahead = stream(numbers, [[0, 1], [7, 2, 3, 4]], threads=1, prefetch=1)
    assert next(ahead) == [0, 10]
    ahead.close()  # while 7 is read
    numbers.held.set()
    for thread in threading.enumerate():
        if thread.name.startswith("clips"):
            thread.join(20)
    assert not numbers.read & {2, 3, 4}
