"""The command line and the files of the benchmarks on a CPU, and memory measured in fresh processes."""

import argparse
import ctypes
import gc
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from phys4d.benchmarks import results
from phys4d.engine.run_folder.provenance import provenance


def growth(work: Callable[[], Any]) -> float:
    """MiB by which this process's peak resident set grows during a call; meaningful in a fresh process only."""
    # Loading torch leaves a peak above the present size: without this tensor, growth below that peak would not show.
    ballast = torch.ones(max(0, _peak_kib() - _resident_kib()) * 256)
    before = _peak_kib()
    work()
    found = (_peak_kib() - before) / 1024
    assert len(ballast) == 0 or ballast[0] == 1
    return found


def release() -> None:
    """Returns freed memory to the system, so that its next use counts as growth; works with glibc only."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def over_threads(counts: Sequence[int]) -> Iterator[tuple[int, float]]:
    """Sets each number of threads in torch and yields it with the system's load; restores the old number at the end."""
    before = torch.get_num_threads()
    try:
        for count in counts:
            torch.set_num_threads(count)
            yield count, os.getloadavg()[0]
    finally:
        torch.set_num_threads(before)


def alongside(rows: list[dict[str, Any]], row: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of the other rivals of `row`: of the same case and number of threads."""
    return [r for r in rows if (r["case"], r["threads"]) == (row["case"], row["threads"]) and r is not row]


def _peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _resident_kib() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() // 1024


def memory(kind: str, case: str, rival: str, shape: Sequence[int]) -> float:
    """MiB that a suite's `grown` measures in a new process with one thread."""
    command = [sys.executable, "-m", f"phys4d.benchmarks.{kind}", "--memory", case, rival, "--shape", *map(str, shape)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout)


def run(kind: str, suite: Any) -> None:
    """Measures every case of a suite, prints its table, and with --out writes <kind>.json and <kind>.md there.

    suite: the namespace of a module with CASES, SHAPE, grown, measure and table; with AXES and QUICK (its small shape)
    where SHAPE is not that of clips, and with DTYPE where its cases are not in float32.
    """
    parser = argparse.ArgumentParser(description=suite["__doc__"], formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small shape, few rounds: checks that it runs")
    parser.add_argument("--case", nargs="+", choices=suite["CASES"], default=suite["CASES"])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--memory", nargs=2, metavar=("CASE", "RIVAL"), help=argparse.SUPPRESS)
    parser.add_argument("--shape", nargs=len(suite["SHAPE"]), type=int, default=suite["SHAPE"],
                        help=suite.get("AXES", "clips, frames, height, width"))  # fmt: skip
    options = parser.parse_args()
    shape = suite.get("QUICK", (1, 3, 32, 32)) if options.quick else tuple(options.shape)
    if options.memory:
        torch.set_num_threads(1)
        print(suite["grown"](*options.memory, shape))
        return
    load, rows = os.getloadavg(), []
    for case in options.case:
        rows += suite["measure"](case, shape, rounds=3 if options.quick else 15, threads=(1, 2))
    table = suite["table"](rows)
    print(table)
    if options.out is not None:
        result = {
            "kind": kind, "device": "cpu", "dtype": suite.get("DTYPE", "float32"), "rows": rows,
            "provenance": provenance(), "load": {"before": load, "after": os.getloadavg()},
        }  # fmt: skip
        results.write(options.out / f"{kind}.json", result)
        (options.out / f"{kind}.md").write_text(table + "\n")
