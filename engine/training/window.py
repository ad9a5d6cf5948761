"""What is logged of the steps since the last line: kept on the device, read back once for all of them."""

import math
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.training.optimizer import Loss, OptimizerStep
from phys4d.engine.training.spikes import Course, Spike


class Closed(NamedTuple):
    """What a window holds.

    means: of every scalar over the steps that were not skipped.
    skipped: number and samples of each step that was, on rank 0; elsewhere none.
    spike: the step whose loss leaps most of those whose loss is a spike.
    """

    means: dict[str, float]
    skipped: list[tuple[int, list[str]]]
    spike: Spike | None


class Window:
    """Scalars of the steps since the last log line.

    spike: as of `LoopConfig`.

    steps: number of steps in it.
    in_a_row: steps, at the end of what was closed, whose gradient was not finite; it goes on from window to window.
    latest_norm: the latest gradient norm that was not finite.
    """

    def __init__(self, spike: float = 0.0) -> None:
        self.in_a_row, self.latest_norm = 0, 0.0
        self._course = Course(spike)
        self._open()

    def _open(self) -> None:
        self._rows: list[tuple[int, dict[str, Tensor | float], Sequence[str]]] = []
        self._norms: list[list[Tensor]] = [[]]  # of each step, one for each optimizer step
        self._since = time.perf_counter()

    @property
    def steps(self) -> int:
        """Number of steps since the last line."""
        return len(self._rows)

    def noting(self, optimizer_step: OptimizerStep) -> OptimizerStep:
        """`optimizer_step`, which also records the gradient norm."""

        def noted(losses: Sequence[Loss]) -> Tensor:
            norm = optimizer_step(losses)
            self._norms[-1].append(norm)
            return norm

        return noted

    def without(self, seconds: float) -> None:
        """Leaves so many seconds out of the time of the steps."""
        self._since += seconds

    def add(self, number: int, values: dict[str, Tensor | float], samples: Sequence[str]) -> None:
        """Takes one step: number of finished steps, the scalars that it returned, names of its samples on this rank."""
        kept = {name: v.detach() if isinstance(v, Tensor) else float(v) for name, v in values.items()}
        self._rows.append((number, kept, samples))
        self._norms.append([])

    def close(self, parallel: Parallel) -> Closed:
        """What the window holds, with one host sync; begins the next window."""
        rows, norms = self._rows, self._norms[: len(self._rows)]
        seconds = (time.perf_counter() - self._since) / len(rows)
        shares = parallel.sums([values for _, values, _ in rows])
        flat = torch.stack([norm.detach().to(torch.float64) for step in norms for norm in step] or [torch.zeros(())])
        read, bad = iter(flat.tolist()), []
        steps: list[list[float]] = [[next(read) for _ in step] for step in norms]
        for (number, _, samples), of_step in zip(rows, steps, strict=True):
            infinite = [norm for norm in of_step if not math.isfinite(norm)]
            self.in_a_row = self.in_a_row + 1 if infinite else 0
            if infinite:
                self.latest_norm = infinite[-1]
                bad.append((number, samples))
        skipped = {number for number, _ in bad}
        good = [i for i, (number, _, _) in enumerate(rows) if number not in skipped]
        means = {name: _mean([shares[i][name] for i in good]) for name in shares[0]}
        means["grad_norm"] = _mean([norm for i in good for norm in steps[i]])
        if skipped:
            means["skipped_steps"] = float(len(skipped))
        named: list[tuple[int, list[str]]] = []
        if bad and (gathered := parallel.gather([list(samples) for _, samples in bad])) is not None:
            named = [(number, [name for rank in gathered for name in rank[i]]) for i, (number, _) in enumerate(bad)]
        losses = [(rows[i][0], shares[i]["loss"]) for i in good if "loss" in shares[i]]  # equal on all ranks
        spikes = [spike for number, loss in losses if (spike := self._course.judge(number, loss)) is not None]
        spike = max(spikes, key=lambda spike: spike.loss / spike.usual, default=None)
        if spike is not None:
            (samples,) = (samples for number, _, samples in rows if number == spike.step)
            spike = spike._replace(samples=parallel.gather(list(samples)) or [])
        self._open()
        return Closed(means | {"seconds": seconds}, named, spike)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
