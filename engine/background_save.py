"""Checkpoints that are written while training goes on: copied to the host's memory first, then written by a thread."""

from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Thread

import torch
import torch.distributed as dist
from torch import Tensor

from phys4d.engine import checkpoint
from phys4d.engine.distributed.collectives import local


class BackgroundSave:
    """Saves the checkpoints of one stage, one at a time; all ranks call the same methods in the same order.

    folder, stage, keep, keep_every: as of `checkpoint.save`.
    group: gloo group of all ranks in which this thread alone communicates; None for one process.
    """

    def __init__(
        self, folder: Path, stage: str, *, keep: int, keep_every: int, group: dist.ProcessGroup | None
    ) -> None:
        self.folder, self.stage, self.keep, self.keep_every = folder, stage, keep, keep_every
        self._group = group
        self._copies: dict[str, Tensor] = {}
        self._thread: Thread | None = None
        self._then: Callable[[], None] = lambda: None
        self._error: BaseException | None = None

    def start(self, step: int, state: Mapping[str, Tensor], then: Callable[[], None]) -> Path:
        """Begins to write the checkpoint of a step and returns its path; waits until the one before is written.

        state: is copied before this returns. then: called by `finish` when the checkpoint is complete.

        Raises what the one before raised.
        """
        self.finish()
        self._copy(state)

        def write() -> None:
            try:
                checkpoint.save(
                    self.folder,
                    self.stage,
                    step,
                    self._copies,
                    keep=self.keep,
                    keep_every=self.keep_every,
                    group=self._group,
                )
            except BaseException as error:
                self._error = error

        # A daemon: a process whose other ranks are gone must be able to end.
        self._thread, self._then = Thread(target=write, name=f"checkpoint of step {step}", daemon=True), then
        self._thread.start()
        return checkpoint.path_of(self.folder, self.stage, step)

    @property
    def failed(self) -> bool:
        """Whether the latest checkpoint could not be written; `finish` raises why."""
        return self._error is not None

    def finish(self) -> None:
        """Waits until the checkpoint that was begun is complete, and raises what its writing raised."""
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        self._then()

    def _copy(self, state: Mapping[str, Tensor]) -> None:
        """Copies the state to the host's memory, pinned where it comes from a CUDA device, which it keeps for the next.
        """
        pinned = False
        for name, tensor in state.items():
            pin = tensor.device.type == "cuda"
            if name not in self._copies:
                self._copies[name] = torch.empty_like(tensor.detach(), device="cpu", pin_memory=pin)
            local(self._copies[name]).copy_(local(tensor.detach()), non_blocking=pin)
            pinned = pinned or pin
        if pinned:
            torch.cuda.synchronize()
