"""`phys4d` as torchrun starts it, with a record of what each step was computed from, and faults on purpose.

torchrun ... -m tests.cluster.worker PLAN train RUN.toml ...

PLAN, JSON: {"record": "folder", "faults": [{"rank": 1, "step": 3, "start": 0, "what": "kill"}], "pause": 0.1}
record: every rank appends {"start", "rank", "step", "samples"} to a file of its own there for every finished step of
`backbone`, and writes its exit code to code-<rank>, if it ends by itself.
faults: in that step (from 0) of that rank, in its start of that number (from 0): "kill" is a SIGKILL, "hang" a sleep
for ever, "warn" a SIGUSR1.
pause: seconds before each step, for runs that something outside ends.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from phys4d.cli import main
from phys4d.stages.backbone import BackboneObjective

SIGNALS = {"kill": signal.SIGKILL, "warn": signal.SIGUSR1}


def started(folder: Path, rank: int) -> int:
    """Which start of this rank it is, from 0: torchrun does not count those after a change of the nodes."""
    with (folder / f"starts-{rank}").open("a") as file:
        file.write("\n")
        return file.tell() - 1


def arrange(plan: dict[str, Any]) -> None:
    """Records the steps of `backbone` and plants the faults."""
    rank, folder = int(os.environ.get("RANK", "0")), Path(plan["record"])
    start, update = started(folder, rank), BackboneObjective.update
    own = [fault for fault in plan.get("faults", ()) if (fault["rank"], fault.get("start", 0)) == (rank, start)]
    faults = {fault["step"]: fault["what"] for fault in own}

    def recorded_update(self: Any, step: int, optimizer_step: Any) -> Any:
        time.sleep(plan.get("pause", 0))
        if (what := faults.get(step)) in SIGNALS:
            os.kill(os.getpid(), SIGNALS[what])
        elif what == "hang":
            time.sleep(3600)
        values = update(self, step, optimizer_step)
        line = {"start": start, "rank": rank, "step": step, "samples": list(self.samples())}
        with (folder / f"samples-{rank}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        return values

    BackboneObjective.update = recorded_update  # type: ignore[method-assign]


if __name__ == "__main__":
    torch.set_num_threads(1)
    plan = json.loads(sys.argv[1])
    arrange(plan)
    code = main(sys.argv[2:])
    (Path(plan["record"]) / f"code-{os.environ.get('RANK', '0')}").write_text(f"{code}")
    sys.exit(code)
