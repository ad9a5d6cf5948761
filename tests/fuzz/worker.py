"""Reads mutated inputs in this process, one request a line: python -m tests.fuzz.worker

Request: {"kind": "shard", "seed": 7}; without a seed the worker imports and makes what the kind needs. Answer:
{"outcome": ..., "detail": ..., "peak": MiB, "seconds": ...}. Both are JSON.
"""

import json
import resource
import sys
import time
import traceback
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from phys4d.engine.errors import UserError
from tests.fuzz.kinds import KINDS, Case

ADDRESS_SPACE = 24 << 30  # bytes; torch alone maps several GiB


def written(case: Case, folder: Path) -> Path:
    for name, data in case.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@cache
def sound(kind: str) -> tuple[Case, dict[str, str]]:
    """A sound case of a kind and what is read of it; {} where it is refused for lack of other files."""
    case = KINDS[kind].build()
    with TemporaryDirectory() as folder:
        try:
            return case, KINDS[kind].read(written(case, Path(folder)))
        except UserError:
            return case, {}


def answer(kind: str, seed: int | None = None) -> dict[str, object]:
    """What reading the mutated input `seed` of a kind leads to: same, refused, changed or traceback."""
    case, expected = sound(kind)
    if seed is None:
        return {"outcome": "ready"}
    with TemporaryDirectory() as folder:
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(20_000)  # to make documents that are deeper than any reader takes
        written(KINDS[kind].mutate(dict(case), Random(f"{kind} {seed}")), Path(folder))
        sys.setrecursionlimit(limit)
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        began, before = time.monotonic(), memory("VmRSS")
        outcome, detail = "same", ""
        try:
            read = KINDS[kind].read(Path(folder))
            if other := [name for name, value in read.items() if expected.get(name) != value]:
                outcome, detail = "changed", ", ".join(other)
            elif read.keys() != expected.keys():
                outcome = "refused"
        except UserError as error:
            outcome, detail = "refused", str(error)
            if not detail.isprintable():
                outcome = "traceback"
        except Exception:
            outcome, detail = "traceback", traceback.format_exc()[-1500:]
        return {
            "outcome": outcome, "detail": detail, "peak": memory("VmHWM") - before,
            "seconds": round(time.monotonic() - began, 3),
        }  # fmt: skip


def memory(field: str) -> float:
    """A figure of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    for line in sys.stdin:
        print(json.dumps(answer(**json.loads(line))), flush=True)
