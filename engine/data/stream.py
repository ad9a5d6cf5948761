"""Reads and decodes batches of samples ahead of the training loop, in the given order, with a few threads."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

K = TypeVar("K", contravariant=True)
V = TypeVar("V", covariant=True)


class Source(Protocol[K, V]):
    """Random access to samples by index, such as a dataset; must be thread-safe."""

    def __getitem__(self, index: K, /) -> V: ...


def stream(
    dataset: Source[K, V], index_batches: Iterable[Sequence[K]], threads: int = 2, prefetch: int = 2
) -> Iterator[list[V]]:
    """Yields the samples of each batch of indices, in order, with up to `prefetch` batches read ahead.

    An error in reading a clip is raised when its batch is due.

    dataset: source of the samples.
    index_batches: indices of each batch; may be infinite, and is consumed up to `prefetch` batches ahead.
    threads: number of reading threads of this rank.
    prefetch: batches read ahead on this rank.
    """
    pending: deque[list[Future[V]]] = deque()
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
