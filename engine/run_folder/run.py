"""The run folder: configuration, provenance, metrics and the lock on the folder."""

import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from phys4d.engine import environment
from phys4d.engine.config import Config, dump_toml
from phys4d.engine.errors import UserError, printable
from phys4d.engine.resume import Change, OnResume, accepted
from phys4d.engine.run_folder.clock import Clock
from phys4d.engine.run_folder.launch import AGENTS
from phys4d.engine.run_folder.lock import hold
from phys4d.engine.run_folder.metrics import read_metrics
from phys4d.engine.run_folder.provenance import provenance
from phys4d.engine.run_folder.records import read_record
from phys4d.engine.run_folder.stages import RunRecord, StageRecord
from phys4d.engine.run_folder.tracker import Tracker
from phys4d.engine.signals import keeps
from phys4d.engine.storage import AppendOnlyFile, disk_fault, replace_text


class Run:
    """A run folder: config.toml, provenance.json, metrics.jsonl, clock.json, tensorboard/ and the checkpoints.

    Created by `Run.create`; only rank 0 writes. A kernel lock, released when the process ends in any way, allows one
    process at a time to use a folder. Use it as a context manager, or call `close`. The attribute clock holds the run
    time over all sessions, of which this one counts from `since` (time.monotonic()).
    """

    def __init__(self, folder: Path, *, writes: bool, since: float) -> None:
        self.folder, self.writes = Path(folder), writes
        self.clock = Clock(self.folder / "clock.json", since=since, writes=False)
        self._since = since
        self._lock: IO[str] | None = None
        self._metrics: AppendOnlyFile | None = None
        self._boards: dict[str, Any] = {}
        self._trackers: list[Tracker] = []
        self._provenance: dict[str, Any] = {}
        self._resumed: dict[str, int] = {}

    @classmethod
    def create(
        cls,
        folder: Path,
        config: Config,
        *,
        resume: bool,
        since: float | None = None,
        finished: Collection[str] = (),
        identities: Mapping[str, str] | None = None,
        anew: Collection[str] = (),
        prepare: Callable[[], None] = lambda: None,
        launch: Sequence[str] = (),
        patience: float = 0.0,
    ) -> Self:
        """Starts a run in `folder`, or resumes the one in it.

        folder: run folder.
        config: configuration of this session.
        resume: resume an existing run.
        since: time.monotonic() from which `clock` counts; default: now.
        finished: tables of the configuration whose stages are finished.
        identities: dotted key of a path in the configuration -> digest of its content, which must be unchanged on
            resume; None: not checked.
        anew: tables of the configuration whose stages begin, or begin again: everything in them may change.
        prepare: called on rank 0 when the folder is locked and the changes are accepted, before anything is written.
        launch: the agents of torchrun that started the processes (`launch.agents`), which are recorded.
        patience: for how many seconds rank 0 waits for another process that holds the folder.

        If the configuration of a resumed run differs from the stored one in fields that allow it (`OnResume`), each
        change is printed, recorded in provenance.json and stored.

        Raises UserError if a fresh run finds a run in the folder, a resumed one finds none, a change is not allowed,
        another process holds the folder, or the folder cannot be written.
        """
        writes = environment.place().rank == 0
        run = cls(folder, writes=writes, since=time.monotonic() if since is None else since)
        if writes:
            try:
                run._open(config, resume, finished, identities, anew, prepare, launch, patience)
            except OSError as error:
                run._let_go()
                reason = disk_fault(error) or error.strerror
                raise UserError(f"{folder}: cannot write the run folder: {reason}") from None
            except BaseException:
                run._let_go()
                raise
        keeps(f"{folder}: finished stages and checkpoints are kept: --resume goes on from there")
        return run

    def _open(
        self,
        config: Config,
        resume: bool,
        finished: Collection[str],
        identities: Mapping[str, str] | None,
        anew: Collection[str],
        prepare: Callable[[], None],
        launch: Sequence[str],
        patience: float,
    ) -> None:
        stored = self.folder / "config.toml"
        self._fresh_or_resumed(stored, resume)
        if self.folder.is_symlink() and not self.folder.exists():
            target = os.readlink(self.folder)
            raise UserError(f"{self.folder}: is a link to {target}, which is not there: make that folder first")
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"{self.folder}: is a file, a run needs a folder: choose another")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = hold(self.folder, patience)
        self._fresh_or_resumed(stored, resume)  # again: another run may have used the folder before the lock
        record, taken = self._record(stored, config, resume, finished, identities, anew)
        prepare()
        self.clock = Clock(self.folder / "clock.json", since=self._since)
        self.clock.save()
        for change, mark in taken:
            print(printable(f"resumes with {change}: {mark.effect}"), file=sys.stderr)
            if mark.discards and (stale := self.folder / mark.discards).exists():
                stale.unlink() if stale.is_symlink() else shutil.rmtree(stale)
        self._provenance = record
        self.record(**({AGENTS: list(launch)} if launch or AGENTS in record else {}))
        self._metrics = AppendOnlyFile(self.folder / "metrics.jsonl")
        replace_text(stored, dump_toml(config))  # last: its presence marks the folder as a run

    def _fresh_or_resumed(self, stored: Path, resume: bool) -> None:
        if stored.exists() and not resume:
            raise UserError(
                f"{self.folder}: holds a run already: --resume goes on with it, or choose a new folder"
            )
        if resume and not stored.exists():
            raise UserError(
                f"{self.folder}: no run to resume (it has no config.toml): start it without --resume"
            )

    def _record(
        self,
        stored: Path,
        config: Config,
        resume: bool,
        finished: Collection[str],
        identities: Mapping[str, str] | None,
        anew: Collection[str],
    ) -> tuple[dict[str, Any], list[tuple[Change, OnResume]]]:
        """The new content of provenance.json, and the changes that this session makes."""
        now, path = provenance(), self.folder / "provenance.json"
        if not resume:
            return now | {"identities": identities or {}}, []
        read = read_record(path, RunRecord, "what the files of the run held at its start is no longer known")
        first = now if read is None else read.model_dump(exclude_unset=True)
        known = first.get("identities") or identities or {}
        found = known if identities is None else identities
        taken = accepted(stored, config, finished, known, found, anew)
        if read is not None:
            changed = [{"key": c.key, "from": c.old, "to": c.new, "effect": mark.effect} for c, mark in taken]
            first.setdefault("resumed", []).append(now | {"changed": changed})
        of_finished = {key: digest for key, digest in known.items() if key.split(".")[0] in finished}
        kept = {stage: record for stage, record in first.get("stages", {}).items() if stage not in anew}
        return first | {"identities": {**found, **of_finished}, "stages": kept}, taken

    def record(self, **facts: Any) -> None:
        """Adds facts to provenance.json, replacing earlier ones of the same name; only rank 0 writes."""
        if self.writes:
            self._provenance |= facts
            replace_text(self.folder / "provenance.json", json.dumps(self._provenance, indent=1) + "\n")

    def stage(self, name: str) -> StageRecord:
        """What provenance.json records of a stage; on ranks other than 0 nothing."""
        return StageRecord.model_validate(self._provenance.get("stages", {}).get(name, {}))

    def record_stage(self, name: str, record: StageRecord) -> None:
        """Replaces what provenance.json records of a stage; only rank 0 writes."""
        self.record(stages={**self._provenance.get("stages", {}), name: record.model_dump()})

    def recorded(self, name: str) -> Any:
        """The fact of this name in provenance.json, None if there is none, and on all ranks but 0."""
        return self._provenance.get(name)

    def track(self, tracker: Tracker) -> None:
        """Gives the log lines from here on also to `tracker`, and closes it with the run."""
        self._trackers.append(tracker)

    def resume_at(self, stage: str, step: int) -> None:
        """Removes log lines of `stage` after `step`, and lines that cannot be read, such as one truncated by a kill."""
        self._resumed[stage] = step
        if not self.writes or self._metrics is None:
            return
        self._metrics.close()
        path = self.folder / "metrics.jsonl"
        entries, damaged = read_metrics(path)
        if damaged:
            print(f"{path}: {damaged} damaged or truncated lines are removed", file=sys.stderr)
        kept = [entry for entry in entries if entry["stage"] != stage or entry["step"] <= step]
        replace_text(path, "".join(json.dumps(entry) + "\n" for entry in kept))
        self._metrics = AppendOnlyFile(path)

    def log(self, stage: str, step: int, values: dict[str, float]) -> None:
        """Appends one line {"stage", "step", "time", ...values} to metrics.jsonl, and the same values to TensorBoard.

        stage: name of the stage.
        step: number of finished steps.
        values: scalars by name; a value that is not finite is written as null (JSON has no NaN).

        time is seconds since 1970. Raises UserError if the disk does not accept it.
        """
        if not self.writes or self._metrics is None:
            return
        shown = {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
        line = json.dumps({"stage": stage, "step": step, "time": time.time(), **shown}) + "\n"
        try:
            self._metrics.write(line.encode())
            self._board(stage).scalars(step, values)
            self.clock.tick()
        except OSError as error:
            raise self._not_written(error) from error
        for tracker in self._trackers:
            tracker.scalars(stage, step, values)

    def sync(self) -> None:
        """Waits until the log lines are on the disk, and saves the clock; before a checkpoint, which they belong to."""
        if self._metrics is not None:
            self._metrics.sync()
        self.clock.save()

    def note(self, stage: str, step: int, **facts: str | float) -> None:
        """Appends one line {"stage", "step", "time", ...facts} to metrics.jsonl alone; arguments as of `log`."""
        if not self.writes or self._metrics is None:
            return
        line = json.dumps({"stage": stage, "step": step, "time": time.time(), **facts}) + "\n"
        try:
            self._metrics.write(line.encode())
        except OSError as error:
            raise self._not_written(error) from error

    def noted(self, stage: str, name: str) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl about a stage that have the fact `name`; [] on all ranks but 0."""
        path = self.folder / "metrics.jsonl"
        if not self.writes or not path.exists():
            return []
        return [entry for entry in read_metrics(path)[0] if entry["stage"] == stage and name in entry]

    def _not_written(self, error: OSError) -> UserError:
        return UserError(
            f"{self.folder}: cannot be written: {error.strerror}: --resume goes on from the last checkpoint"
        )

    def _board(self, stage: str) -> Any:
        if stage not in self._boards:
            from phys4d.engine.run_folder.events import Events

            purge = self._resumed.get(stage, 0) + 1
            self._boards[stage] = Events(self.folder / "tensorboard" / stage, purge)
        return self._boards[stage]

    def close(self) -> None:
        """Closes the files and releases the folder."""
        try:
            if self._lock is not None:
                self.clock.save()
        finally:
            self._let_go()

    def _let_go(self) -> None:
        for board in self._boards.values():
            board.close()
        self._boards.clear()
        while self._trackers:
            self._trackers.pop().close()
        if self._metrics is not None:
            self._metrics.close()
        if self._lock is not None:
            self._lock.close()
        self._metrics = self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError) if kind is not None else nullcontext():  # an error is already being raised
            self.close()
