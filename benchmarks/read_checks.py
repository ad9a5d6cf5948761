"""What the checks of a dataset's reader cost: python -m phys4d.benchmarks.read_checks DATASET

Reads clips with all checks and without any, in turn, and prints the median times and their ratio. Without checks, what
is compared or looked at only to refuse a clip is left out: digests, the schema, the tables of mp4s, headers of chunks.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from phys4d.engine.data import dataset
from phys4d.engine.data.clip import blob, schema
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.data.decoders import probe

CHECKS: Sequence[tuple[Any, str]] = (
    (schema, "check_header"),
    (schema, "check_values"),
    (dataset.clip_json, "check_meta"),
    (probe, "check_tables"),
    (blob, "_check_chunk"),
    (blob, "_check_bools"),
    (blob, "check_rule"),
)


class _AnyDigest:
    """In place of SHA-256: equal to the digest of the index, without reading the data."""

    def __init__(self, data: bytes) -> None:
        pass

    def hexdigest(self) -> "_AnyDigest":
        return self

    def __ne__(self, other: object) -> bool:
        return False


@contextmanager
def unchecked() -> Iterator[None]:
    """Context in which clips are read without checks."""
    with ExitStack() as stack:
        for module, name in CHECKS:
            stack.enter_context(patch.object(module, name, lambda *arguments: None))
        stack.enter_context(patch.object(dataset.hashlib, "sha256", _AnyDigest))
        yield


def seconds(read: Callable[[], object]) -> float:
    """Processor time of one call."""
    began = time.process_time()
    read()
    return time.process_time() - began


def measure(folder: Path, repeats: int) -> tuple[float, float, float]:
    """Median seconds of a read with and without checks, and the median ratio of the two reads of a pair, minus 1.

    folder: dataset folder.
    repeats: pairs of reads, over its clips in turn.
    """
    clips = ClipDataset(folder)
    clips[0]
    pairs: list[tuple[float, float]] = []
    for number in range(repeats):
        read = partial(clips.__getitem__, number % len(clips))
        checked_first = number % 2 == 0  # either order: what is read second finds the file in memory
        first = seconds(read) if checked_first else 0.0
        with unchecked():
            bare = seconds(read)
        pairs.append((first if checked_first else seconds(read), bare))
    checked, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
    return checked, bare, statistics.median(a / b for a, b in pairs) - 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--repeats", type=int, default=100)
    options = parser.parse_args(arguments)
    checked, bare, cost = measure(options.dataset, options.repeats)
    print(f"{1000 * checked:.2f} ms a clip with all checks, {1000 * bare:.2f} ms without: {100 * cost:+.2f} %")
    return 0


if __name__ == "__main__":
    sys.exit(main())
