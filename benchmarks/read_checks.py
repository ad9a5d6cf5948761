"""What the checks of a dataset's reader cost.

    python -m phys4d.benchmarks.read_checks DATASET ... [--seconds 30] [--out DIR]

Reads each clip in three ways, in turn: as the first time (all checks), as every later time (what depends on the bytes
alone is known, digests and the tables of the mp4 are checked again), and without any check. Processor time, user and
system, is counted. Other work on the machine makes reads slower, never faster, so the lower quartiles of the times of
each clip are compared; the median ratio of the reads of a round, and its quartiles, stand beside that.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count, permutations
from pathlib import Path
from typing import Any
from unittest.mock import patch

from phys4d.benchmarks import results
from phys4d.engine.data import dataset
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.data.decoders import probe
from phys4d.engine.run_folder.provenance import provenance

FIRST, LATER, BARE = "first", "later", "bare"
_ORDERS = tuple(permutations((FIRST, LATER, BARE)))  # what is read later finds more of the file in the caches


@contextmanager
def unchecked(clips: ClipDataset) -> Iterator[None]:
    """Context in which the clips of a dataset are read without checks: as if all had passed them before, and without
    those that are made at every read.
    """
    marks = clips._sound[:]
    clips._sound[:] = b"\1" * len(marks)
    whole, tables = patch.object(dataset, "is_whole", lambda *_: True), patch.object(probe, "check_tables", lambda _: 0)
    with whole, tables:
        yield
    clips._sound[:] = marks


def seconds(clips: ClipDataset, index: int, way: str) -> float:
    """Processor time, user and system, of one read of a clip.

    clips: the dataset. index: of the clip. way: FIRST, LATER or BARE.
    """
    if way == BARE:
        with unchecked(clips):
            return _seconds(clips, index)
    clips._sound[index] = way == LATER
    return _seconds(clips, index)


def _seconds(clips: ClipDataset, index: int) -> float:
    began = time.process_time()
    clips[index]
    return time.process_time() - began


def measure(folder: Path, limit: float) -> dict[str, Any]:
    """Milliseconds of a read in each way, and what it costs beside one without checks, as a ratio minus 1.

    folder: dataset folder.
    limit: processor seconds, in which rounds of the three reads go over its clips in turn; two rounds at least.
    """
    clips = ClipDataset(folder)
    row, began = clips.row(0), time.process_time()
    clips[0]
    times: list[list[dict[str, float]]] = []  # of each round and clip
    for number in count():
        if number >= 2 and time.process_time() - began > limit:
            break
        order = _ORDERS[number % len(_ORDERS)]
        times.append([{way: seconds(clips, index, way) for way in order} for index in range(len(clips))])
    usual = {way: sum(_lower_quartiles(times, way)) for way in _ORDERS[0]}
    found: dict[str, Any] = {name: row[name] for name in ("frames", "height", "width")}
    found |= {"clips": len(clips), "rounds": len(times)} | {way: 1000 * usual[way] / len(clips) for way in usual}
    for way in (FIRST, LATER):
        ratios = [clip[way] / clip[BARE] - 1 for clips_of_round in times for clip in clips_of_round]
        found[f"{way}_cost"] = usual[way] / usual[BARE] - 1
        found[f"{way}_pairs"] = statistics.quantiles(ratios)
    return found


def _lower_quartiles(times: list[list[dict[str, float]]], way: str) -> list[float]:
    """Of the times of each clip. times: of each round and clip, by way. way: of reading."""
    of_clips = ([clip[way] for clip in same] for same in zip(*times, strict=True))
    return [statistics.quantiles(some, method="inclusive")[0] for some in of_clips]


def table(found: dict[str, Any]) -> str:
    """One line for each dataset. found: "rows" of `measure` and their "provenance"."""
    lines = [
        "| clips | ms without checks | first read | cost | pairs | later reads | cost | pairs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        cells = [f"{row['clips']} of {row['frames']} frames of {row['height']} x {row['width']}", f"{row[BARE]:.2f}"]
        for way in (FIRST, LATER):
            low, median, high = (f"{100 * value:.1f}" for value in row[f"{way}_pairs"])
            cells += [f"{row[way]:.2f}", f"{100 * row[f'{way}_cost']:.1f} %", f"{median} ({low} to {high})"]
        lines.append(f"| {' | '.join(cells)} |")
    rounds = ", ".join(str(row["rounds"]) for row in found["rows"])
    return "\n".join((*lines, "", f"Reads of each clip: {rounds}. {results.origin(found['provenance'])}"))


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
