"""The process of one slice: runs its cases one after the other and writes the file of the slice after each.

Started by `supervisor`. What it is at stands in a small file that the supervisor reads: the case, the seconds since it
began, and the rival whose call was the last to start. Exit codes: 0, all cases are finished; 3, cases are left, because
the time is over; `LOST`, the device accepts no more work from this process.
"""

import argparse
import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LEFT, LOST = 3, 70
_WIDTH = 512  # bytes of the file of what it is at


class Position:
    """What the process is at, in a file of fixed size that one write replaces."""

    def __init__(self, file: Path) -> None:
        self.handle = os.open(file, os.O_RDWR | os.O_CREAT)
        self.case = ""
        self.began = 0.0

    def begin(self, case: str) -> None:
        """A case begins."""
        self.case, self.began = case, time.time()
        self.rival("")

    def rival(self, name: str) -> None:
        """A call of a rival begins."""
        text = json.dumps({"case": self.case, "began": self.began, "rival": name})
        os.pwrite(self.handle, text.encode()[:_WIDTH].ljust(_WIDTH), 0)

    @staticmethod
    def read(file: Path) -> dict[str, Any]:
        """Case, time of its beginning and rival; an empty dict before the first case, and after the last."""
        text = file.read_bytes().strip() if file.exists() else b""
        found = json.loads(text) if text else {}
        return found if found.get("case") else {}


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The arguments that `supervisor` passes."""
    parser = argparse.ArgumentParser(prog="python -m phys4d.benchmarks.gpu_run.worker")
    parser.add_argument("slice")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--position", type=Path, required=True)
    parser.add_argument("--deadline", type=float, required=True, help="time.time() at which no case may still run")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--stand-in", action="store_true")
    parser.add_argument("--plant", action="append", default=[])
    parser.add_argument("--without", type=json.loads, default={}, help="case -> rival -> reason, as JSON")
    parser.add_argument("--revision")
    return parser.parse_args(arguments)


def work(given: argparse.Namespace) -> int:
    """Runs the slice; returns the exit code."""
    import torch

    from phys4d.benchmarks.comparison import DeviceLost
    from phys4d.benchmarks.gpu_run import cases, environment, plan
    from phys4d.benchmarks.gpu_run.record import Record, RecordError

    part = next(part for part in plan.slices(given.full, given.stand_in) if part.name == given.slice)
    device = torch.device("cpu" if given.stand_in else "cuda")
    if not given.stand_in and not torch.cuda.is_available():
        print("torch finds no CUDA device here; without one: rehearse", flush=True)
        return 2
    record = Record.read(given.out / f"{part.name}.json")
    try:
        record.goes_on(cases.about(part.name, device, given.stand_in, given.revision))
    except RecordError as fault:
        print(fault, flush=True)
        return 2
    counted = environment.Compilations(plan.KERNELS if part.name == "check" and not given.full else None)
    counted.listen()
    before = dict(record.kernels)
    position = Position(given.position)
    for item in part.items:
        if record.finished(item.name):
            continue
        if time.time() + item.seconds > given.deadline:
            break
        if counted.exhausted(item.kernels, int(before["compiled"])):
            record.finish(item.name, "refused", 0, item.seconds, reason=f"over {plan.KERNELS} kernels: --full")
            continue
        position.begin(item.name)
        without = dict(item.without) | given.without.get(item.name, {})
        try:
            state, found = cases.run(part.name, item, device, given.out, without, position.rival, given.stand_in)
        except DeviceLost as fault:
            print(f"{item.name}: {fault}", file=sys.stderr, flush=True)
            os._exit(LOST)  # the usual end would wait for the device
        spent = time.time() - position.began
        record.kernels = _sum(before, counted)
        record.finish(item.name, state, spent, item.seconds, **found)
    position.begin("")
    record.kernels = _sum(before, counted)
    record.write()
    return 0 if all(record.finished(item.name) for item in part.items) else LEFT


def _sum(before: Mapping[str, float], counted: Any) -> dict[str, float]:
    return {
        "compiled": before["compiled"] + counted.compiled, "found": before["found"] + counted.found,
        "seconds": round(before["seconds"] + counted.seconds, 2),
    }  # fmt: skip


def end_with_parent() -> None:
    """Ends this process when its supervisor ends, however that happens; Linux only."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


if __name__ == "__main__":
    end_with_parent()
    chosen = options()
    if chosen.stand_in:
        from phys4d.benchmarks.gpu_run import stand_in

        stand_in.install(chosen.plant)
    sys.exit(work(chosen))
