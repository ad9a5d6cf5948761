"""Progress of long work: a bar with rate and remaining time on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from phys4d.engine import environment

_PLAIN_SECONDS = 10.0


class Bar(Protocol):
    """Interface of the object that `progress` yields."""

    def advance(self, count: int = 1, **numbers: float) -> None:
        """Advances by `count` units; `numbers` (such as loss=0.1) are shown until they are replaced."""


class _Silent:
    def advance(self, count: int = 1, **numbers: float) -> None:
        return None


class _Plain:
    """One line at most every 10 seconds, and one at the end."""

    def __init__(self, title: str, total: int, unit: str) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done, self.numbers = 0, dict[str, float]()
        self.start = self.last = time.monotonic()

    def advance(self, count: int = 1, **numbers: float) -> None:
        self.done += count
        self.numbers.update(numbers)
        if time.monotonic() - self.last >= _PLAIN_SECONDS and self.done < self.total:
            self.line()

    def line(self, state: str = "") -> None:
        self.last = time.monotonic()
        seconds = self.last - self.start
        rate = self.done / seconds if seconds > 0 else 0.0
        left = (self.total - self.done) / rate if rate > 0 else 0.0
        clock = f", {left:.0f} s left" if self.done < self.total and not state else f", {seconds:.1f} s"
        count = f"{self.title}: {self.done}/{self.total} {self.unit}"
        print(f"{count}, {rate:.3g}/s{clock}{_numbers(self.numbers)}{state}", file=sys.stderr, flush=True)


class _Rich:
    """A live line of rich: bar, count, rate, time left, numbers."""

    def __init__(self, title: str, total: int, unit: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit + " {task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=Console(stderr=True),
        )
        self.task = self.bar.add_task(title, total=total, rate="", numbers="")
        self.numbers, self.done, self.start = dict[str, float](), 0, time.monotonic()

    def advance(self, count: int = 1, **numbers: float) -> None:
        self.numbers.update(numbers)
        self.done += count
        rate = f"{self.done / max(time.monotonic() - self.start, 1e-9):.3g}/s"
        self.bar.update(self.task, advance=count, rate=rate, numbers=_numbers(self.numbers)[2:])


def _numbers(numbers: dict[str, float]) -> str:
    return "".join(f", {name} {value if isinstance(value, int) else f'{value:.4g}'}" for name, value in numbers.items())


@contextmanager
def progress(title: str, total: int, unit: str = "steps") -> Iterator[Bar]:
    """Context that shows the progress of `total` units of work on standard error.

    On a terminal a live bar; elsewhere a line at most every 10 s and a final one, which says "stopped" if the block
    raised. Silent on ranks other than 0.

    title: name of the work.
    total: number of units.
    unit: plural name of a unit.
    """
    if not environment.is_first():
        yield _Silent()
    elif sys.stderr.isatty():
        live = _Rich(title, total, unit)
        with live.bar:
            yield live
    else:
        plain = _Plain(title, total, unit)
        try:
            yield plain
        except BaseException:
            plain.line(" (stopped)")
            raise
        plain.line()
