"""What suites of a CPU share: the command line, the file that they write, and memory measured in fresh processes."""

import argparse
import ctypes
import gc
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from phys4d.engine.telemetry import provenance


def growth(work: Callable[[], Any]) -> float:
    """MiB by which this process's peak resident set grows during a call; for a fresh process."""
    # What was there and went again while torch was loaded would hide growth below the peak of that time.
    ballast = torch.ones(max(0, _peak_kib() - _resident_kib()) * 256)
    before = _peak_kib()
    work()
    found = (_peak_kib() - before) / 1024
    assert len(ballast) == 0 or ballast[0] == 1
    return found


def release() -> None:
    """Gives freed memory back to the system, so that what needs it again is seen to; glibc alone can."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def _peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _resident_kib() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() // 1024


def memory(kind: str, case: str, rival: str, shape: Sequence[int]) -> float:
    """What a suite's `grown` finds in a process of its own, with one thread."""
    command = [sys.executable, "-m", f"phys4d.benchmarks.{kind}", "--memory", case, rival, "--shape", *map(str, shape)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout)


def run(kind: str, suite: Any) -> None:
    """Measures every case of a suite, prints its table, and with --out writes <kind>.json and <kind>.md there.

    suite: the namespace of a module with CASES, SHAPE, grown, measure and table; where its shapes are no clips or its
    cases not in float32 also with AXES, QUICK (its small shape) and DTYPE.
    """
    parser = argparse.ArgumentParser(description=suite["__doc__"], formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small shape and few rounds: whether it runs")
    parser.add_argument("--case", nargs="+", choices=suite["CASES"], default=suite["CASES"])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--memory", nargs=2, metavar=("CASE", "RIVAL"), help=argparse.SUPPRESS)
    parser.add_argument("--shape", nargs=len(suite["SHAPE"]), type=int, default=suite["SHAPE"],
                        help=suite.get("AXES", "clips, frames, height, width"))  # fmt: skip
    asked = parser.parse_args()
    shape = suite.get("QUICK", (1, 3, 32, 32)) if asked.quick else tuple(asked.shape)
    if asked.memory:
        torch.set_num_threads(1)
        print(suite["grown"](*asked.memory, shape))
        return
    load, rows = os.getloadavg(), []
    for case in asked.case:
        rows += suite["measure"](case, shape, rounds=3 if asked.quick else 15, threads=(1, 2))
    table = suite["table"](rows)
    print(table)
    if asked.out is not None:
        asked.out.mkdir(parents=True, exist_ok=True)
        result = {
            "kind": kind, "device": "cpu", "dtype": suite.get("DTYPE", "float32"), "rows": rows,
            "provenance": provenance(), "load": {"before": load, "after": os.getloadavg()},
        }  # fmt: skip
        (asked.out / f"{kind}.json").write_text(json.dumps(result, indent=1) + "\n")
        (asked.out / f"{kind}.md").write_text(table + "\n")
