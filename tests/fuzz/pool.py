"""Child processes that read mutated inputs: one that crashes or hangs is counted and replaced."""

import json
import os
import select
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LONGEST, START = 60.0, 600.0  # seconds for one input, and for what a kind imports and makes, on a busy machine
ROOT = Path(__file__).parents[2]


@dataclass
class Counts:
    """outcomes: (kind, outcome) -> number. worst: details of what must not be. peak: MiB of the largest increase while
    one input was read, and seconds: the longest."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    worst: list[str] = field(default_factory=list)
    peak: float = 0.0
    seconds: float = 0.0

    def note(self, kind: str, seed: int, got: dict[str, Any], covered: bool) -> None:
        """Counts what reading one input led to; covered: nothing may be read changed."""
        self.outcomes[kind, got["outcome"]] += 1
        self.peak, self.seconds = max(self.peak, got["peak"]), max(self.seconds, got["seconds"])
        if got["outcome"] in ("traceback", "crash", "hang") or (got["outcome"] == "changed" and covered):
            self.worst.append(f"{kind} {seed}: {got['outcome']}: {got['detail']}")

    def table(self) -> str:
        names = ("same", "refused", "changed", "traceback", "crash", "hang")
        lines = [f"{'kind':10}" + "".join(f"{name:>10}" for name in names)]
        for kind in dict.fromkeys(kind for kind, _ in self.outcomes):
            lines.append(f"{kind:10}" + "".join(f"{self.outcomes[kind, name]:10}" for name in names))
        total = sum(self.outcomes.values())
        return "\n".join([*lines, f"{total} inputs, at most {self.peak:.0f} MiB and {self.seconds:.1f} s for one"])


class Child:
    """One worker process, started again after a crash or a hang."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.ready: set[str] = set()

    def read(self, kind: str, seed: int) -> dict[str, Any]:
        """What reading an input leads to."""
        if kind not in self.ready:
            started = self._ask({"kind": kind}, START)
            assert started["outcome"] == "ready", started
            self.ready.add(kind)
        return self._ask({"kind": kind, "seed": seed}, LONGEST)

    def _ask(self, request: dict[str, Any], longest: float) -> dict[str, Any]:
        """The worker's answer, or {"outcome": "crash" or "hang"}."""
        if self.process is None:
            environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT,
                env=environment, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], longest)
        line = self.process.stdout.readline() if ready else b""
        if line:
            return json.loads(line)
        self.close()
        return {"outcome": "hang" if not ready else "crash", "detail": "", "peak": 0.0, "seconds": 0.0}

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None
            self.ready.clear()


def run(requests: Iterable[tuple[str, int]], covered: Iterable[str], workers: int = 2) -> Counts:
    """Reads the inputs (kind, seed) and counts what happens; covered: kinds of which nothing may be read changed."""
    counts, every, forbidden = Counts(), list(requests), set(covered)

    def share(number: int) -> list[tuple[str, int, dict[str, Any]]]:
        child = Child()
        try:
            return [(kind, seed, child.read(kind, seed)) for kind, seed in every[number::workers]]
        finally:
            child.close()

    with ThreadPoolExecutor(workers) as pool:
        for kind, seed, got in (one for part in pool.map(share, range(workers)) for one in part):
            counts.note(kind, seed, got, kind in forbidden)
    return counts
