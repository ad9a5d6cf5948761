"""The result of `accelerate`: what was swapped in a model, what was not and why, and how to undo it."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType


def _grouped(entries: dict[str, str]) -> list[str]:
    """Lines of "path (how many): text", blocks that differ only in their number as one."""
    groups: dict[tuple[str, str], int] = {}
    for path, text in entries.items():
        alike = re.sub(r"(?<=\.)\d+(?=\.|$)", "*", path), text
        groups[alike] = groups.get(alike, 0) + 1
    return [f"{path}{f' ({count})' if count > 1 else ''}: {text}" for (path, text), count in groups.items()]


@dataclass
class Accelerated:
    """A model some of whose modules go through this package, until `undo` or the end of a `with` block.

    Attributes:
        model: name of the model's class.
        backend: of `attention`, as asked for.
        swapped: path of an attention module or of a block -> what of it goes through this package.
        left: path of such a module (or name of the model) -> why it was not swapped.
        passed: path of a swapped module -> why the model's own code computed a call all the same. Filled as
            calls are made.
    """

    model: str
    backend: str
    swapped: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    passed: dict[str, str] = field(default_factory=dict)
    _undo_steps: list[Callable[[], object]] = field(default_factory=list, repr=False)

    def undo(self) -> None:
        """Puts the former processors and forwards back; the model then computes the same bits as before."""
        while self._undo_steps:
            self._undo_steps.pop()()

    def __enter__(self) -> "Accelerated":
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        self.undo()

    def __str__(self) -> str:
        lines = [f"{self.model}, backend {self.backend}: {len(self.swapped)} modules swapped"]
        for title, entries in (("swapped", self.swapped), ("not swapped", self.left), ("passed on", self.passed)):
            lines += [f"  {title}  {line}" for line in _grouped(entries)]
        return "\n".join(lines)
