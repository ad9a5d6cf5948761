"""Signals at instants that no step and no operation decides, and evaluations that take one rank longer."""

import os
import threading
import time
from pathlib import Path
from typing import Any

import phys4d.evaluate.run
import phys4d.train
from phys4d.clips import Clips
from phys4d.engine import checkpoint


def wait_for_saves() -> None:
    """Waits until the checkpoint that this process writes in the background is written."""
    for thread in threading.enumerate():
        if thread.name.startswith("checkpoint of step"):
            thread.join()


class Instant:
    """Some ranks get a signal, wherever they are.

    folder: takes what the ranks write down for their parent.
    wanted: {"signal": 9, "ranks": [0, 1], "after": 2.5}: these ranks get it so many seconds after all of them began the
        first stage of the session; with "save": 3, each so many seconds after it began to write its third checkpoint.
    """

    def __init__(self, folder: Path, wanted: dict[str, Any]) -> None:
        self._folder = folder
        self.number, self.ranks = wanted["signal"], wanted["ranks"]
        self.after, self.save = wanted["after"], wanted.get("save")

    def arrange(self, rank: int) -> None:
        """In the process of a rank."""
        execute, real_save, calls = phys4d.train.execute, checkpoint.save, [0]

        def noted_execute(*given: Any, **options: Any) -> None:
            (self._folder / f"began-{rank}").touch()
            execute(*given, **options)

        def counted_save(folder: Path, stage: str, step: int, *given: Any, **options: Any) -> Path:
            calls[0] += 1
            if calls[0] == self.save and rank in self.ranks:
                threading.Timer(self.after, os.kill, (os.getpid(), self.number)).start()
            return real_save(folder, stage, step, *given, **options)

        phys4d.train.execute = noted_execute
        checkpoint.save = counted_save

    def strike(self, children: list[int], ended: threading.Event) -> None:
        """In a thread of the parent of all ranks."""
        while not all((self._folder / f"began-{rank}").exists() for rank in range(len(children))):
            if ended.wait(0.01):
                return
        if self.save is None and not ended.wait(self.after):
            for rank in self.ranks:
                os.kill(children[rank], self.number)


def record_batches(folder: Path, rank: int, seconds: float) -> None:
    """Every batch of an evaluation is written down, and takes rank 1 longer."""
    measure = phys4d.evaluate.run._measure

    def recorded(model: Any, config: Any, clips: Any, scenes: list[int], *given: Any) -> Any:
        with (folder / f"scenes-{rank}").open("a") as file:
            file.write(f"{scenes}\n")
        time.sleep(seconds * rank)
        return measure(model, config, clips, scenes, *given)

    phys4d.evaluate.run._measure = recorded


def record_drawn(folder: Path, rank: int) -> None:
    """The names of the clips of every batch are written down, a file each."""
    batch = Clips.batch

    def recorded(self: Clips, size: int, place: Any, seed: int, stage: str, step: int, *more: Any, **how: Any) -> Any:
        drawn = batch(self, size, place, seed, stage, step, *more, **how)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{stage}-{step}-{rank}").write_text("\n".join(self.latest))
        return drawn

    Clips.batch = recorded  # type: ignore[method-assign]
