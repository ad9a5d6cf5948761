"""Decoding ahead of the training loop: batches of samples in the given order, read by a few threads."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from phys4d.engine.data.dataset import Sample


class Source(Protocol):
    """A dataset, or anything else that gives samples by index; several threads ask at once."""

    def __getitem__(self, index: int, /) -> Sample: ...


def stream(
    dataset: Source, index_batches: Iterable[Sequence[int]], threads: int = 2, prefetch: int = 2
) -> Iterator[list[Sample]]:
    """Yields the samples of each batch of indices, in order, with up to `prefetch` batches read ahead.

    `index_batches` may be endless; it is consumed `prefetch` batches ahead of what is yielded. An error in
    reading a clip is raised where its batch would have come.
    """
    pending: deque[list[Future[Sample]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="clips") as pool:
        try:
            for batch in index_batches:
                pending.append([pool.submit(dataset.__getitem__, index) for index in batch])
                if len(pending) > prefetch:
                    yield [future.result() for future in pending.popleft()]
            while pending:
                yield [future.result() for future in pending.popleft()]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
