"""A profile of some steps of a stage: torch's trace, a table of the largest costs, and on CUDA the memory's history."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field
from torch.autograd import DeviceType
from torch.profiler import profile, record_function, supported_activities

from phys4d.engine.config import Config
from phys4d.engine.distributed.collectives import on_all_ranks
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError, printable
from phys4d.engine.storage import disk_fault, replace_text

_ROWS, _NAME = 40, 80  # of the table: rows, and characters of a name
_NAMED = 5  # largest costs in the line that is printed
_ALLOCATIONS = 200_000  # that the memory's history holds


class ProfileConfig(Config):
    """The table `profile` of a stage's `loop`.

    start: number of the first step that is recorded, as log lines count steps, from 1.
    steps: number of steps that are recorded.
    ranks: "first" records rank 0 alone, "all" every rank.
    """

    start: int = Field(ge=1)
    steps: int = Field(3, ge=1)
    ranks: Literal["first", "all"] = "first"

    @property
    def last(self) -> int:
        """Number of the last step that is recorded."""
        return self.start + self.steps - 1


class Profiler:
    """Records the steps that `config` names into files of `folder`; a context, behind which nothing is recorded.

        steps-10-12.rank0.trace.json.gz      for chrome://tracing and ui.perfetto.dev
        steps-10-12.rank0.table.txt          the operators that took the most time
        steps-10-12.rank0.costs.json         the same for programs: name, calls, seconds of its own, share of all
        steps-10-12.rank0.memory.pickle      CUDA: allocations, for pytorch.org/memory_viz

    A resumed session records what remains of the steps. A session that ends within them writes nothing.
    """

    def __init__(self, config: ProfileConfig | None, folder: Path, parallel: Parallel) -> None:
        self._config, self._folder, self._parallel = config, folder, parallel
        self._writes = config is not None and (parallel.rank == 0 or config.ranks == "all")
        self._profile: profile | None = None
        self._first = 0

    def records(self, number: int) -> bool:
        """Whether step `number`, from 1, is recorded on any rank."""
        return self._config is not None and self._config.start <= number <= self._config.last

    def step(self, number: int) -> AbstractContextManager[Any]:
        """Context of step `number`."""
        if not self._writes or not self.records(number):
            return nullcontext()
        if self._profile is None:
            self._start(number)
        return record_function(f"step {number}")

    def finish(self, number: int) -> float:
        """Writes the files behind the last recorded step; a collective there. Returns the seconds that this took.

        Raises UserError, on all ranks, if the disk does not accept the files.
        """
        if self._config is None or number != self._config.last:
            return 0.0
        since = time.perf_counter()
        with self._parallel.at("writing the profile"):
            on_all_ranks(self._write)
        return time.perf_counter() - since

    def _start(self, number: int) -> None:
        self._first = number
        if self._on_cuda:
            torch.cuda.memory._record_memory_history(max_entries=_ALLOCATIONS)
        self._profile = profile(activities=supported_activities(), record_shapes=True, profile_memory=True)
        self._profile.start()

    @property
    def _on_cuda(self) -> bool:
        return self._parallel.device.type == "cuda"

    def _write(self) -> None:
        recorded, config = self._profile, self._config
        if recorded is None or config is None:
            return
        if self._parallel.device.type != "cpu":
            torch.accelerator.synchronize()
        recorded.stop()
        self._profile = None
        name = f"steps-{self._first}-{config.last}.rank{self._parallel.rank}"
        sort = "self_cpu_time_total" if self._parallel.device.type == "cpu" else "self_device_time_total"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            _whole(self._folder / f"{name}.trace.json.gz", recorded.export_chrome_trace)
            averages = recorded.key_averages()
            table = averages.table(sort_by=sort, row_limit=_ROWS, max_name_column_width=_NAME)
            replace_text(self._folder / f"{name}.table.txt", table)
            costs = _costs(averages, sort)
            replace_text(self._folder / f"{name}.costs.json", json.dumps(costs, indent=1) + "\n")
            if self._on_cuda:
                _whole(self._folder / f"{name}.memory.pickle", torch.cuda.memory._dump_snapshot)
        except OSError as error:
            reason = disk_fault(error) or error.strerror
            raise UserError(f"{self._folder}: the profile cannot be written: {reason}") from error
        finally:
            self._stop_history()
        if self._parallel.rank == 0:
            most = ", ".join(f"{cost['name']} {cost['share']:.0%}" for cost in costs[:_NAMED])
            where = f"profile of steps {self._first} to {config.last}: {self._folder}"
            print(printable(f"{where}; most of the time: {most}"), file=sys.stderr)

    def _stop_history(self) -> None:
        if self._on_cuda:
            torch.cuda.memory._record_memory_history(enabled=None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._profile is not None:
            self._profile.stop()
            self._profile = None
            self._stop_history()


def _costs(averages: Iterable[Any], key: str) -> list[dict[str, Any]]:
    """The largest costs, the largest first: operators on the CPU; on an accelerator its kernels, without the operators
    that launched them, whose time is the same. key: the attribute of an average that is its own time in microseconds.
    """
    on_device = key == "self_device_time_total"
    times = {
        one.key: (getattr(one, key), one.count)
        for one in averages
        if (one.device_type != DeviceType.CPU) == on_device and not one.is_user_annotation
    }
    whole = sum(time for time, _ in times.values()) or 1
    largest = sorted(times.items(), key=lambda item: -item[1][0])[:_ROWS]
    return [
        {"name": name, "calls": calls, "seconds": time / 1e6, "share": time / whole}
        for name, (time, calls) in largest
        if time > 0
    ]


def _whole(path: Path, write: Callable[[str], Any]) -> None:
    """Calls write(str) with a path beside `path`, to which it is then renamed."""
    partial = path.with_name(f".{path.name}")
    write(str(partial))
    os.replace(partial, path)
