"""Runs slices, each in a process of its own, and survives what happens in them.

A case that crashes its process, or takes longer than its limit, costs only itself: the process is started again behind
it. If a rival was running, the case is run again without that rival, at most `RETRIES` times. The whole call ends
within its minutes; what is left is named and done by the next call with the same folder.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from phys4d.benchmarks.gpu_run import checks, environment, plan, stand_in, worker
from phys4d.benchmarks.gpu_run.record import Record, RecordError

REHEARSED = 300.0  # seconds that a case of a rehearsal may take; other processes may slow the CPU down
LEFT = worker.LEFT  # exit code where cases are left
RETRIES = 2  # further starts of a case, each without the rival that was running when it ended
POLL = 0.2  # seconds
LOG_BYTES = 8 << 20  # of the output of all processes; what follows is left out


@dataclass
class Run:
    """One call.

    Attributes:
        out: folder of the results.
        full: with the checks and rivals that do not fit the essential minutes.
        minutes: the most that the call may take; None: no limit.
        rehearsal: a stand-in takes the place of the GPU.
        plants: faults of the rehearsal.
        revision: of the source, where it is no checkout.
        least: seconds that a case may take, in place of its limit.
        broken: slices whose process ends before any case begins, and why.
    """

    out: Path
    full: bool = False
    minutes: float | None = None
    rehearsal: bool = False
    plants: Sequence[str] = ()
    revision: str | None = None
    least: float | None = None
    began: float = field(default_factory=time.time)
    log: IO[str] | None = None
    broken: list[str] = field(default_factory=list)

    @property
    def end(self) -> float:
        """time.time() at which the call must be over."""
        return self.began + 60 * self.minutes if self.minutes is not None else float("inf")

    def say(self, line: str) -> None:
        """Prints a line, and writes it to the log."""
        print(line, flush=True)
        if self.log is not None:
            self.log.write(line + "\n")
            self.log.flush()


def run(call: Run, slices: Sequence[plan.Slice]) -> int:
    """Runs the slices in order: 0, all is done and right; 1, a case was lost or a check failed; 3, cases are left.

    Raises:
        RecordError: the folder cannot be gone on with.
    """
    call.out.mkdir(parents=True, exist_ok=True)
    with (call.out / "log.txt").open("a") as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RecordError(f"{call.out}: another call is using this folder: wait or give another") from None
        call.log = log
        if call.rehearsal:
            call.say("Rehearsal: no GPU; small shapes in Triton's interpreter, whose times say nothing of any GPU.")
        real = {part.name: part for part in plan.slices(call.full)}
        essential = sum(part.seconds for part in real.values() if part.essential) / 60
        call.say(f"Essential slices together: {essential:.1f} minutes predicted on an {plan.wall.GPU}.")
        left: list[str] = []
        for part in slices:
            predicted = f"{real[part.name].seconds / 60:.1f} minutes predicted on an {plan.wall.GPU}"
            call.say(f"{part.name}: {part.what}; {len(part.items)} cases, {predicted}")
            if time.time() < call.end:
                _slice(call, part)
            left += [f"{part.name} {name}" for name in _summary(call, part)]
        faults = [*call.broken, *(fault for part in slices for fault in _faults(call, part))]
        for fault in faults:
            call.say(fault)
        if left:
            call.say(f"left for the next call with --out {call.out}: {', '.join(left)}")
        call.say(f"this call took {(time.time() - call.began) / 60:.1f} minutes")
    return 1 if faults else 3 if left else 0


def _slice(call: Run, part: plan.Slice) -> None:
    """Runs one slice until its cases are finished or its time is over."""
    without: dict[str, dict[str, str]] = {}
    stop = min(call.end, time.time() + 60 * plan.MINUTES)
    file = call.out / f"{part.name}.json"
    outside = 0
    while any(not Record.read(file).finished(item.name) for item in part.items) and time.time() < stop:
        with tempfile.NamedTemporaryFile() as position:
            code, why = _process(call, part, Path(position.name), stop, without)
            if code in (0, worker.LEFT) or (why == "" and time.time() >= call.end):
                return
            at = worker.Position.read(Path(position.name))
        if code == 2:
            raise RecordError(f"{part.name}: {why}")
        if not at:
            outside += 1
            call.say(f"{part.name}: its process ended outside of a case: {why}")
            if outside == 2:
                call.broken.append(f"{part.name}: {why}, see {call.out / 'log.txt'}")
                return
            continue
        case, rival = at["case"], at["rival"]
        item = next(item for item in part.items if item.name == case)
        known = without.setdefault(case, {})
        if rival and len(known) < RETRIES:
            call.say(f"  {case}: {rival}: {why}; once more without it")
            known[rival] = why
        else:
            record = Record.read(file)
            reason = why + (f", at {rival}" if rival else "")
            record.finish(case, "lost", time.time() - at["began"], item.seconds, reason=reason)
            call.say(f"  {case}: lost: {reason}")


def _process(
    call: Run, part: plan.Slice, position: Path, stop: float, without: dict[str, dict[str, str]]
) -> tuple[int, str]:
    """One process of a slice: its exit code, and why it ended where that was no normal end."""
    command = [
        sys.executable, "-m", "phys4d.benchmarks.gpu_run.worker", part.name, "--out", str(call.out),
        "--position", str(position), "--deadline", str(stop), "--without", json.dumps(without),
        *(["--full"] if call.full else []), *(["--stand-in"] if call.rehearsal else []),
        *(word for plant in call.plants for word in ("--plant", plant)),
        *(["--revision", call.revision] if call.revision else []),
    ]  # fmt: skip
    variables = stand_in.environment() if call.rehearsal else dict(os.environ)
    child = subprocess.Popen(
        command, env=variables | environment.caches(variables), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", start_new_session=True,
    )  # fmt: skip
    tail: list[str] = []
    reader = threading.Thread(target=_copy, args=(child, call, tail), daemon=True)
    reader.start()
    shown = set(Record.read(call.out / f"{part.name}.json").cases)
    least = call.least or (REHEARSED if call.rehearsal else 0.0)
    limits = {item.name: least or item.limit for item in part.items}
    why = ""
    try:
        while child.poll() is None:
            time.sleep(POLL)
            _show(call, part, shown)
            at = worker.Position.read(position)
            if at and time.time() - at["began"] > limits[at["case"]]:
                why = f"no end after {limits[at['case']]:.0f} s"
                break
            if time.time() > call.end:
                break
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        reader.join(5)
    _show(call, part, shown)
    code = child.returncode
    if code == 2:
        return code, tail[-1].strip() if tail else "wrong arguments"
    if not why and code not in (0, 2, worker.LEFT) and time.time() <= call.end:
        last = next((line for line in reversed(tail) if line.strip()), "")
        ended = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        why = f"its process ended by {ended}" + (f" ({last.strip()[:200]})" if code == worker.LOST else "")
    return code, why


def _copy(child: "subprocess.Popen[str]", call: Run, tail: list[str]) -> None:
    """Copies the output of a process to the log, up to its size; keeps the last lines in `tail`."""
    assert child.stdout is not None and call.log is not None
    for line in child.stdout:
        tail[:] = [*tail[-19:], line]
        if call.log.tell() < LOG_BYTES:
            call.log.write(f"    {line}")
            call.log.flush()


def _show(call: Run, part: plan.Slice, shown: set[str]) -> None:
    """Prints a line for every case that was finished since the last call."""
    record = Record.read(call.out / f"{part.name}.json")
    for name in [name for name in record.cases if name not in shown]:
        shown.add(name)
        case = record.cases[name]
        text = f"  {name}: {case['state']}, {case['seconds']:.0f} s of {case['predicted_seconds']:.0f} predicted"
        refused = [row["backend"] for row in case.get("rows", []) if "refused" in row]
        text += f"; without {', '.join(refused)}" if refused else ""
        call.say(text + (f": {case['reason']}" if "reason" in case else ""))


def _summary(call: Run, part: plan.Slice) -> list[str]:
    """Prints the line of a slice; returns the names of the cases that are left."""
    record = Record.read(call.out / f"{part.name}.json")
    done = [item for item in part.items if record.finished(item.name)]
    taken = sum(record.cases[item.name]["seconds"] for item in done)
    expected = sum(item.seconds for item in done)
    kernels = record.kernels
    call.say(
        f"{part.name}: {len(done)} of {len(part.items)} cases in {taken / 60:.1f} minutes, {expected / 60:.1f} "
        f"predicted; kernels: {kernels['compiled']} compiled in {kernels['seconds']:.0f} s, {kernels['found']} found "
        "in the cache"
    )
    return [item.name for item in part.items if not record.finished(item.name)]


def _faults(call: Run, part: plan.Slice) -> list[str]:
    """Lost cases and failed checks of a slice, one line each."""
    record = Record.read(call.out / f"{part.name}.json")
    found = [f"{part.name} {name}: lost: {case['reason']}" for name, case in record.cases.items()
             if case["state"] == "lost"]  # fmt: skip
    if part.name == "check":
        for name, case in record.cases.items():
            found += [f"check {name}: {line}" for line in checks.failures(case.get("rows", []))]
    return found


def again(out: Path, slices: Sequence[plan.Slice]) -> None:
    """Forgets the cases of these slices that were lost or refused, so that the next call runs them again."""
    for part in slices:
        record = Record.read(out / f"{part.name}.json")
        kept: dict[str, Any] = {name: case for name, case in record.cases.items() if case["state"] == "done"}
        if kept != record.cases:
            record.cases = kept
            record.write()
