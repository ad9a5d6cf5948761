"""Reads, decodes and puts together batches of samples ahead of the training loop, in the given order, with threads.

Decoders, checksums and decompression run outside of Python's lock, so that threads read side by side, and beside the
training thread.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, Protocol, TypeVar, overload

K = TypeVar("K")
K_in = TypeVar("K_in", contravariant=True)
V = TypeVar("V")
V_out = TypeVar("V_out", covariant=True)
B = TypeVar("B")


class Source(Protocol[K_in, V_out]):
    """Random access to samples by index, such as a dataset; must be thread-safe."""

    def __getitem__(self, index: K_in, /) -> V_out: ...


class Late(Exception, Generic[K]):
    """Samples were not read in time. missing: their indices."""

    def __init__(self, missing: Sequence[K]) -> None:
        super().__init__(f"not read in time: {missing}")
        self.missing = missing


@overload
def stream(
    dataset: Source[K, V], index_batches: Iterable[Sequence[K]], *, threads: int = ..., prefetch: int = ...,
    limit: float | None = ...,
) -> Iterator[list[V]]: ...  # fmt: skip


@overload
def stream(
    dataset: Source[K, V], index_batches: Iterable[Sequence[K]], collate: Callable[[list[V]], B], *,
    threads: int = ..., prefetch: int = ..., limit: float | None = ...,
) -> Iterator[B]: ...  # fmt: skip


def stream(
    dataset: Source[K, V],
    index_batches: Iterable[Sequence[K]],
    collate: Callable[[list[V]], Any] = list,
    *,
    threads: int = 2,
    prefetch: int = 2,
    limit: float | None = None,
) -> Iterator[Any]:
    """Yields the batches of indices, read and put together, in order, with up to `prefetch` of them made ahead.

    An error in reading a clip, or in `collate`, is raised when its batch is due. At most prefetch + 1 batches are held.

    dataset: source of the samples.
    index_batches: indices of each batch; may be infinite, and is consumed up to `prefetch` batches ahead.
    collate: puts the samples of a batch together, in a thread of its own; default: a list of them.
    threads: number of reading threads of this rank.
    prefetch: batches made ahead on this rank.
    limit: seconds that are waited for a batch which is due; then Late is raised.
    """
    pending: deque[tuple[Sequence[K], list[Future[V]], Future[Any]]] = deque()

    def joined(samples: list[Future[V]]) -> Any:
        return collate([sample.result() for sample in samples])

    def due() -> Any:
        indices, samples, batch = pending.popleft()
        try:
            return batch.result(limit)
        except TimeoutError:
            if batch.done():  # of the reading itself
                raise
            missing = [index for index, sample in zip(indices, samples, strict=True) if not sample.done()]
            raise Late(missing or list(indices)) from None

    readers = ThreadPoolExecutor(threads, thread_name_prefix="clips")
    joiner = ThreadPoolExecutor(1, thread_name_prefix="batches")
    try:
        for indices in index_batches:
            samples = [readers.submit(dataset.__getitem__, index) for index in indices]
            pending.append((indices, samples, joiner.submit(joined, samples)))
            if len(pending) > prefetch:
                yield due()
        while pending:
            yield due()
    finally:  # without waiting for a read that may never end
        for pool in (readers, joiner):
            pool.shutdown(wait=False, cancel_futures=True)
