"""What the checks of a dataset's reader cost.

    python -m phys4d.benchmarks.read_checks DATASET ... [--seconds 30] [--out DIR]

Reads each clip with all checks and without any, in turn, and states the median times and the median ratio of the two
reads of a pair. Without checks, all is left out that is computed only to refuse a clip: SHA-256 and CRC-32, the schema,
the depth of JSON, the tables of mp4s, the entries of a blob, headers of chunks, bytes of masks, signs of depths.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from phys4d.benchmarks import results
from phys4d.engine import json_text
from phys4d.engine.data import dataset
from phys4d.engine.data.clip import blob, schema
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.data.decoders import probe
from phys4d.engine.run_folder.provenance import provenance

CHECKS: Sequence[tuple[Any, str, object]] = (
    (schema, "check_header", None),
    (schema, "check_values", None),
    (schema, "check_depth", None),
    (dataset.clip_json, "check_meta", None),
    (json_text, "_depth", 0),
    (probe, "check_tables", None),
    (blob, "_check_entry", None),
    (blob, "_check_chunk", None),
    (blob, "_check_bools", None),
    (blob, "least_sign", 1),
    (blob, "always_finite", True),
)
"""Module and name of each function that only checks, and what stands for its result."""


class _Any:
    """Equal to every digest, and takes the place of what computes one, without reading the data."""

    def __init__(self, data: bytes = b"") -> None:
        pass

    def hexdigest(self) -> "_Any":
        return self

    def __ne__(self, other: object) -> bool:
        return False


@contextmanager
def unchecked() -> Iterator[None]:
    """Context in which clips are read without checks."""
    with ExitStack() as stack:
        for module, name, result in CHECKS:
            stack.enter_context(patch.object(module, name, lambda *arguments, result=result: result))
        stack.enter_context(patch.object(dataset.hashlib, "sha256", _Any))
        stack.enter_context(patch.object(blob, "zlib", SimpleNamespace(crc32=_Any)))
        yield


def seconds(read: Callable[[], object]) -> float:
    """Processor time of one call."""
    began = time.process_time()
    read()
    return time.process_time() - began


def measure(folder: Path, limit: float) -> dict[str, Any]:
    """Milliseconds of a read with and without checks, medians, and the quartiles of the ratio of a pair, minus 1.

    folder: dataset folder.
    limit: processor seconds, in which pairs of reads go over its clips in turn; two pairs at least.
    """
    clips = ClipDataset(folder)
    row = clips.row(0)
    clips[0]
    times: list[tuple[float, float]] = []
    began = time.process_time()
    for number in count():
        if number >= 2 and time.process_time() - began > limit:
            break
        read = partial(clips.__getitem__, number % len(clips))
        checked_first = (number + number // len(clips)) % 2 == 0  # what is read second finds the file in memory
        first = seconds(read) if checked_first else 0.0
        with unchecked():
            bare = seconds(read)
        times.append((first if checked_first else seconds(read), bare))
    checked, bare = (1000 * statistics.median(column) for column in zip(*times, strict=True))
    low, cost, high = (ratio - 1 for ratio in statistics.quantiles([a / b for a, b in times]))
    size = {name: row[name] for name in ("frames", "height", "width")}
    counts = {"clips": len(clips), "pairs": len(times)}
    return size | counts | {"checked": checked, "bare": bare, "cost": [low, cost, high]}


def table(found: dict[str, Any]) -> str:
    """One line for each dataset. found: "rows" of `measure` and their "provenance"."""
    lines = ["| clips | ms with all checks | ms without | cost: median (quartiles of the pairs) |", "|---|---|---|---|"]
    for row in found["rows"]:
        low, cost, high = (f"{100 * value:.1f}" for value in row["cost"])
        what = f"{row['clips']} of {row['frames']} frames of {row['height']} x {row['width']}"
        times = f"{row['checked']:.2f} | {row['bare']:.2f}"
        lines.append(f"| {what} | {times} | {cost} % ({low} to {high}; {row['pairs']}) |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints a table and writes it on request."""
    parser = argparse.ArgumentParser(prog="python -m phys4d.benchmarks.read_checks")
    parser.add_argument("datasets", nargs="+", metavar="DATASET", type=Path)
    parser.add_argument("--seconds", type=float, default=30.0, help="processor time for each dataset (default: 30)")
    parser.add_argument("--out", type=Path, help="a folder for read-checks.json")
    options = parser.parse_args(arguments)
    found = {"rows": [measure(folder, options.seconds) for folder in options.datasets], "provenance": provenance()}
    print(table(found))
    if options.out is not None:
        results.write(options.out / "read-checks.json", found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
