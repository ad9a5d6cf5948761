"""Runs `phys4d` commands in forked processes that need no import of their own: on several ranks, killed on purpose.

One request a line on standard input, one answer a line on standard output, both JSON:
{"arguments": [...], "ranks": 2, "kill": {"stage": "finetune", "step": 3}, "record": "folder"}
{"codes": [0, 0], "errors": ["", ""]}

kill: SIGKILL when the stage begins that step (from 0); with "moment": n, at the n-th call that changes the disk for
good, in the checkpoint behind that many steps; with "export": true, when the stage's model is written but not yet in
its place; with "behind": "model", when it is in place, or "evaluation", when it is measured; with "rank": n, on that
rank alone. late: {"stage": "backbone", "step": 2}: in that step all the hours of the stage pass by the clock of rank 0.
stop: {"rank": 1, "stage": "finetune", "step": 2}: that rank gets a
SIGSTOP when it begins that step, or, with "sleeps": true, sleeps for ever; stopped processes are killed when all others
have ended. terminate: rank 0 gets two SIGTERMs, three seconds apart, when the other one is stopped. crash: {"disk":
"folder", "rank": 1, "moment": 5}: SIGKILL before that operation of that rank on files, and what no rank has synced is
lost below the folder (crashes.py); the answer says how many "operations" each rank made. fill: {"file": "path",
"leave": bytes, "step": 3}: in this step of `backbone` the first rank fills the disk with that file up to so many bytes.
poison: {"rank": 1, "step": 3, "factor": 1e3}: in this step of `backbone` the pixels of that rank's clips are multiplied
by it; without "factor" none is a number.
record: rewards, conditions and noise keys of `reinforce` go there.
chaos: {"signal": 9, "ranks": [0, 1], "after": 2.5}: these ranks get the signal at that instant (instants.py).
drawn: the names of the clips of every batch go to this folder, in files <order>-<step>-<rank>.
measured: the scenes of each batch that a rank evaluates go to this folder; rank 1 takes "seconds" longer for each.
"""

import dataclasses
import json
import math
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch

import phys4d.train
from phys4d.cli import main
from phys4d.clips import Clips
from phys4d.engine import checkpoint
from phys4d.engine.run_folder.clock import Clock
from phys4d.models import folder as model_folder
from phys4d.stages import handover
from phys4d.stages.backbone import BackboneObjective
from phys4d.stages.registry import STAGES
from phys4d.stages.reinforce import ReinforceObjective
from tests.stages.crashes import RankLogs
from tests.stages.instants import Instant, record_batches, record_drawn, wait_for_saves


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(
    stage: str, step: int = 0, moment: int | None = None, export: bool = False, behind: str | None = None
) -> None:
    """Arranges this process's death."""
    objective = STAGES[stage].objective
    update, save = objective.update, checkpoint.save

    def deadly_update(self: Any, now: int, optimizer_step: Any) -> Any:
        if now == step:
            wait_for_saves()
            die()
        return update(self, now, optimizer_step)

    def deadly_save(folder: Path, name: str, done: int, state: Any, **options: Any) -> Path:
        if (name, done) == (stage, step):
            die_at_call(moment or 0)
        return save(folder, name, done, state, **options)

    write = model_folder._write

    def deadly_write(model: Any, weights: Any, partial: Path, card: Any, *, whole: bool) -> None:
        write(model, weights, partial, card, whole=whole)
        if card.stage == stage:
            die()

    if behind is not None:
        owner, name = {"model": (handover, "finish"), "evaluation": (phys4d.train, "check_gate")}[behind]
        next_call = getattr(owner, name)
        setattr(owner, name, lambda *given: die() if stage in given else next_call(*given))
    elif export:
        model_folder._write = deadly_write
    elif moment is None:
        objective.update = deadly_update
    else:
        checkpoint.save = deadly_save


def stop_at(stage: str, step: int, sleeps: bool = False) -> None:
    """Arranges that this process stands still."""
    objective = STAGES[stage].objective
    update = objective.update

    def halted_update(self: Any, now: int, optimizer_step: Any) -> Any:
        if now == step:
            time.sleep(3600) if sleeps else os.kill(os.getpid(), signal.SIGSTOP)
        return update(self, now, optimizer_step)

    objective.update = halted_update


def poison_at(step: int, factor: float = math.nan) -> None:
    """Arranges a batch of a rank that no step should see."""
    batch = Clips.batch

    def poisoned(self: Clips, *given: Any) -> Any:
        got = batch(self, *given)
        return dataclasses.replace(got, video=got.video * factor) if given[-1] == step else got

    Clips.batch = poisoned  # type: ignore[method-assign]


def be_late(stage: str, step: int) -> None:
    """Arranges that a stage's time is up."""
    objective = STAGES[stage].objective
    update = objective.update

    def late_update(self: Any, now: int, optimizer_step: Any) -> Any:
        if now == step:
            Clock.stages = property(lambda clock: {stage: 1e9})
        return update(self, now, optimizer_step)

    objective.update = late_update


def terminate(process: int, stopped: int) -> None:
    """Sends two SIGTERMs to a process, three seconds apart, when the other one is stopped."""
    while "\nState:\tT" not in Path(f"/proc/{stopped}/status").read_text():
        time.sleep(0.1)
    for _ in range(2):
        time.sleep(3)
        os.kill(process, signal.SIGTERM)


def die_at_call(moment: int) -> None:
    """From here on, the call number `moment` that changes the disk is not made."""
    calls = [0]

    def deadly(real: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            if calls[0] == moment:
                die()
            calls[0] += 1
            return real(*arguments, **options)

        return call

    for name in ("fsync", "rename", "replace", "mkdir", "rmdir"):
        setattr(os, name, deadly(getattr(os, name)))


def fill_disk(file: str, leave: int, step: int) -> None:
    """Arranges a full disk."""
    update = BackboneObjective.update

    def filling_update(self: Any, now: int, optimizer_step: Any) -> Any:
        if now == step:
            wait_for_saves()
            Path(file).write_bytes(bytes(shutil.disk_usage(Path(file).parent).free - leave))
        return update(self, now, optimizer_step)

    BackboneObjective.update = filling_update  # type: ignore[method-assign]


def record_rewards(folder: Path, rank: int) -> None:
    """Every reward of `reinforce` is written down with what it was given for."""
    reward = ReinforceObjective._reward
    calls = [0]

    def recorded(self: Any, latents: torch.Tensor, samples: Any, conditions: Any, logged: Any) -> torch.Tensor:
        got = reward(self, latents, samples, conditions, logged)
        video = conditions.take(samples.conditions).video
        kept = {"rng_keys": samples.batch.rng_keys, "video": video, "latents": latents, "reward": got}
        torch.save(kept, folder / f"{calls[0]}-{rank}.pt")
        calls[0] += 1
        return got

    ReinforceObjective._reward = recorded  # type: ignore[method-assign]


def child(
    request: dict[str, Any], rank: int, port: int, errors: Path, logs: RankLogs, chaos: Instant | None
) -> None:
    """The command, in a forked process."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    output = os.open(errors, os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    ranks = request.get("ranks", 1)
    if ranks > 1:
        os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": f"{ranks}"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
    if (kill := dict(request.get("kill", {}))) and kill.pop("rank", rank) == rank:
        kill_at(**kill)
    if (stop := dict(request.get("stop", {}))) and stop.pop("rank") == rank:
        stop_at(**stop)
    if (poison := dict(request.get("poison", {}))) and poison.pop("rank") == rank:
        poison_at(**poison)
    if rank == 0 and (late := request.get("late")):
        be_late(**late)
    if rank == 0 and (fill := request.get("fill")):
        fill_disk(**fill)
    if record := request.get("record"):
        record_rewards(Path(record), rank)
    if drawn := request.get("drawn"):
        record_drawn(Path(drawn), rank)
    if chaos is not None:
        chaos.arrange(rank)
    if measured := request.get("measured"):
        record_batches(Path(measured), rank, request["seconds"])
    if crash := request.get("crash"):
        logs.count(rank, crash.get("moment") if crash.get("rank") == rank else None)
    sys.exit(main(request["arguments"]))


def serve(request: dict[str, Any]) -> dict[str, Any]:
    """Runs one command to its end, on as many ranks as asked."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        errors = [Path(folder) / f"{rank}" for rank in range(request.get("ranks", 1))]
        logs = RankLogs(Path(folder), len(errors))
        chaos = Instant(Path(folder), request["chaos"]) if "chaos" in request else None
        children = []
        for rank, file in enumerate(errors):
            process = os.fork()
            if process == 0:
                status = 1
                try:
                    child(request, rank, port, file, logs, chaos)
                except SystemExit as end:
                    status = int(end.code or 0)
                except BaseException:
                    import traceback

                    traceback.print_exc()
                finally:
                    sys.stderr.flush()
                    os._exit(status)
            children.append(process)
        stands = request.get("stop", {"sleeps": True})
        if request.get("terminate"):
            threading.Thread(target=terminate, args=(children[0], children[stands["rank"]])).start()
        if not stands.get("sleeps"):
            children.append(children.pop(stands["rank"]))
        ended = threading.Event()
        if chaos is not None:
            threading.Thread(target=chaos.strike, args=(list(children), ended)).start()
        codes = []
        for process in children:
            if process == children[-1] and not stands.get("sleeps"):
                os.kill(process, signal.SIGKILL)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
        ended.set()
        answer = {"codes": codes, "errors": [file.read_text() for file in errors]}
        if crash := request.get("crash"):
            answer["operations"] = logs.operations()
            if -signal.SIGKILL in codes:
                logs.drop_unsynced(Path(crash["disk"]))
        return answer


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(serve(json.loads(line))), flush=True)
